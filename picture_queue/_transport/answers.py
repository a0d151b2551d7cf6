"""Waits for the answer to a statement, with a bound.

psycopg's own waiting has none: a cancelled wait goes on until the server has answered. Here the
caller throws the connection away instead.
"""

import asyncio
import time
from collections.abc import Generator
from typing import Any

from psycopg import waiting
from psycopg.generators import execute
from psycopg.pq.abc import PGconn, PGresult

_TICK = 0.1  # seconds between two looks at the clock while nothing arrives


async def answer_async(connection: PGconn, timeout: float) -> PGresult:
    """Returns the answer to the statement that was sent.

    Args:
        connection: Where it was sent.
        timeout: Longest wait, seconds.

    Raises:
        TimeoutError: It did not come in time; the connection is of no use any more.
    """
    async with asyncio.timeout(timeout):
        results = await waiting.wait_async(execute(connection), connection.socket, interval=timeout)
    result: PGresult = results[0]
    return result


def answer(connection: PGconn, timeout: float) -> PGresult:
    """The same, for callers without an event loop."""
    bounded = _until(execute(connection), time.monotonic() + timeout)
    result: PGresult = waiting.wait(bounded, connection.socket, interval=_TICK)[0]
    return result


def _until(work: Generator[Any, Any, Any], deadline: float) -> Generator[Any, Any, Any]:
    wish = next(work)
    while True:
        ready = yield wish
        if not ready and time.monotonic() > deadline:
            raise TimeoutError
        try:
            wish = work.send(ready)
        except StopIteration as end:
            return end.value
