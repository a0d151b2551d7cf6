"""Ways to make an `Rpc`: `base` has what they share, `postgrest` goes over HTTPS."""
