"""Keeps the leases of a worker alive, from a thread and over a connection of its own."""

import asyncio
import contextlib
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from logging import getLogger
from typing import TYPE_CHECKING, Any

from picture_queue import _rpc
from picture_queue.errors import PictureQueueError
from picture_queue.records import HeartbeatAnswer
from picture_queue.worker._calls import RetryDelay, WorkerCalls, is_refusal
from picture_queue.worker._signals import Signals
from picture_queue.worker.slots import Lease, Slots

if TYPE_CHECKING:
    from picture_queue._transport.backend import AsyncBackend
    from picture_queue._transport.backend_sync import Backend

_log = getLogger(__name__)

#: Seconds between two heartbeats when no lease asks for more: a worker that is not heard of for
#: a minute is neither shown as alive nor woken.
PRESENCE = 20.0
_QUICK_JOB = 0.001  # seconds: the outcome of such a job confirms its start as soon
_CONFIRM_INTERVAL = 0.025  # seconds between two calls that only confirm starts
_MIN_TIMEOUT = 1.0  # seconds for an answer, however short the lease
_FAULT_DELAY = 1.0  # seconds
_FRAMES = 6  # of the code that blocks the event loop
_STOP_TIMEOUT = 3.0  # seconds for the thread to end


class Heartbeat:
    """Confirms that jobs have started, prolongs their leases, and learns which jobs to stop.

    Handlers that block the event loop, or take all connections of the worker's client, do not stop
    it. It warns of those that block the event loop for as long as a third of a lease.

    Args:
        calls: Makes calls in the event loop, and notes whether those of the thread succeed.
        worker: Name of the worker.
        slots: Has the leases.
        on_confirmed: Called in the event loop of the worker with a job whose start is confirmed.
        on_cancel: Called there with a job to cancel.
        on_lost: Called there with a lease that ended, and the reason.
        signals: For tests.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        worker: str,
        slots: Slots,
        on_confirmed: Callable[[Lease], None],
        on_cancel: Callable[[Lease], None],
        on_lost: Callable[[Lease, str], None],
        signals: Signals,
    ) -> None:
        self._calls = calls
        self._status = calls.status
        self._worker = worker
        self._slots = slots
        self._on_confirmed = on_confirmed
        self._on_cancel = on_cancel
        self._on_lost = on_lost
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._loop_ran_at = self._checked_at = time.monotonic()
        self._cpu_time = time.process_time()
        self._blocked_by: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Backend
        self._ended = asyncio.Event()
        self._woken = threading.Event()
        self._stopping = False
        self._requested = False
        self._delay = RetryDelay()
        self._retry_at = 0.0
        self._beaten_at = self._planned_at = time.monotonic()
        self._confirming: asyncio.Task[None] | None = None

    def start(self, connection: "Backend") -> None:
        """Start the thread.

        Args:
            connection: Makes the calls, in the thread only, and is closed there at the end.
        """
        self._connection = connection
        self._note_loop_runs()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def beat_now(self) -> None:
        """Ask at once which jobs to stop."""
        self._requested = True
        self._woken.set()

    def started(self, lease: Lease) -> None:
        """Confirm the start of a job soon, and prolong its lease in time.

        Jobs that end at once cost no call. While they end by the hundred, it is left to the thread,
        and so is what fails.
        """
        if lease.due_at < self._planned_at:
            self._woken.set()
        if not (lease.start_confirmed or self._confirming or self._slots.in_bulk):
            self._confirming = asyncio.create_task(self._confirm_starts())

    async def stop(self) -> None:
        """End the thread, unless it waits for an answer for too long."""
        self._stopping = True
        self._woken.set()
        if self._confirming is not None:
            self._confirming.cancel()
        if self._timer is None:
            return
        self._timer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._ended.wait()

    async def _confirm_starts(self) -> None:
        try:
            await asyncio.sleep(_QUICK_JOB)
            while named := [lease for lease in self._slots.leases() if lease.is_unconfirmed]:
                sent_at = time.monotonic()
                call = _rpc.heartbeat_jobs(self._worker, _ids(named))
                answer = await self._calls.call(call, _MIN_TIMEOUT, counts=False)
                self._take_answer(answer, named, sent_at)
                await asyncio.sleep(_CONFIRM_INTERVAL)
        except PictureQueueError as error:
            _log.debug("Starts were not confirmed, the thread does it: %s", error)
        finally:
            self._confirming = None

    # --- in the thread ---

    def _run(self) -> None:
        # A worker that was not stopped must not keep the leases of jobs that ended with its loop.
        while not (self._stopping or self._loop.is_closed()):
            try:
                wait = self._tick()
            except Exception:
                _log.exception("The heartbeat failed and continues")
                wait = _FAULT_DELAY
            self._woken.wait(wait)
            self._woken.clear()
        with contextlib.suppress(Exception):
            self._connection.close()
        self._notify(self._ended.set)

    def _tick(self) -> float:
        """Beat if it is time for it; return the seconds until the next tick."""
        self._planned_at = math.inf  # what is added from here on wakes the thread
        leases = self._slots.leases()
        shortest = min((lease.seconds for lease in leases), default=3 * PRESENCE)
        self._check_loop(shortest / 3)
        due = min([lease.due_at for lease in leases] + [self._beaten_at + PRESENCE])
        self._planned_at = max(due, self._retry_at)
        wait = self._planned_at - time.monotonic()
        if self._requested or wait <= 0:
            named = [lease for lease in leases if lease.due_at <= time.monotonic()]
            if self._requested or any(lease.start_confirmed for lease in named) or not named:
                named = leases  # all in one call
            self._requested = False
            self._beat(leases, shortest, named)
            return 0.0
        return min(wait, shortest / 12)

    def _beat(self, leases: list[Lease], shortest: float, named: list[Lease]) -> None:
        """Prolong the leases that are named."""
        sent_at = time.monotonic()
        # A pause that the API asked for must not cost leases.
        pause = self._status.quiet_until - sent_at
        if pause > 0 and all(lease.ends_at > self._status.quiet_until for lease in leases):
            self._retry_at = self._status.quiet_until
            return
        # Time for another attempt while all leases hold.
        soonest = min((lease.ends_at for lease in leases), default=math.inf) - sent_at
        timeout = max(_MIN_TIMEOUT, min(soonest, shortest / 3))
        try:
            answer = self._connection.call(_rpc.heartbeat_jobs(self._worker, _ids(named)), timeout)
        except Exception as error:
            self._note_failure(error, leases, shortest)
            return
        self._status.succeeded()
        self._delay.reset()
        self._beaten_at = sent_at
        self._take_answer(answer, named, sent_at)

    def _take_answer(self, answer: HeartbeatAnswer, named: list[Lease], sent_at: float) -> None:
        for lease in named:
            if lease.job.key in answer.lost:
                reason = "the database gave it to somebody else or ended it"
                self._notify(self._on_lost, lease, reason)
                continue
            lease.confirmed_at = sent_at
            if not lease.start_confirmed:
                lease.start_confirmed = True
                self._notify(self._on_confirmed, lease)
            if lease.job.key in answer.cancel:
                self._notify(self._on_cancel, lease)
        self._notify(self._signals.beaten.emit, None)

    def _note_failure(self, error: Exception, leases: list[Lease], shortest: float) -> None:
        self._status.note_pause(error)
        self._status.failed(error, "heartbeat_jobs")
        if is_refusal(error):
            self._status.alarm(f"The project refuses heartbeats: {error}")
        now = time.monotonic()
        pause = min(self._status.quiet_until - now, shortest / 3)
        self._retry_at = now + max(self._delay.next(), pause)
        for lease in leases:
            # An outcome is kept: nobody may have swept the job when the database is back.
            if not (lease.holds or lease.is_settled):
                reason = "no heartbeat was answered for its whole length"
                self._notify(self._on_lost, lease, reason)

    def _notify(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the event loop was closed, and the worker never stopped
            self._stopping = True

    # --- the watch over the event loop ---

    def _note_loop_runs(self) -> None:
        now = time.monotonic()
        if self._blocked_by is not None:
            seconds = now - self._loop_ran_at
            _log.warning("%s blocked the event loop for %.1f s", self._blocked_by, seconds)
            self._blocked_by = None
        self._loop_ran_at = now
        shortest = min((lease.seconds for lease in self._slots.leases()), default=PRESENCE)
        self._timer = self._loop.call_later(min(shortest / 12, 0.5), self._note_loop_runs)

    def _check_loop(self, limit: float) -> None:
        now = time.monotonic()
        blocked, self._checked_at, before = now - self._loop_ran_at, now, self._checked_at
        cpu_time = time.process_time() - self._cpu_time
        self._cpu_time += cpu_time
        # Ticks are a quarter of the limit apart: a block is noticed before it has lasted so long.
        if blocked < 0.75 * limit or self._blocked_by is not None:
            return
        if now - before > 0.75 * limit:
            # This thread did not run either: the process was stopped, or computed all the while.
            if cpu_time > 0.05 * (now - before):  # little on a busy machine
                _log.warning(
                    "No thread could run for %.1f s, nor heartbeats: a handler held the GIL. Run "
                    "what does so in a process of its own",
                    now - before,
                )
            return
        task = asyncio.current_task(self._loop)
        name = task.get_name() if task is not None else "a callback"
        lease = self._slots.find(name.rpartition(" ")[2])  # as attempts name their tasks
        culprit = f"Code of {name}"
        if lease is not None:
            culprit = f"The handler of job {lease.job.id} ({lease.job.job_type})"
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.extract_stack(frame, limit=_FRAMES)
        place = ", called at ".join(f"{at.filename}:{at.lineno}" for at in reversed(stack))
        self._blocked_by = culprit
        _log.warning(
            "%s has blocked the event loop for %.1f s, at %s: await there, or make it a plain def",
            culprit,
            blocked,
            place,
        )


def _ids(leases: list[Lease]) -> dict[str, str]:
    return {lease.job.key: lease.job.lease_key for lease in leases}


def own_connections(backend: "AsyncBackend") -> "AsyncBackend":
    """Return the same project with connections that handlers cannot take."""
    if backend.database is None:
        return backend
    return type(backend)(None, backend.database.settings)


async def connect(backend: "AsyncBackend") -> "Backend":
    """Return a connection to the same project for a thread; it is opened by the first call."""
    from picture_queue._transport.backend_sync import Backend

    if backend.database is not None:
        return Backend(None, replace(backend.database.settings, connections=1))
    from picture_queue._transport.postgrest_sync import Postgrest

    assert backend.api is not None  # noqa: S101 - one of the two is there
    settings, token = backend.api.settings, await backend.api.access_token()
    token_of_user = None if token == settings.key else token
    return Backend(Postgrest(replace(settings, access_token=token_of_user)))
