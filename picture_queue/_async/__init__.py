"""The async client; `scripts/unasync.py` writes the sync one from it."""
