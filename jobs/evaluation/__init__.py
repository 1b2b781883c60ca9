"""What `jobs.evaluate` does: methods draw on Ray, the driver scores and writes the report."""
