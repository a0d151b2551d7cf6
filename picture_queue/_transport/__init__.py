"""Transports: an `Rpc` reaches the database through one of them."""
