"""Follows a job to its end. An event is a hint, the row is the truth."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from picture_queue import _rpc
from picture_queue._realtime.event_source import EventSource, Listener
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.base import is_transient
from picture_queue.errors import PictureQueueError, WaitTimeout
from picture_queue.records import (
    Job,
    JobEvent,
    Source,
)

#: Seconds between two looks at the row while events come in, and while there is no socket.
POLL_CONNECTED = 5.0
POLL_ALONE = 1.0
#: Seconds until the first look where there will never be a socket; the pauses grow by half.
POLL_FIRST = 0.05


class _Inbox:
    """What the socket says, for one watcher."""

    def __init__(self, job_id: UUID) -> None:
        self._job_id = str(job_id)
        self._items: asyncio.Queue[JobEvent | Source] = asyncio.Queue()
        self.connected = False

    def joined(self) -> None:
        self.connected = True
        self._items.put_nowait("snapshot")

    def lost(self) -> None:
        self.connected = False
        self._items.put_nowait("poll")

    def message(self, event: str, payload: dict[str, Any]) -> None:
        if event != "job" or payload.get("job_id") != self._job_id:
            return
        try:
            self._items.put_nowait(JobEvent.model_validate(payload))
        except ValidationError:
            self._items.put_nowait("snapshot")  # this version cannot read what happened

    async def next(self, timeout: float) -> JobEvent | Source:
        """Returns the next event, or the reason to look at the row."""
        try:
            return await asyncio.wait_for(self._items.get(), timeout)
        except TimeoutError:
            return "poll"


class Watcher:
    """Where watches get their events and rows from.

    Attributes:
        project: Where the rows are.
        subscriptions: The events; None where the project's API is not known.
        wake_ups: What tells workers of new jobs: the database itself where its address is known.
    """

    def __init__(self, project: AsyncBackend) -> None:
        self.project = project
        self.subscriptions: EventSource | None = None
        if project.api is not None:
            from picture_queue._realtime.subscriptions import Subscriptions

            self.subscriptions = Subscriptions(project.api)
        self.wake_ups: EventSource | None = self.subscriptions
        if project.database is not None:
            from picture_queue._realtime.notifications import Notifications

            self.wake_ups = Notifications(project.database.settings)

    def listen(self, topic: str, listener: Listener) -> AbstractContextManager[None]:
        """Tells the listener of the topic's events until the block ends, where there are any."""
        if self.subscriptions is None:
            return nullcontext()
        return self.subscriptions.listen(topic, listener)

    async def aclose(self) -> None:
        """Closes the socket, and the connection that listens."""
        if self.subscriptions is not None:
            await self.subscriptions.aclose()
        if self.wake_ups is not None:
            await self.wake_ups.aclose()


async def follow(
    watcher: Watcher, job_id: UUID | str, timeout: float | None = None
) -> AsyncGenerator[JobEvent, None]:
    """Yields the states of a job, versions strictly rising, until it is finished.

    States may be skipped, the last one never is.

    Args:
        watcher: Where events and rows come from.
        job_id: The job.
        timeout: Longest wait for the end, seconds; None waits as long as the job takes.

    Raises:
        JobNotFound: No such job, or not the caller's.
        WaitTimeout: The job did not finish in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    job = await watcher.project.call(_rpc.get_job(job_id))
    newest = JobEvent.of(job, "snapshot")
    yield newest
    if newest.finished:
        return
    inbox = _Inbox(job.id)
    alone = POLL_ALONE if watcher.subscriptions is not None else POLL_FIRST
    with watcher.listen(_topic(job), inbox):
        while not newest.finished:
            pause = POLL_CONNECTED if inbox.connected else alone
            item = await inbox.next(_patience(pause, deadline, job.id))
            alone = min(alone * 1.5, POLL_ALONE)
            event = (
                item if isinstance(item, JobEvent) else await _look(watcher.project, job.id, item)
            )
            if event is not None and event.version > newest.version:
                newest = event
                yield newest


def _topic(job: Job) -> str:
    return f"pq:user:{job.user_id}" if job.user_id else f"pq:job:{job.id}"


def _patience(pause: float, deadline: float | None, job_id: UUID) -> float:
    if deadline is None:
        return pause
    left = deadline - time.monotonic()
    if left <= 0:
        raise WaitTimeout(f"Job {job_id} did not finish in time", hint="It goes on; watch it again")
    return min(pause, left)


async def _look(project: AsyncBackend, job_id: UUID, reason: Source) -> JobEvent | None:
    try:
        return JobEvent.of(await project.call(_rpc.get_job(job_id)), reason)
    except PictureQueueError as error:
        if is_transient(error):
            return None  # the project is away for now; the next look comes by itself
        raise
