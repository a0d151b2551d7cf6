"""The format of times in Replicate's API."""

from datetime import UTC, datetime


def iso_time(unix_time: float) -> str:
    """Return a Unix time in the format of Replicate's API: ISO 8601 in UTC with milliseconds."""
    text = datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
