# Written by scripts/unasync.py from picture_queue/_async/__init__.py: edit that file.

"""The async client; `scripts/unasync.py` generates the sync client from it."""
