"""The header ``Retry-After``, https://www.rfc-editor.org/rfc/rfc9110#field.retry-after."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: The longest wait that is returned, in seconds. A worker makes no calls during the wait, so a
#: wrong header must not stop it for hours.
MAX_RETRY_AFTER = 300.0


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds that a server asks the client to wait, at most `MAX_RETRY_AFTER`.

    Args:
        value: The value of the header: seconds, or an HTTP date.

    Returns:
        The seconds; None if the header is absent or unreadable.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return min(max(0.0, seconds), MAX_RETRY_AFTER) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    try:
        at = parsedate_to_datetime(date)
    except (ValueError, IndexError, OverflowError):
        return math.nan
    return (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
