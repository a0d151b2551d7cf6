"""`follow_batch` for callers without an event loop."""

import contextlib
from collections.abc import Generator
from uuid import UUID

from picture_queue._realtime import follow as asynchronous
from picture_queue._realtime import follow_batch as asynchronous_batch
from picture_queue._realtime.sync_follow import Events, Watcher
from picture_queue.records import GenerationBatch


def follow_batch(
    watcher: Watcher, batch_id: UUID | str, timeout: float | None = None
) -> Generator[GenerationBatch, None, None]:
    """Yield the states of a batch until all its generations have ended; see the async function."""
    asynchronous.check_timeout(timeout)

    async def forward(source: asynchronous.Watcher, events: Events) -> None:
        states = asynchronous_batch.follow_batch(source, batch_id, timeout)
        async with contextlib.aclosing(states):
            async for state in states:
                events.put(state)

    return watcher.run(forward)
