"""Realtime: Phoenix channels over a WebSocket; policies protect private topics."""
