"""The benchmark of generations."""
