"""One run of a worker, from its registration to its last report."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from picture_queue._log import Log
from picture_queue._realtime.event_source import EventSource
from picture_queue._realtime.wake_ups import WakeUps
from picture_queue._rpc import Rpc
from picture_queue._text import clean_line
from picture_queue._transport import duplicate
from picture_queue._transport.base import check_version
from picture_queue.errors import PictureQueueError, StaleLease, WorkerStuck
from picture_queue.records import ClaimedJob, HeartbeatAnswer
from picture_queue.settings import WorkerSettings
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker._loop import run_stop_step, stop_loop, wait_for
from picture_queue.worker._registration import register, unregister
from picture_queue.worker.claimer import Claimer
from picture_queue.worker.drain import DrainMonitor, DrainResult
from picture_queue.worker.executor import CLEANUP_TIMEOUT, Attempt, StopReason
from picture_queue.worker.executors import Executors, RemoteCall
from picture_queue.worker.heartbeat import HeartbeatLoop
from picture_queue.worker.hooks import NOTIFICATION_TIMEOUT, Hooks, Shared
from picture_queue.worker.maintenance import MaintenanceLoop
from picture_queue.worker.outcomes import Failed, Outcome, Released, Snoozed
from picture_queue.worker.registry import Handler, Registry
from picture_queue.worker.reporter import Report, Reporter
from picture_queue.worker.slots import Lease, Slots

if TYPE_CHECKING:
    from picture_queue._transport.backend import AsyncBackend

T = TypeVar("T")

_log = Log(__name__)

# Seconds for an answer, retries included.
_ATTEMPT_TIMEOUT = 5.0  # for a call of an attempt, which writes its progress or log
_LAST_CLAIM_TIMEOUT = 5.0
_LAST_REPORT_TIMEOUT = 15.0


class Supervisor:
    """The parts of a running worker, and the path of its jobs between them.

    The claimer claims jobs, each with a lease. An attempt of a job starts when a slot is free. The
    outcome of the attempt goes to the reporter, and the lease ends when the reporter has written
    the outcome.

    Args:
        backend: The connection to the worker's project.
        events: The source of wake-ups; None: the worker only polls.
        registry: The handlers.
        settings: The settings of the worker.
        shared: The objects that the handlers share.
        hooks: The hooks of the worker.
        on_failure: Called with the reason when the worker cannot continue.
        emit: Called with events inside the worker; see `WorkerCalls`.
        on_end: Called when the run should end; see `DrainMonitor`.
        drains: Whether the run ends when no job is due.

    Attributes:
        result: The number of attempts that were run and reported.
    """

    def __init__(
        self,
        backend: "AsyncBackend",
        events: EventSource | None,
        registry: Registry,
        settings: WorkerSettings,
        shared: Shared,
        hooks: Hooks,
        on_failure: Callable[[PictureQueueError], None],
        emit: Callable[..., None],
        on_end: Callable[[], None],
        drains: bool = False,
    ) -> None:
        self.result = DrainResult()
        self.name = settings.name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._client_backend = backend
        # Connections of its own: handlers may use all connections of the client.
        self._backend = duplicate.with_own_pool(backend)
        self._events = events
        self._registry = registry
        self._handlers = {name: h.bind(shared, hooks) for name, h in registry.items()}
        self._hooks = hooks
        self._settings = replace(settings, queues=settings.queues or registry.queues())
        self._on_failure = on_failure
        self._stuck: list[Attempt] = []  # attempts that were given up, whose handlers still run
        self._log_tasks: set[asyncio.Task[None]] = set()  # tasks of `_report_after_log`
        self._is_started = self._stopping = False
        self._stops_now = False  # whether `stop_now` was called
        self._attempts_done = asyncio.Event()
        calls = self._calls = WorkerCalls(self._backend, self.name, emit)
        slots = self._slots = Slots(settings.concurrency, self._release, settings.max_jobs)
        self._executors = Executors(settings.executor_host)
        # Outcomes of locked jobs are sent in separate calls, so they do not delay other outcomes.
        self._locked_reporter = Reporter(
            calls, slots, self._on_written, on_recorded=self._on_recorded
        )
        self._reporter = Reporter(
            calls, slots, self._on_written, self._locked_reporter, self._on_recorded
        )
        self._claimer = Claimer(
            *(calls, registry.job_types, self._settings, slots, self._accept_job),
            lambda: self._drain.check(),
        )
        self._maintenance = MaintenanceLoop(
            calls, self._claimer.request_claim, lambda: self._drain.check()
        )
        self._drain = DrainMonitor(slots, self._claimer, self._maintenance, drains, on_end)
        self._heartbeat = HeartbeatLoop(calls, slots, self._on_heartbeat, self._on_lease_lost)
        self._wake_ups = WakeUps(self._settings.queue_names, self._on_listening, self._on_wake_up)

    @property
    def is_ready(self) -> bool:
        """True while the worker claims jobs and its last call was answered."""
        return self._is_started and not self._stopping and self._calls.is_up

    # --- start and stop ---

    async def start(self) -> None:
        """Register the worker and begin to claim.

        Raises:
            PictureQueueError: The project does not answer, refuses the key, or has an incompatible
                version.
        """
        await self._executors.start(h.executor for h in self._registry.values() if h.executor)
        queues, policies = self._settings.queue_names, self._registry.policies()
        check_version(await register(self._backend, self.name, queues, policies))
        self._heartbeat.start(await duplicate.for_thread(self._backend))
        for loop in (self._locked_reporter, self._reporter, self._claimer, self._maintenance):
            loop.start(self._on_failure)
        if self._events is not None:
            self._wake_ups.start(self._events)
        self._is_started = True
        _log.info(
            "Worker %s serves %s with handlers for %s",
            self.name,
            ", ".join(self._settings.queue_names),
            ", ".join(self._registry.job_types) or "nothing",
        )
        self._warn_of_unserved_queues()

    async def stop(self) -> None:
        """Stop the parts in order: claims, attempts, reports of outcomes, heartbeats.

        Each step has a timeout. If other code cancels all tasks of the event loop, only the current
        step ends, and the stop continues with the next one. Otherwise outcomes would be lost.
        """
        self._stopping = True
        self._wake_ups.stop()
        await run_stop_step(self._maintenance.stop(0))
        await stop_loop(self._claimer, _LAST_CLAIM_TIMEOUT)
        self._slots.release_unstarted()
        for attempt in self._slots.attempts:
            attempt.request_shutdown()
        await run_stop_step(self._wait_for_attempts(self._settings.shutdown_grace))
        for attempt in self._slots.attempts:
            attempt.stop(StopReason.SHUTDOWN)
        await run_stop_step(self._wait_for_attempts(CLEANUP_TIMEOUT))
        for attempt in self._slots.attempts:
            attempt.give_up()
        await run_stop_step(self._executors.stop())
        if self._log_tasks:
            await run_stop_step(asyncio.wait(self._log_tasks, timeout=_LAST_REPORT_TIMEOUT))
        await stop_loop(self._reporter, _LAST_REPORT_TIMEOUT)
        await stop_loop(self._locked_reporter, _LAST_REPORT_TIMEOUT)
        await run_stop_step(self._hooks.wait(NOTIFICATION_TIMEOUT))
        await run_stop_step(self._heartbeat.stop())
        await run_stop_step(unregister(self._backend, self.name))
        if self._backend is not self._client_backend:
            await run_stop_step(self._backend.aclose())
        _log.info("Worker %s has stopped", self.name)

    def stop_now(self) -> None:
        """Let the stop release running jobs at once."""
        self._stops_now = True
        self._attempts_done.set()

    async def _wait_for_attempts(self, seconds: float) -> None:
        """Wait until all attempts have an outcome, the time is over, or `stop_now` is called."""
        if self._stops_now or self._all_have_outcomes():
            return
        self._attempts_done.clear()
        await wait_for(self._attempts_done, seconds)

    def _all_have_outcomes(self) -> bool:
        return all(attempt.has_outcome for attempt in self._slots.attempts)

    def _warn_of_unserved_queues(self) -> None:
        message = "%s jobs are enqueued to %r, which this worker does not serve: add this queue"
        for job_type, handler in self._registry.items():
            queue = handler.policy.get("queue")
            if queue not in (None, *self._settings.queue_names):
                _log.warning(message, job_type, queue)

    # --- the path of a job ---

    def _accept_job(self, job: ClaimedJob, claimed_at: float) -> None:
        """Start a claimed job, hold it until a slot is free, or release it."""
        lease = Lease(job, claimed_at)
        older = self._slots.add(lease)
        if older is not None and older.attempt is not None:
            older.attempt.stop(StopReason.LOST)
        if self._stopping or not lease.is_valid:
            self._release(job)
        elif job.unreadable is not None:
            self._fail_unstarted(job, f"The job cannot be read: {job.unreadable}")
        elif self._slots.free > 0:
            self._start_job(lease)
        else:
            self._slots.hold(lease)

    def _release(self, job: ClaimedJob) -> None:
        """Release a job that was not started."""
        self._reporter.put(job, Released())

    def _fail_unstarted(self, job: ClaimedJob, error: str) -> None:
        """Fail a job that cannot be started, without an effect on jobs claimed with it."""
        _log.error("Job %s (%s) fails without a start: %s", job.id_text, job.job_type, error)
        self._slots.count_job()
        self._reporter.put(job, Failed(clean_line(error), retryable=False))

    def _start_job(self, lease: Lease) -> None:
        """Give a job a slot and start it.

        If the database must confirm the start first, the job waits in its slot for a second call of
        this method.
        """
        job, attempt = lease.job, None
        if lease.start_confirmed or not job.confirm_start:
            try:
                attempt = Attempt(self._handlers[job.job_type], job, self)
            except Exception as error:
                self._slots.free_slot(job)
                self._fail_unstarted(job, f"The job cannot be started: {error!r}")
                return
            self._slots.count_job()
            self._hooks.on_start(job)
        self._slots.assign_slot(lease, attempt)
        self._heartbeat.schedule_confirm(lease)

    def on_outcome(self, attempt: Attempt) -> None:
        """Pass the outcome of an attempt to the reporter. Its slot stays taken until `on_end`."""
        job, outcome = attempt.job, attempt.outcome
        if isinstance(outcome, Snoozed) and outcome.pause_key is not None:
            self._slots.pause_claims(job)  # jobs with the same limit key must wait too
        if outcome is not None and attempt.has_unsent_lines:
            task = asyncio.create_task(self._report_after_log(attempt, outcome))
            self._log_tasks.add(task)
            task.add_done_callback(self._log_tasks.discard)
        elif outcome is not None:  # without an outcome, the lease is lost and was dropped
            self._reporter.put(job, outcome, attempt.duration, attempt.exception)
        if not (attempt.ended or self._stopping):
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.stuck_after, self._check_stuck, attempt)
        if self._stopping and self._all_have_outcomes():
            self._attempts_done.set()
        self._calls.emit("outcome", job, outcome.name if outcome else None)

    def on_end(self, attempt: Attempt) -> None:
        """Give the slot of an attempt to the next job."""
        self._slots.free_slot(attempt.job)
        self._fill_slots()

    def _check_stuck(self, attempt: Attempt) -> None:
        """Log a handler that still runs, and fail when such handlers hold half of the slots.

        Only the end of the process frees these slots: a thread cannot be ended from outside, and a
        coroutine can refuse to end.
        """
        if attempt.ended or self._stopping:
            return
        self._stuck = [other for other in self._stuck if not other.ended] + [attempt]
        job, stuck, slots = attempt.job, len(self._stuck), self._settings.concurrency
        _log.error(
            f"The handler of job {job.id} ({job.job_type}) still runs "
            f"{self._settings.stuck_after:g} s after it was given up, and keeps its slot; "
            f"stuck handlers hold {stuck} of {slots} slots"
        )
        if 2 * stuck >= slots:
            hint = "Start a new process, and set a timeout for everything that handlers wait for"
            message = "Handlers that do not end hold half of the worker's slots"
            self._on_failure(WorkerStuck(message, hint=hint))

    def _fill_slots(self) -> None:
        if self._stopping:
            return
        while self._slots.free > 0 and (lease := self._slots.pop_held()) is not None:
            self._start_job(lease)
        self._claimer.slot_freed()

    def _on_written(self, jobs: Sequence[ClaimedJob]) -> None:
        """Drop the leases of jobs for whose outcomes the database has answered."""
        for job in jobs:
            self._slots.drop_lease(job)
        self._claimer.demand_changed()
        self._drain.on_leases_ended()

    def _on_recorded(self, report: Report, status: str | None) -> None:
        """Count an attempt whose outcome the database has recorded."""
        processed, errors = self.result.processed, self.result.errors
        if isinstance(report.outcome, Failed) or status == "failed":
            self.result = DrainResult(processed, errors + 1)
        elif not isinstance(report.outcome, Released):
            self.result = DrainResult(processed + 1, errors)
        self._hooks.on_end(report, status)

    async def _report_after_log(self, attempt: Attempt, outcome: Outcome) -> None:
        """Send the last log lines while the lease is valid, then report the outcome."""
        try:
            await attempt.log.flush()
        finally:  # other code may cancel this task
            # The lease may be lost meanwhile, and this worker may have claimed the job again.
            if self._slots.lease_of(attempt) is not None:
                self._reporter.put(attempt.job, outcome, attempt.duration, attempt.exception)

    async def run_remotely(
        self, attempt: Attempt, handler: Handler, on_call: Callable[[RemoteCall], None]
    ) -> Outcome:
        """Run a handler in its executor; see `Executors.run`."""
        assert handler.executor is not None  # noqa: S101 - the caller has checked it
        return await self._executors.run(attempt, handler.executor, handler.function, on_call)

    async def send(self, attempt: Attempt, call: Rpc[T], name: str) -> T | None:
        """Make a call of an attempt; see `AttemptListener`. A lost lease stops the attempt."""
        try:
            return await self._calls.call(call, _ATTEMPT_TIMEOUT, counts=False)
        except StaleLease:
            if (lease := self._slots.lease_of(attempt)) is not None:
                self._on_lease_lost(lease, f"the database refused its {name}")
        except Exception as error:
            _log.debug("The %s of job %s was not written: %s", name, attempt.job.id, error)
        return None

    # --- heartbeats ---

    def _on_heartbeat(self, leases: list[Lease], answer: HeartbeatAnswer) -> None:
        """Start the jobs whose start was confirmed; stop the jobs that were cancelled or lost."""
        for lease in leases:
            if lease.job.id_text in answer.lost:
                self._on_lease_lost(
                    lease, "the database gave the job to another worker, or ended it"
                )
                continue
            if self._slots.is_waiting(lease):
                if lease.is_valid:
                    self._start_job(lease)
                else:
                    self._slots.drop_lease(lease.job)  # another worker may have claimed the job
                if lease.attempt is None:  # the job did not start
                    self._fill_slots()
                    self._drain.on_leases_ended()
            if lease.job.id_text in answer.cancel and lease.attempt is not None:
                lease.attempt.stop(StopReason.CANCEL)

    def _on_lease_lost(self, lease: Lease, reason: str) -> None:
        """Drop a lease that ended, and stop its handler."""
        self._slots.drop_lease(lease.job)
        self._drain.on_leases_ended()
        if lease.attempt is None or lease.attempt.has_outcome:
            self._fill_slots()  # claims may have waited until the outcome was written
        else:
            message = "The lease of job %s is lost and its handler stopped: %s"
            _log.warning(message, lease.job.id, reason)
            lease.attempt.stop(StopReason.LOST)

    # --- wake-ups ---

    def _on_listening(self, joined: bool) -> None:
        """Record whether the wake-ups of all queues arrive.

        A wake-up may have been missed before a subscription began. So claim and send a heartbeat,
        as a wake-up would have requested.
        """
        self._claimer.receives_wake_ups = self._wake_ups.all_arrive
        if joined:
            self._claimer.request_claim()
            self._heartbeat.beat_now()
            self._calls.emit("listening", len(self._wake_ups.joined))

    def _on_wake_up(self, reason: str) -> None:
        """Claim, send a heartbeat or run maintenance, as the reason of a wake-up requests."""
        if reason == "cancel":
            self._heartbeat.beat_now()
        elif reason == "take over" or (reason == "maintain" and self._maintenance.is_holder):
            self._maintenance.wake()
        elif reason != "maintain":
            self._claimer.request_claim()
