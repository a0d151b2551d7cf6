"""Follow a batch of generations until all have ended, by events and by reads of the batch.

An event only says that something changed, so each state is read.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from typing import Any
from uuid import UUID

from picture_queue import _rpc
from picture_queue._log import Log
from picture_queue._realtime.follow import (
    CONNECTED_POLL_INTERVAL,
    FIRST_POLL_INTERVAL,
    POLL_INTERVAL,
    READ_TIMEOUT,
    Inbox,
    Stall,
    Watcher,
    check_timeout,
)
from picture_queue._transport.base import is_transient
from picture_queue.errors import PictureQueueError, WaitTimeout
from picture_queue.records import GenerationBatch, JobExplanation

_log = Log(__name__)

#: Seconds between two reads after events, plus the time per generation of the batch.
_READ_INTERVAL = 0.2
_READ_INTERVAL_PER_GENERATION = 0.002
#: Seconds after the deadline in which the last calls may still be answered.
_LAST_CALL_TIMEOUT = 0.7


def follow_batch(
    watcher: Watcher, batch_id: UUID | str, timeout: float | None = None
) -> AsyncGenerator[GenerationBatch, None]:
    """Yield the states of a batch until all its generations have ended.

    Args:
        watcher: The sources of events and rows.
        batch_id: The id of the batch.
        timeout: Seconds to wait for the end of the batch; None: no limit.

    Raises:
        InvalidArgument: The timeout is not a number of seconds, or below zero.
        BatchNotFound: No such batch, or it belongs to another user.
        WaitTimeout: The batch did not end in time.
    """
    return _BatchFollower(watcher, batch_id, check_timeout(timeout)).states()


class _BatchFollower:
    """One wait for a batch. All its calls end by the deadline of the wait."""

    def __init__(self, watcher: Watcher, batch_id: UUID | str, timeout: float) -> None:
        self._watcher = watcher
        self._batch_id = batch_id
        self._timeout = timeout
        self._deadline = math.inf
        self._project_answers = True

    async def states(self) -> AsyncGenerator[GenerationBatch, None]:
        self._deadline = time.monotonic() + self._timeout
        newest = await self._read_first()
        yield newest
        inbox = _BatchInbox(newest)
        interval = FIRST_POLL_INTERVAL
        pause = _READ_INTERVAL + newest.total * _READ_INTERVAL_PER_GENERATION
        # The events of a batch without an owner have a topic for each job, so it is polled.
        stall = Stall()
        listens = newest.user_id is not None and not newest.finished
        topic = f"pq:user:{newest.user_id}"
        with self._watcher.listen(topic, inbox) if listens else nullcontext():
            while not newest.finished:
                wait = CONNECTED_POLL_INTERVAL if inbox.connected else interval
                if self._project_answers:
                    wait = min(wait, stall.seconds_until_due)
                await inbox.next(min(wait, self._remaining()))
                interval = min(interval * 1.5, max(POLL_INTERVAL, pause))
                inbox.clear()
                found = await self._read()
                if found is not None:
                    # A retried generation starts at 0 again.
                    progress = max(found.progress, newest.progress)
                    found = found.model_copy(update={"progress": progress})
                    if found != newest:
                        newest, stall = found, Stall()
                        yield newest
                    elif not stall.seconds_until_due:
                        explanation = stall.drop_repeated(await self._explain(newest))
                        if explanation is not None:
                            yield newest.model_copy(update={"explanation": explanation})
                if self._remaining() < 0.01 and not newest.finished:
                    raise await self._timeout_error(newest)
                if inbox.connected and not newest.finished:
                    await asyncio.sleep(min(pause, self._remaining()))

    async def _read_first(self) -> GenerationBatch:
        try:
            async with asyncio.timeout(self._remaining() + _LAST_CALL_TIMEOUT):
                return await self._watcher.backend.call(_rpc.generation_batch(self._batch_id))
        except TimeoutError as error:
            raise WaitTimeout(
                f"Batch {self._batch_id} was not read within {self._timeout:g} s",
                detail="The project does not answer",
                hint="The batch continues; wait for it again",
            ) from error

    async def _read(self) -> GenerationBatch | None:
        """Read the batch; return None if the project does not answer."""
        timeout = min(READ_TIMEOUT, self._remaining() + _LAST_CALL_TIMEOUT)
        try:
            async with asyncio.timeout(timeout):
                found = await self._watcher.backend.call(_rpc.generation_batch(self._batch_id))
            self._project_answers = True
            return found
        except (PictureQueueError, TimeoutError) as error:
            if isinstance(error, PictureQueueError) and not is_transient(error):
                raise
            if self._project_answers and self._remaining():
                self._project_answers = False
                _log.warning(
                    "The project does not answer; the wait for batch %s continues: %s",
                    self._batch_id,
                    str(error) or f"nothing within {timeout:g} s",
                )
            return None

    async def _timeout_error(self, newest: GenerationBatch) -> WaitTimeout:
        explanation = await self._explain(newest)
        error = WaitTimeout(
            f"Batch {self._batch_id} did not end within {self._timeout:g} s",
            detail="The project does not answer" if explanation is None else explanation.detail,
            hint="The batch continues; wait for it again",
        )
        error.explanation = explanation
        return error

    async def _explain(self, batch: GenerationBatch) -> JobExplanation | None:
        """Return the reason why the first job that has not ended does not run; None: unknown."""
        open_jobs = [
            entry.job_id for entry in batch.generations if entry.status in ("pending", "processing")
        ]
        timeout = min(READ_TIMEOUT, self._remaining() + _LAST_CALL_TIMEOUT)
        try:
            async with asyncio.timeout(timeout):
                rpc = _rpc.explain_jobs(open_jobs[:1])
                return (await self._watcher.backend.call(rpc))[0]
        except (PictureQueueError, TimeoutError) as error:
            _log.debug("Cannot read why batch %s does not run: %s", self._batch_id, error)
            return None

    def _remaining(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


class _BatchInbox(Inbox):
    """The listener of one wait: requests to read the batch again."""

    def __init__(self, batch: GenerationBatch) -> None:
        super().__init__(batch.id)
        self._job_ids = {str(entry.job_id) for entry in batch.generations}

    def message(self, event: str, payload: dict[str, Any]) -> None:
        if event == "job" and payload.get("job_id") in self._job_ids:
            self._items.put_nowait("snapshot")

    def clear(self) -> None:
        """Drop requests that the next read answers."""
        while not self._items.empty():
            self._items.get_nowait()
