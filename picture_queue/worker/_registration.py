"""The row of a worker in the database: written at its start, removed at its end."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from picture_queue import _rpc
from picture_queue._log import Log
from picture_queue._transport.base import Deadline
from picture_queue.errors import Busy, ConnectionFailed
from picture_queue.records import Version
from picture_queue.worker._calls import RetryDelay

if TYPE_CHECKING:
    from picture_queue._transport.backend import AsyncBackend

_log = Log(__name__)

# Seconds for an answer, retries included.
_REGISTER_TIMEOUT = 60.0
_REGISTER_CALL_TIMEOUT = 10.0  # for each attempt, since a dead connection never answers
_UNREGISTER_TIMEOUT = 3.0


async def register(
    backend: "AsyncBackend",
    worker: str,
    queues: Sequence[str],
    policies: dict[str, dict[str, Any]],
) -> Version:
    """Register a worker. Retry for a minute, since the project may be restarting.

    Raises:
        PictureQueueError: The project does not answer, or refuses the call.
    """
    deadline, delay = Deadline(_REGISTER_TIMEOUT), RetryDelay()
    while True:
        try:
            call = _rpc.register_worker(worker, queues, policies)
            return await backend.call(call, min(deadline.remaining(), _REGISTER_CALL_TIMEOUT))
        except (Busy, ConnectionFailed) as error:
            pause = max(delay.next(), error.retry_after or 0.0)
            if pause >= deadline.remaining():
                raise
            _log.warning("The worker cannot register and tries again: %s", error)
        await asyncio.sleep(pause)


async def unregister(backend: "AsyncBackend", worker: str) -> None:
    """Remove a worker. After a failure, the database stops listing the worker within a minute."""
    with contextlib.suppress(Exception):
        await backend.call(_rpc.unregister_worker(worker), _UNREGISTER_TIMEOUT)
