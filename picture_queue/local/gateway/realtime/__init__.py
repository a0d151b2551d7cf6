"""Realtime: Phoenix channels over a WebSocket; policies in the database protect private ones."""
