"""Benchmarks of the SQL functions, called over direct connections without a worker or HTTP."""
