"""Keep the leases of a worker alive, from a thread and over a connection of its own."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from picture_queue import _rpc
from picture_queue._log import Log
from picture_queue._runtime.loop_monitor import LoopMonitor
from picture_queue.records import HeartbeatAnswer
from picture_queue.worker._calls import RetryDelay, WorkerCalls, is_refusal
from picture_queue.worker.slots import Lease, Slots

if TYPE_CHECKING:
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
_STOP_TIMEOUT = 3.0  # seconds for the thread to end


class HeartbeatLoop:
    """Confirms that jobs have started, prolongs their leases, and learns which jobs to stop.

    It is a thread, so handlers that block the event loop, or take all connections of the worker's
    client, do not stop it. It warns of those that block the event loop for as long as a third of a
    lease.

    Args:
        calls: Notes whether the calls of the thread succeed.
        slots: Has the leases.
        on_answer: Called in the event loop of the worker with the leases that a heartbeat named,
            and its answer.
        on_lost: Called there with a lease that ended without an answer, and the reason.
    """

    def __init__(
        self,
        calls: WorkerCalls,
        slots: Slots,
        on_answer: Callable[[list[Lease], HeartbeatAnswer], None],
        on_lost: Callable[[Lease, str], None],
    ) -> None:
        self._calls = calls
        self._slots = slots
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._monitor = LoopMonitor(lambda: _shortest(slots.leases()) / 12, self._describe)
        self._timer: asyncio.TimerHandle | None = None
        self._connection: Backend
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._ended = asyncio.Event()
        self._woken = threading.Event()
        self._stopping = False
        self._requested = False  # by beat_now()
        self._delay = RetryDelay()
        self._retry_at = 0.0
        self._beaten_at = self._planned_at = time.monotonic()

    def start(self, connection: "Backend") -> None:
        """Start the thread. It alone uses the connection, and closes it at the end."""
        self._connection = connection
        self._monitor.start()
        self._thread.start()

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
            if self._timer is None:  # to wake the thread for each job costs more than a small job
                self._start_timer(lease.confirm_at)

    def _start_timer(self, at: float) -> None:
        self._timer = self._loop.call_later(at - time.monotonic(), self._wake_to_confirm)

    def _wake_to_confirm(self) -> None:
        self._timer = None
        due_at = self._slots.next_confirm_at()
        if due_at <= time.monotonic() + _CONFIRM_INTERVAL:
            self._woken.set()
        elif due_at < math.inf:
            self._start_timer(due_at)

    async def stop(self) -> None:
        """End the thread, unless it waits for an answer for too long."""
        self._stopping = True
        self._woken.set()
        self._monitor.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread.ident is None:
            return  # it was not started
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._ended.wait()

    # --- in the thread ---

    def _run(self) -> None:
        # A worker that was not stopped must not keep the leases of jobs that ended with its loop.
        while not (self._stopping or self._loop.is_closed()):
            wait, warning = _FAULT_DELAY, None
            try:
                self._planned_at = math.inf  # what is added from here on wakes the thread
                leases = self._slots.leases()
                shortest = _shortest(leases)
                warning = self._monitor.check(shortest / 3)
                wait = self._tick(leases, shortest)
            except Exception:
                _log.exception("The heartbeat failed and continues")
            if warning is not None:  # after the heartbeat, since a log may take long
                _log.warning(warning)
            self._woken.wait(wait)
            self._woken.clear()
        with contextlib.suppress(Exception):
            self._connection.close()
        self._notify(self._ended.set)

    def _tick(self, leases: list[Lease], shortest: float) -> float:
        """Send a heartbeat if one is due; return the seconds until the next tick."""
        prolong_at = -math.inf if self._requested else self._beaten_at + PRESENCE
        due_at = prolong_at
        for lease in leases:  # in one pass: there may be a thousand, and the event loop waits
            prolong_at = min(prolong_at, lease.prolong_at)
            due_at = min(due_at, lease.due_at)
        self._planned_at = max(due_at, self._retry_at)
        now = time.monotonic()
        if self._planned_at > now:
            return min(self._planned_at - now, shortest / 12, _LONGEST_SLEEP)
        # If only starts are to be confirmed, those that are due in a moment are confirmed as well.
        confirm = [lease for lease in leases if lease.due_at <= now + _CONFIRM_INTERVAL]
        named = leases if prolong_at <= now else confirm
        requested, self._requested = self._requested, False
        if not self._beat(leases, shortest, named) and requested:
            self._requested = True  # nobody repeats the wake-up that asked for it
        return 0.0

    def _beat(self, leases: list[Lease], shortest: float, named: list[Lease]) -> bool:
        """Send a heartbeat that names some leases; return whether the database answered."""
        sent_at = time.monotonic()
        # A pause that the API asked for must not cost leases.
        pause = self._calls.quiet_until - sent_at
        if pause > 0 and all(lease.ends_at > self._calls.quiet_until for lease in leases):
            self._retry_at = self._calls.quiet_until
            return False
        # Short enough for another attempt while all leases are valid.
        soonest = min((lease.ends_at for lease in leases), default=math.inf) - sent_at
        timeout = max(_MIN_TIMEOUT, min(soonest, shortest / 3))
        ids = {lease.job.key: lease.job.lease_key for lease in named}
        call = _rpc.heartbeat_jobs(self._calls.worker, ids)
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
        self._notify(self._calls.emit, "beaten")
        return True

    def _note_failure(self, error: Exception, leases: list[Lease], shortest: float) -> None:
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

    def _describe(self, task: str) -> str | None:
        """Return what a task of that name runs, if it is that of an attempt."""
        lease = self._slots.find(task.rpartition(" ")[2])  # as attempts name their tasks
        return f"The handler of job {lease.job.id} ({lease.job.job_type})" if lease else None


def _shortest(leases: list[Lease]) -> float:
    """Return the length of the shortest lease, seconds."""
    return min((lease.seconds for lease in leases), default=3 * PRESENCE)
