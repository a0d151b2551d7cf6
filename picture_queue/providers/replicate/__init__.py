"""The part of the HTTP API of Replicate that generations use."""
