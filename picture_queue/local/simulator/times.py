"""The times of the API."""

from datetime import UTC, datetime


def iso_time(moment: float) -> str:
    """Return a Unix time as the API writes it."""
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")
