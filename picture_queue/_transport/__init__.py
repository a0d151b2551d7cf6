"""Transports, which execute an `Rpc` through the HTTP API or in the database directly."""
