"""One run of a worker, from its registration to its last report: what starts, stops, and when."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar
from uuid import uuid4

from picture_queue import _rpc
from picture_queue._realtime.event_source import EventSource
from picture_queue._rpc import Rpc
from picture_queue._transport.base import check_version
from picture_queue.claimed_job import ClaimedJob
from picture_queue.errors import ConnectionFailed, StaleLease
from picture_queue.settings import WorkerSettings
from picture_queue.worker._link import Link, Transport
from picture_queue.worker._signals import Signals
from picture_queue.worker.claimer import Claimer, Demand
from picture_queue.worker.executor import CLEANUP, Attempt, Deadlines, Stop
from picture_queue.worker.heartbeat import Heartbeat, Lease, Leases
from picture_queue.worker.joblog import Line
from picture_queue.worker.maintenance import MaintenanceLoop
from picture_queue.worker.outcomes import Outcome, Released, Snoozed
from picture_queue.worker.prefetch import Prefetch, lease_holds
from picture_queue.worker.registry import Registry
from picture_queue.worker.reporter import Reporter
from picture_queue.worker.stuck import Stuck

T = TypeVar("T")

_log = logging.getLogger(__name__)

_REGISTERING = 60.0  # seconds for the first answer, repetitions included
_NEWS = 5.0  # seconds for a report of progress, or of lines of a log
_LAST_CLAIM = 5.0  # seconds for the answer to a claim at shutdown
_LAST_REPORT = 15.0  # seconds to write the last outcomes
_FAREWELL = 3.0  # seconds to say goodbye


class Supervisor:
    """Owns the parts of a running worker and what they pass on to each other.

    Claims come from the claimer; each job becomes an attempt, which holds a slot until it has ended
    and a lease until its outcome is reported.

    Args:
        transport: Makes the calls.
        wake_ups: Tells of new jobs; None: the worker lives on polling.
        registry: The handlers.
        settings: How to work.
        on_stuck: Called when stuck handlers hold too many slots to go on.
        signals: For tests.
    """

    def __init__(
        self,
        transport: Transport,
        wake_ups: EventSource | None,
        registry: Registry,
        settings: WorkerSettings,
        on_stuck: Callable[[], None],
        signals: Signals,
    ) -> None:
        self.name = settings.name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._wake_ups = wake_ups
        self._registry = registry
        settings = replace(settings, queues=settings.queues or registry.queues())
        self._settings = settings
        self._signals = signals
        self._transport = transport
        self._link = Link(transport)
        self._leases = Leases()
        self._attempts: set[Attempt] = set()  # each takes a slot
        self._deadlines = Deadlines()
        self._stuck = Stuck(settings.concurrency, settings.stuck_after, on_stuck)
        self._logging: set[asyncio.Task[None]] = set()  # writing the last lines of attempts
        self._stopping = False
        self._hurry = asyncio.Event()
        self._all_settled = asyncio.Event()
        self._listening = contextlib.ExitStack()
        self._heard: set[str] = set()
        self._heartbeat = Heartbeat(self._link, self.name, self._leases, signals)
        self._claimer = Claimer(
            self._link,
            self.name,
            registry.job_types,
            settings,
            self._demand,
            self._launch,
            signals,
        )
        self._reporter = Reporter(self._link, self._claimer, self._leases.drop, signals)
        self._maintenance = MaintenanceLoop(transport, self.name, self._claimer.look, signals)
        self._prefetch = Prefetch(settings.concurrency, self._release)
        self._claimer.reports_wait = self._reporter.will_ask
        self._claimer.least = lambda: self._prefetch.worth_a_call
        self._claimer.on_answer = self._prefetch.answered

    # --- start and stop ---

    async def start(self) -> None:
        """Registers the worker and begins to claim.

        Raises:
            PictureQueueError: The project does not answer, refuses the key, or does not fit.
        """
        call = _rpc.register_worker(
            self.name, self._settings.queue_names, self._registry.policies()
        )
        try:
            async with asyncio.timeout(_REGISTERING):
                found = await self._transport.call(call)
        except TimeoutError as error:
            raise ConnectionFailed(f"The project gave no answer in {_REGISTERING:g} s") from error
        check_version(found)
        self._heartbeat.start()
        self._reporter.start()
        self._claimer.start()
        self._maintenance.start()
        self._listen()
        _log.info(
            "Worker %s serves %s with handlers for %s",
            self.name,
            ", ".join(self._settings.queue_names),
            ", ".join(self._registry.job_types) or "nothing",
        )
        self._warn_of_unserved_queues()

    async def stop(self) -> None:
        """Ends in order: no more claims, then the attempts, their outcomes, their leases."""
        self._stopping = True
        self._listening.close()
        self._stuck.close()
        await self._maintenance.stop(0)
        await self._claimer.stop(_LAST_CLAIM)
        self._prefetch.clear()
        for attempt in self._attempts:
            attempt.announce_shutdown()
        await self._wait_for_attempts(self._settings.shutdown_grace)
        for attempt in list(self._attempts):
            attempt.stop(Stop.SHUTDOWN)
        await self._wait_for_attempts(CLEANUP)
        for attempt in list(self._attempts):
            attempt.give_up()
        if self._logging:
            await asyncio.wait(self._logging)
        await self._reporter.stop(_LAST_REPORT)
        await self._heartbeat.stop(0)
        with contextlib.suppress(Exception):  # it is forgotten within a minute anyway
            await self._link.call(_rpc.unregister_worker(self.name), _FAREWELL)
        _log.info("Worker %s has stopped", self.name)

    def hurry(self) -> None:
        """Makes a stop quick: running jobs are released at once."""
        self._hurry.set()

    async def _wait_for_attempts(self, seconds: float) -> None:
        """Waits until all attempts are settled, for so long at most and not in a hurry."""
        if all(attempt.settled for attempt in self._attempts):
            return
        self._all_settled.clear()
        waits = [asyncio.ensure_future(e.wait()) for e in (self._all_settled, self._hurry)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _warn_of_unserved_queues(self) -> None:
        for handler in self._registry:
            queue = handler.policy.queue
            if queue is not None and queue not in self._settings.queue_names:
                _log.warning(
                    "%s jobs are enqueued to %r, which this worker does not serve: add it to the "
                    "queues of WorkerSettings",
                    handler.job_type,
                    queue,
                )

    # --- the way of a job ---

    def _demand(self) -> Demand:
        """Returns how many jobs could be taken, with those for which there is a slot soon."""
        ahead = self._prefetch.worth_having
        # Outcomes that cannot be written must not pile up without a bound.
        backlog = self._reporter.backlog + len(self._logging)
        if backlog >= 2 * self._settings.concurrency + 4 * ahead:
            return Demand(0, 0)
        free = self._settings.concurrency - len(self._attempts)
        return Demand(free + ahead - len(self._prefetch), free)

    def _launch(self, job: ClaimedJob, asked_at: float) -> None:
        if self._stopping or not lease_holds(job, asked_at):
            self._release(job)
        elif len(self._attempts) < self._settings.concurrency:
            self._begin(job, asked_at)
        else:
            self._prefetch.put(job, asked_at)

    def _release(self, job: ClaimedJob) -> None:
        """Gives back a job that was not started."""
        self._reporter.put(job, Released())

    def _begin(self, job: ClaimedJob, asked_at: float) -> None:

        attempt = Attempt(self._registry[job.job_type], job, self, self._deadlines)
        self._attempts.add(attempt)
        self._heartbeat.hold(Lease(attempt, asked_at))

    def settled(self, attempt: Attempt) -> None:
        """Has its outcome written."""
        job, outcome = attempt.job, attempt.outcome
        if outcome is None:
            self._leases.drop(job)
        elif attempt.has_unsent_lines:
            task = asyncio.create_task(self._report_after_log(attempt, outcome))
            self._logging.add(task)
            task.add_done_callback(self._logging.discard)
        else:
            self._reporter.put(job, outcome, attempt.duration)
        if not (attempt.ended or self._stopping):
            self._stuck.watch(attempt)
        if self._stopping and all(other.settled for other in self._attempts):
            self._all_settled.set()
        if self._signals.settled.watched:
            self._signals.settled.emit((job.id, outcome.name if outcome else None))

    def ended(self, attempt: Attempt) -> None:
        """Gives its slot to the next job."""
        self._attempts.discard(attempt)
        if _pauses(attempt.outcome):
            self._prefetch.clear()  # those behind it are to wait as well
        else:
            self._prefetch.lasted(attempt.duration)
        was_stuck = self._stuck.ended(attempt)
        following = None if self._stopping else self._prefetch.next()
        if following is not None:
            self._begin(*following)
        if was_stuck:
            self._claimer.look()  # its report could not ask for the next job: it had the slot
        elif self._prefetch.is_low:
            self._claimer.wake()

    async def _report_after_log(self, attempt: Attempt, outcome: Outcome) -> None:
        """Writes the last lines while the lease that fences them is in force."""
        await attempt.log.flush()
        self._reporter.put(attempt.job, outcome, attempt.duration)

    async def send_log(self, attempt: Attempt, lines: list[Line]) -> None:
        """Writes lines into the log of its job."""
        job = attempt.job
        call = _rpc.log_job(job.id, job.lease_id, [line.as_json() for line in lines])
        await self._tell(attempt, call, "log")

    async def send_progress(self, attempt: Attempt, percent: int, message: str | None) -> None:
        """Writes the progress of its job; the answer may ask for its end."""
        job = attempt.job
        call = _rpc.report_progress(job.id, job.lease_id, percent, message)
        if await self._tell(attempt, call, "progress"):
            attempt.stop(Stop.CANCEL)

    async def _tell(self, attempt: Attempt, call: Rpc[T], what: str) -> T | None:
        """Writes news of an attempt; None when it could not, which is no reason to stop it.

        A lease that is gone is one.
        """
        try:
            return await self._link.call(call, _NEWS)
        except StaleLease:
            if not attempt.settled:
                _log.warning("The lease of job %s is lost and its handler stopped", attempt.job.id)
            attempt.stop(Stop.LOST)
        except Exception as error:
            _log.debug("The %s of job %s was not written: %s", what, attempt.job.id, error)
        return None

    # --- wake-ups ---

    def _listen(self) -> None:
        if self._wake_ups is None:
            return
        for queue in self._settings.queue_names:
            listener = QueueListener(self, queue)
            self._listening.enter_context(self._wake_ups.listen(f"pq:queue:{queue}", listener))

    def hears(self, queue: str, yes: bool) -> None:
        """Notes whether wake-ups of a queue are heard, and looks at what was missed."""
        self._heard.add(queue) if yes else self._heard.discard(queue)
        self._claimer.hears_wake_ups = len(self._heard) == len(set(self._settings.queue_names))
        if yes:
            self._claimer.look()
            self._heartbeat.beat_now()
            self._signals.listening.emit(len(self._heard))

    def woken(self, reason: str) -> None:
        """Does what a wake-up asks for."""
        if reason == "cancel":
            self._heartbeat.beat_now()
        elif reason == "maintain":
            self._maintenance.run_now()
        elif reason == "take over":
            self._maintenance.take_over()
        else:
            self._claimer.look()


def _pauses(outcome: Outcome | None) -> bool:
    return isinstance(outcome, Snoozed) and outcome.pause_key is not None


class QueueListener:
    """The listener for the wake-ups of one queue."""

    def __init__(self, supervisor: Supervisor, queue: str) -> None:
        self._supervisor = supervisor
        self._queue = queue

    def joined(self) -> None:
        self._supervisor.hears(self._queue, True)

    def lost(self) -> None:
        self._supervisor.hears(self._queue, False)

    def message(self, event: str, payload: dict[str, Any]) -> None:
        if event == "wake":
            self._supervisor.woken(str(payload.get("reason")))
