"""Generations: the handler that makes pictures with a provider, and pays once for each."""
