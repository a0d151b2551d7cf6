"""The memory of this process, and a check that it stays below a limit."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

_STATM = Path("/proc/self/statm")
_CHECK_INTERVAL = 1.0  # seconds


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None if the system does not tell it."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


async def watch_memory(limit: int, on_exceeded: Callable[[int], None]) -> None:
    """Call a function with the resident memory once it is above a limit, and return.

    Args:
        limit: The limit in bytes.
        on_exceeded: The function.
    """
    while (used := resident_bytes()) is not None:
        if used > limit:
            on_exceeded(used)
            return
        await asyncio.sleep(_CHECK_INTERVAL)
