"""Realtime: Phoenix channels over a WebSocket, private ones guarded by policies in the database."""
