"""Follow a job until it has finished, by events and by reads of its row.

Events may be lost or late, so only the row is authoritative.
"""

import asyncio
import logging
import math
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ValidationError

from picture_queue import _rpc
from picture_queue._log import Log
from picture_queue._realtime.event_source import EventSource
from picture_queue._rpc import Rpc
from picture_queue._transport.backend import AsyncBackend
from picture_queue._transport.base import is_transient
from picture_queue.errors import ConnectionFailed, InvalidArgument, PictureQueueError, WaitTimeout
from picture_queue.records import Generation, Job, JobEvent, JobExplanation, Source

T = TypeVar("T")

_log = Log(__name__)

#: Seconds between two reads of the row, with and without a connection that delivers events.
CONNECTED_POLL_INTERVAL = 5.0
POLL_INTERVAL = 1.0
#: Seconds until the first read if the client has no source of events. Each following interval is
#: 1.5 times as long, up to POLL_INTERVAL.
FIRST_POLL_INTERVAL = 0.05
#: Seconds to wait for one read. Events wait in the inbox during a read, so a read must not last
#: until the deadline.
READ_TIMEOUT = 5.0
#: Seconds without a change before the first `explain_jobs`. Each following interval is twice as
#: long, up to EXPLAIN_MAX_INTERVAL.
EXPLAIN_INTERVAL = 3.0
EXPLAIN_MAX_INTERVAL = 60.0
#: Seconds after the deadline in which the last calls may still be answered. A wait exceeds its
#: timeout by at most this time, so the value is below 1.
_LAST_CALL_TIMEOUT = 0.7

#: Reasons that an operator has to resolve; they are logged as warnings.
_NEED_OPERATOR = frozenset(
    {"no_worker", "queue_paused", "key_paused", "no_maintenance", "step_failed", "lease_expired"}
)


class Watcher:
    """The sources of events and rows for all waits of one client.

    Attributes:
        backend: The backend that reads the rows.
        subscriptions: The source of events; None if the client does not use the API.
        wake_ups: The source of wake-ups for workers: the database if it is configured, otherwise
            the API.
    """

    def __init__(self, backend: AsyncBackend) -> None:
        self.backend = backend
        self._inboxes: set[Inbox] = set()
        self.subscriptions: EventSource | None = None
        if backend.api is not None:
            from picture_queue._realtime.subscriptions import Subscriptions

            self.subscriptions = Subscriptions(backend.api)
        self.wake_ups: EventSource | None = self.subscriptions
        if backend.database is not None:
            from picture_queue._realtime.notifications import Notifications

            self.wake_ups = Notifications(backend.database.settings)

    @contextmanager
    def listen(self, topic: str, inbox: "Inbox") -> Iterator[None]:
        """Deliver the events of a topic until the block ends, if the client has a source."""
        source = self.subscriptions
        self._inboxes.add(inbox)
        try:
            with nullcontext() if source is None else source.listen(topic, inbox):
                yield
        finally:
            self._inboxes.discard(inbox)

    async def aclose(self) -> None:
        """End all waits, and close the sources of events."""
        for inbox in self._inboxes:
            inbox.close()
        if self.subscriptions is not None:
            await self.subscriptions.aclose()
        if self.wake_ups is not None:
            await self.wake_ups.aclose()


def check_timeout(timeout: float | None) -> float:
    """Validate a timeout and return it in seconds; infinity for None.

    Raises:
        InvalidArgument: The timeout is not a number of seconds, or below zero.
    """
    if timeout is None:
        return math.inf
    if isinstance(timeout, int | float) and timeout >= 0:
        return float(min(timeout, sys.float_info.max))
    raise InvalidArgument(
        f"`timeout` is {timeout!r}", hint="Pass seconds, 0 or more, or None for no limit"
    )


def follow(
    watcher: Watcher, target: Rpc[Any], timeout: float | None = None
) -> AsyncGenerator[JobEvent, None]:
    """Yield the states of a job in order of their versions, until it has finished.

    Intermediate states may be skipped, but not the final one. If a job does not run, its newest
    state is yielded again with the reason, and again when the reason changes.

    Args:
        watcher: The sources of events and rows.
        target: The call that reads the job, or the generation of the job.
        timeout: Seconds to wait for the end of the job; None: no limit.

    Raises:
        InvalidArgument: The timeout is not a number of seconds, or below zero.
        JobNotFound: No such job, or it belongs to another user.
        WaitTimeout: The job did not finish in time.
    """
    return _JobFollower(watcher, check_timeout(timeout)).events(target)


async def wait_for_job(watcher: Watcher, target: Rpc[Any], timeout: float | None = None) -> Job:
    """Wait until a job has finished, log why it does not run, and return its row.

    Args:
        watcher: The sources of events and rows.
        target: The call that reads the job.
        timeout: Seconds to wait for the end of the job; None: no limit.

    Raises:
        PictureQueueError: For the same reasons as in `follow`.
    """
    follower = _JobFollower(watcher, check_timeout(timeout))
    logged = set()
    async with aclosing(follower.events(target)) as events:
        async for event in events:
            reason = event.explanation
            if reason is not None and (reason.reason, reason.key) not in logged:
                logged.add((reason.reason, reason.key))
                level = logging.WARNING if reason.reason in _NEED_OPERATOR else logging.INFO
                message = "Job %s (%s) waits: %s"
                _log.log(level, message, event.job_id, event.job_type, reason.detail)
    job = follower.job
    if not job.finished:  # the final state came as an event, which has no result
        job = await follower.read_target(_rpc.get_job(job.id))
    return job


class _JobFollower:
    """One wait for a job. All its calls end by the deadline of the wait.

    Attributes:
        job: The row as it was last read.
    """

    job: Job

    def __init__(self, watcher: Watcher, timeout: float) -> None:
        self._watcher = watcher
        self._timeout = timeout
        self._deadline = math.inf
        self._project_answers = True

    async def events(self, target: Rpc[Any]) -> AsyncGenerator[JobEvent, None]:
        self._deadline = time.monotonic() + self._timeout
        self.job = await self.read_target(target)
        job_id, newest = self.job.id, JobEvent.of(self.job, "snapshot")
        yield newest
        inbox, stall = Inbox(job_id), Stall()
        interval = POLL_INTERVAL if self._watcher.subscriptions is not None else FIRST_POLL_INTERVAL
        with nullcontext() if newest.finished else self._watcher.listen(_topic(self.job), inbox):
            while not newest.finished:
                wait = CONNECTED_POLL_INTERVAL if inbox.connected else interval
                if self._project_answers:
                    wait = min(wait, stall.seconds_until_due)
                item = await inbox.next(self._remaining(wait))  # an event, or a reason to read
                interval = min(interval * 1.5, POLL_INTERVAL)
                if self._deadline_has_passed:
                    event: JobEvent | None = await self._check_at_deadline(job_id)
                elif isinstance(item, JobEvent):
                    event = item
                else:
                    event = await self._read(job_id, item)
                if event is not None and event.version > newest.version:
                    newest = event
                    stall = Stall()
                    yield newest
                elif self._project_answers and not stall.seconds_until_due:
                    explanation = stall.drop_repeated(await self._explain(job_id))
                    if explanation is not None:
                        yield newest.model_copy(
                            update={"explanation": explanation, "source": "poll"}
                        )

    async def read_target(self, target: Rpc[Any]) -> Job:
        """Read the job, or the job of the generation that the call returns.

        Raises:
            WaitTimeout: The project did not answer before the deadline.
        """
        try:
            async with asyncio.timeout(self._remaining(math.inf, _LAST_CALL_TIMEOUT)):
                row: Job | Generation = await self._watcher.backend.call(target)
                if isinstance(row, Generation):
                    row = await self._watcher.backend.call(_rpc.get_job(row.job_id))
        except TimeoutError as error:
            name, value = next(iter(target.params.items()))
            subject = f"{name.removesuffix('_id').capitalize()} {value}"
            raise self._timeout_error(f"{subject} was not read", None) from error
        return row

    async def _check_at_deadline(self, job_id: UUID) -> JobEvent:
        """Return the final state of the job if it has finished at the deadline.

        Raises:
            WaitTimeout: The job has not finished.
        """
        explanation = await self._explain(job_id, _LAST_CALL_TIMEOUT)
        if explanation is not None and explanation.reason == "finished":
            event = await self._read(job_id, "poll", _LAST_CALL_TIMEOUT)
            if event is not None:
                return event
        raise self._timeout_error(f"Job {job_id} did not finish", explanation)

    def _timeout_error(self, failure: str, explanation: JobExplanation | None) -> WaitTimeout:
        error = WaitTimeout(
            f"{failure} within {self._timeout:g} s",
            detail="The project does not answer" if explanation is None else explanation.detail,
            hint="The job continues; wait for it again",
        )
        error.explanation = explanation
        return error

    async def _read(self, job_id: UUID, source: Source, extra: float = 0.0) -> JobEvent | None:
        """Read the row and return its state; None if the project does not answer."""
        try:
            self.job = await self._call(_rpc.get_job(job_id), extra)
        except (PictureQueueError, TimeoutError) as error:
            if isinstance(error, PictureQueueError) and not is_transient(error):
                raise
            if self._project_answers and not self._deadline_has_passed:
                self._project_answers = False
                _log.warning(
                    "The project does not answer; the wait for job %s continues: %s",
                    job_id,
                    str(error) or f"nothing within {READ_TIMEOUT:g} s",
                )
            return None
        self._project_answers = True
        return JobEvent.of(self.job, source)

    async def _explain(self, job_id: UUID, extra: float = 0.0) -> JobExplanation | None:
        """Return the reason why the job does not run; None if the project does not answer."""
        try:
            return (await self._call(_rpc.explain_jobs([job_id]), extra))[0]
        except (PictureQueueError, TimeoutError) as error:
            _log.debug("Cannot read why job %s does not run: %s", job_id, error)
            return None

    async def _call(self, rpc: Rpc[T], extra: float) -> T:
        timeout = self._remaining(READ_TIMEOUT, extra)
        if not timeout:
            raise TimeoutError
        async with asyncio.timeout(timeout):
            return await self._watcher.backend.call(rpc)

    @property
    def _deadline_has_passed(self) -> bool:
        return self._remaining(1) < 0.01  # seconds; no call is answered in less time

    def _remaining(self, maximum: float, extra: float = 0.0) -> float:
        """Return the seconds until ``extra`` seconds after the deadline, at most ``maximum``."""
        return min(maximum, max(0.0, self._deadline + extra - time.monotonic()))


class Inbox:
    """The listener of one wait. It queues events, and requests to read the row."""

    def __init__(self, job_id: UUID) -> None:
        self._job_id = str(job_id)
        self._items: asyncio.Queue[JobEvent | Source] = asyncio.Queue()
        self._is_closed = False
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
            self._items.put_nowait("snapshot")  # an event that this version cannot parse

    def close(self) -> None:
        """End the wait: `next` raises from now on."""
        self._is_closed = True
        self._items.put_nowait("poll")

    async def next(self, timeout: float) -> JobEvent | Source:
        """Return the next event, or "snapshot" or "poll" as the reason to read the row.

        Raises:
            ConnectionFailed: The client was closed.
        """
        try:
            item = await asyncio.wait_for(self._items.get(), timeout)
        except TimeoutError:
            item = "poll"
        if self._is_closed:
            raise ConnectionFailed(
                "The client was closed during the wait", hint="Keep it open until the job ends"
            )
        return item


class Stall:
    """The state of a job that has not changed: the time of the next `explain_jobs`, and the reasons
    that were yielded last.
    """

    def __init__(self) -> None:
        self._interval = EXPLAIN_INTERVAL
        self._due_at = time.monotonic() + self._interval
        self._last_reasons: list[tuple[str | None, ...]] | None = None

    @property
    def seconds_until_due(self) -> float:
        """The time until the next `explain_jobs`."""
        return max(0.0, self._due_at - time.monotonic())

    def drop_repeated(self, explanation: JobExplanation | None) -> JobExplanation | None:
        """Return the explanation; None if it repeats the reasons of the previous one."""
        self._interval = min(self._interval * 2, EXPLAIN_MAX_INTERVAL)
        self._due_at = time.monotonic() + self._interval
        if explanation is None:
            return None
        previous, self._last_reasons = self._last_reasons, None
        if explanation.waits:
            # The details are not compared, since their counts and times change all the time.
            reasons = explanation.reasons or (explanation,)
            self._last_reasons = [(reason.reason, reason.key, reason.event) for reason in reasons]
        return None if self._last_reasons in (None, previous) else explanation


def _topic(job: Job) -> str:
    return f"pq:user:{job.user_id}" if job.user_id else f"pq:job:{job.id}"
