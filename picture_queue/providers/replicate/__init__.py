"""A client of Replicate's HTTP API, for the part that generations use."""
