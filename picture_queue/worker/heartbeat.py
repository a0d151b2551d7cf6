"""Keep the leases of a worker alive, from a thread and over a connection of its own."""

import asyncio
import contextlib
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from picture_queue import _rpc
from picture_queue.records import HeartbeatAnswer
from picture_queue.worker._calls import RetryDelay, WorkerCalls, is_refusal
from picture_queue.worker._log import Log
from picture_queue.worker._signals import Signals
from picture_queue.worker.slots import Lease, Slots

if TYPE_CHECKING:
    from picture_queue._transport.backend import AsyncBackend
    from picture_queue._transport.backend_sync import Backend

_log = Log(__name__)

#: Seconds between two heartbeats when no lease asks for more: a worker without one for a minute is
#: neither shown as alive nor woken.
PRESENCE = 20.0
#: Seconds after which the start of a job is confirmed, unless its outcome is reported before.
_CONFIRM_AFTER = 0.001
_CONFIRM_AFTER_IN_BULK = 0.1
_CONFIRM_INTERVAL = 0.025  # seconds between two calls that only confirm jobs that run already
_LONGEST_SLEEP = 1.0  # seconds of the thread: to confirm jobs whose handlers block the event loop
_MIN_TIMEOUT = 1.0  # seconds for an answer, however short the lease
_FAULT_DELAY = 1.0  # seconds
_FRAMES = 6  # of the code that blocks the event loop
_STOP_TIMEOUT = 3.0  # seconds for the thread to end


class HeartbeatLoop:
    """Confirms that jobs have started, prolongs their leases, and learns which jobs to stop.

    It is a thread, so handlers that block the event loop, or take all connections of the worker's
    client, do not stop it. It warns of those that block the event loop for as long as a third of a
    lease.

    Args:
        calls: Notes whether the calls of the thread succeed.
        worker: Name of the worker.
        slots: Has the leases.
        on_answer: Called in the event loop of the worker with the leases that a heartbeat named,
            and its answer.
        on_lost: Called there with a lease that ended without an answer.
        signals: For tests.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        worker: str,
        slots: Slots,
        on_answer: Callable[[list[Lease], HeartbeatAnswer], None],
        on_lost: Callable[[Lease, str], None],
        signals: Signals,
    ) -> None:
        self._calls = calls
        self._worker = worker
        self._slots = slots
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._signals = signals
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._loop_ran_at = self._checked_at = time.monotonic()
        self._cpu_time = time.process_time()
        self._blocked_by: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._confirm_timer: asyncio.TimerHandle | None = None
        self._confirm_at = math.inf  # when it fires
        self._connection: Backend
        self._ended = asyncio.Event()
        self._woken = threading.Event()
        self._stopping = False
        self._requested = False  # by beat_now()
        self._delay = RetryDelay()
        self._retry_at = 0.0
        self._beaten_at = self._planned_at = time.monotonic()

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

    def schedule_confirm(self, lease: Lease) -> None:
        """Plan when to confirm the start of a job that got its slot just now.

        A job that waits for its confirmation is confirmed at once. One that runs is confirmed a
        moment later, with others, since jobs that end at once are to cost no call. From then on
        the thread prolongs the lease.
        """
        if lease.attempt is None or lease.prolong_at < self._planned_at:
            self._woken.set()
        if lease.attempt is not None:
            delay = _CONFIRM_AFTER_IN_BULK if self._slots.in_bulk else _CONFIRM_AFTER
            lease.confirm_at = max(lease.confirm_at + delay, self._beaten_at + _CONFIRM_INTERVAL)
            self._confirm_timer_at(lease.confirm_at)

    def _confirm_timer_at(self, at: float) -> None:
        """Wake the thread at this time, unless all jobs that have a slot are settled by then.

        Not at once: to wake a thread for each job costs more than the smallest job.
        """
        if at < self._confirm_at:
            if self._confirm_timer is not None:
                self._confirm_timer.cancel()
            self._confirm_at = at
            self._confirm_timer = self._loop.call_later(
                at - time.monotonic(), self._wake_to_confirm
            )

    def _wake_to_confirm(self) -> None:
        self._confirm_at, self._confirm_timer = math.inf, None
        unconfirmed = self._slots.unconfirmed()
        if unconfirmed:
            next_at = min(lease.confirm_at for lease in unconfirmed)
            if next_at <= time.monotonic() + _CONFIRM_INTERVAL:
                self._woken.set()
            else:
                self._confirm_timer_at(next_at)

    async def stop(self) -> None:
        """End the thread, unless it waits for an answer for too long."""
        self._stopping = True
        self._woken.set()
        if self._timer is None:
            return
        self._timer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._ended.wait()

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
        shortest, due_at, prolong_at = math.inf, math.inf, self._beaten_at + PRESENCE
        for lease in leases:  # in one pass: there may be a thousand, and the event loop waits
            shortest = min(shortest, lease.seconds)
            prolong_at = min(prolong_at, lease.prolong_at)
            if not lease.start_confirmed and lease.confirm_at < due_at and not lease.is_settled:
                due_at = lease.confirm_at
        if not leases:
            shortest = 3 * PRESENCE
        self._check_loop(shortest / 3)
        if self._requested:
            prolong_at = -math.inf
        due_at = min(due_at, prolong_at)
        self._planned_at = max(due_at, self._retry_at)
        now = time.monotonic()
        if self._planned_at > now:
            return min(self._planned_at - now, shortest / 12, _LONGEST_SLEEP)
        # Where only starts are to be confirmed, those that are due in a moment go along.
        confirm = [lease for lease in leases if lease.due_at <= now + _CONFIRM_INTERVAL]
        named = leases if prolong_at <= now else confirm
        requested, self._requested = self._requested, False
        if not self._beat(leases, shortest, named) and requested:
            self._requested = True  # nobody repeats the wake-up that asked for it
        return 0.0

    def _beat(self, leases: list[Lease], shortest: float, named: list[Lease]) -> bool:
        """Prolong the leases that are named; return whether the database answered."""
        sent_at = time.monotonic()
        # A pause that the API asked for must not cost leases.
        pause = self._calls.quiet_until - sent_at
        if pause > 0 and all(lease.ends_at > self._calls.quiet_until for lease in leases):
            self._retry_at = self._calls.quiet_until
            return False
        # Time for another attempt while all leases hold.
        soonest = min((lease.ends_at for lease in leases), default=math.inf) - sent_at
        timeout = max(_MIN_TIMEOUT, min(soonest, shortest / 3))
        call = _rpc.heartbeat_jobs(
            self._worker, {lease.job.key: lease.job.lease_key for lease in named}
        )
        try:
            answer = self._connection.call(call, timeout)
        except Exception as error:
            self._note_failure(error, leases, shortest)
            return False
        self._calls.note_success()
        self._delay.reset()
        self._beaten_at = sent_at
        for lease in named:  # the lost ones too, so that none is named again before it is dropped
            lease.confirmed_at = sent_at
            lease.start_confirmed = True
        self._notify(self._on_answer, named, answer)
        self._notify(self._signals.beaten.emit, None)
        return True

    def _note_failure(self, error: Exception, leases: list[Lease], shortest: float) -> None:
        self._calls.note_pause(error)
        self._calls.note_failure(error, "heartbeat_jobs")
        if is_refusal(error):
            self._calls.alarm(f"The project refuses heartbeats: {error}")
        now = time.monotonic()
        pause = min(self._calls.quiet_until - now, shortest / 3)
        self._retry_at = now + max(self._delay.next(), pause)
        for lease in leases:
            # An outcome is kept: its lease may still be in force when the database is back.
            if not (lease.is_valid or lease.is_settled):
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
