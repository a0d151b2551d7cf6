"""The handler that generates pictures with a provider, and pays only once for each generation."""
