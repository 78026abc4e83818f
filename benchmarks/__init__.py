"""Measurements, printed as a table and written to benchmarks/results.json: ``make bench``."""
