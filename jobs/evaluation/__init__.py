"""What `jobs.evaluate` does with a benchmark: methods draw on Ray, the driver scores and writes the report."""
