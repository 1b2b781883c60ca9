"""The comparison of FlexIP with its baselines and ablations; `jobs.reproduce` is its entry."""
