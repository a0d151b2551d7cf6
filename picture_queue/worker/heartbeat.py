"""Keep the leases of a worker alive, from a separate thread with its own connection."""

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
from picture_queue.worker._loop import wait_for
from picture_queue.worker.slots import Lease, Slots

if TYPE_CHECKING:
    from picture_queue._transport.backend_sync import Backend

_log = Log(__name__)

#: Maximum number of seconds between two heartbeats. After a minute without a heartbeat, the
#: database does not list a worker as alive and sends it no wake-ups.
MAX_INTERVAL = 20.0
#: Seconds from the start of a job to the confirmation of its start. No confirmation is sent if the
#: outcome of the job is reported first.
_CONFIRM_AFTER = 0.001
_CONFIRM_AFTER_IN_BULK = 0.1  # instead of _CONFIRM_AFTER while jobs end quickly
_CONFIRM_INTERVAL = 0.025  # seconds between two calls that only confirm starts
# Maximum number of seconds that the thread sleeps: while a handler blocks the event loop, the timer
# that wakes the thread for a confirmation does not run.
_MAX_SLEEP = 1.0
_MIN_TIMEOUT = 1.0  # minimum timeout of a call in seconds, even if a lease is shorter
_FAULT_DELAY = 1.0  # seconds until the next tick after an unexpected exception
_STOP_TIMEOUT = 3.0  # seconds for the thread to end


class HeartbeatLoop:
    """A thread that confirms starts, extends leases, and receives requests to stop jobs.

    Handlers that block the event loop, or use all connections of the client, do not stop the
    thread. The thread logs a warning when a handler blocks the event loop for a third of a lease.

    Args:
        calls: The calls of the worker; they record whether the heartbeats of the thread succeed.
        slots: The slots, with the leases.
        on_answer: Called in the event loop of the worker with the leases in a heartbeat and its
            answer.
        on_lost: Called in the event loop of the worker with a lease that ended because heartbeats
            were not answered, and the reason.
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
        # Number of calls of `beat_now`, and of those after which a heartbeat was answered.
        self._requests = self._served = 0
        self._delay = RetryDelay()
        self._retry_at = 0.0
        self._last_beat_at = self._next_beat_at = time.monotonic()

    def start(self, connection: "Backend") -> None:
        """Start the thread, which owns the connection and closes it at the end."""
        self._connection = connection
        self._monitor.start()
        self._thread.start()

    def beat_now(self) -> None:
        """Send a heartbeat at once; its answer names the jobs to stop."""
        self._requests += 1
        self._woken.set()

    def schedule_confirm(self, lease: Lease) -> None:
        """Schedule the confirmation of the start of a job that just got its slot.

        If the job must not run before the confirmation, the call is made at once. A job that runs
        already is confirmed a little later, together with others. If the job ends before that time,
        its report confirms the start, and no call is needed.
        """
        if lease.attempt is None or lease.extend_at < self._next_beat_at:
            self._woken.set()
        if lease.attempt is not None:
            delay = _CONFIRM_AFTER_IN_BULK if self._slots.in_bulk else _CONFIRM_AFTER
            lease.confirm_at = max(lease.confirm_at + delay, self._last_beat_at + _CONFIRM_INTERVAL)
            # Waking the thread for each job would take longer than the smallest job.
            if self._timer is None:
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
        """End the thread. Wait at most `_STOP_TIMEOUT` for it, since it may wait for an answer."""
        self._stopping = True
        self._woken.set()
        self._monitor.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread.ident is None:
            return  # the thread was not started
        await wait_for(self._ended, _STOP_TIMEOUT)

    # --- in the thread ---

    def _run(self) -> None:
        # If the event loop was closed without a stop of the worker, no handler runs any more. Then
        # let the leases expire.
        while not (self._stopping or self._loop.is_closed()):
            wait, warning = _FAULT_DELAY, None
            try:
                self._next_beat_at = math.inf  # a lease added from here on wakes the thread
                leases = self._slots.leases()
                shortest = _shortest(leases)
                warning = self._monitor.check(shortest / 3)
                wait = self._tick(leases, shortest)
            except Exception:
                _log.exception("The heartbeat failed and continues")
            if warning is not None:  # after the heartbeat, since logging may take long
                _log.warning(warning)
            self._woken.wait(wait)
            self._woken.clear()
        with contextlib.suppress(Exception):
            self._connection.close()
        self._notify(self._ended.set)

    def _tick(self, leases: list[Lease], shortest: float) -> float:
        """Send a heartbeat if one is due; return the seconds until the next tick."""
        requests = self._requests  # read now, since `beat_now` may be called during the heartbeat
        extend_at = self._last_beat_at + MAX_INTERVAL if requests == self._served else -math.inf
        due_at = extend_at
        for lease in leases:  # in one pass, since this thread keeps the event loop from the GIL
            extend_at = min(extend_at, lease.extend_at)
            due_at = min(due_at, lease.due_at)
        self._next_beat_at = max(due_at, self._retry_at)
        now = time.monotonic()
        if self._next_beat_at > now:
            # A twelfth of a lease: `LoopMonitor.check` needs four calls in a third of a lease.
            return min(self._next_beat_at - now, shortest / 12, _MAX_SLEEP)
        # Confirm the starts that are due soon in the same call.
        confirm = [lease for lease in leases if lease.due_at <= now + _CONFIRM_INTERVAL]
        to_extend = leases if extend_at <= now else confirm
        if self._beat(leases, shortest, to_extend):
            self._served = requests  # only after success, since beat_now() is not called again
        return 0.0

    def _beat(self, leases: list[Lease], shortest: float, to_extend: list[Lease]) -> bool:
        """Send a heartbeat that extends some of the leases.

        Args:
            leases: All leases, which determine the timeout of the call.
            shortest: The length of the shortest lease, in seconds.
            to_extend: The leases to extend.

        Returns:
            False if a lease was not extended, so that the call must be repeated.
        """
        sent_at = time.monotonic()
        # Honour the pause that the API asked for (Retry-After), unless a lease would expire first.
        quiet_until = self._calls.quiet_until
        if quiet_until > sent_at and all(lease.ends_at > quiet_until for lease in leases):
            self._retry_at = quiet_until
            return False
        # Leave time for a second call before the first lease expires.
        first_expiry = min((lease.ends_at for lease in leases), default=math.inf) - sent_at
        timeout = max(_MIN_TIMEOUT, min(first_expiry, shortest / 3))
        lease_ids = {lease.job.id_text: lease.job.lease_id_text for lease in to_extend}
        call = _rpc.heartbeat_jobs(self._calls.worker, lease_ids)
        try:
            answer = self._connection.call(call, timeout)
        except Exception as error:
            self._record_failure(error, leases, shortest)
            return False
        self._calls.record_success(call.function)
        self._last_beat_at = sent_at
        if answer.busy:
            self._retry_at = sent_at + self._delay.next()
        else:
            self._delay.reset()
        answered = [lease for lease in to_extend if lease.job.id_text not in answer.busy]
        # Lost leases too, so that they are not sent again before `on_answer` drops them.
        for lease in answered:
            lease.renewed_at = sent_at
            lease.start_confirmed = True
        self._notify(self._on_answer, answered, answer)
        self._notify(self._calls.emit, "heartbeat_answered")
        return not answer.busy

    def _record_failure(self, error: Exception, leases: list[Lease], shortest: float) -> None:
        self._calls.record_failure(error, "heartbeat_jobs")
        if is_refusal(error):
            self._calls.log_fault(f"The project refuses heartbeats: {error}")
        now = time.monotonic()
        pause = min(self._calls.quiet_until - now, shortest / 3)
        self._retry_at = now + max(self._delay.next(), pause)
        for lease in leases:
            # Keep a job with an outcome: the database may accept its report when it answers again.
            if not (lease.is_valid or lease.has_outcome):
                reason = "no heartbeat was answered during the whole lease"
                self._notify(self._on_lost, lease, reason)

    def _notify(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the event loop was closed without a stop of the worker
            self._stopping = True

    def _describe(self, task: str) -> str | None:
        """Describe a task by its name; None if it does not belong to an attempt."""
        lease = self._slots.find(task.rpartition(" ")[2])  # `Attempt` names its task "type id"
        return f"The handler of job {lease.job.id} ({lease.job.job_type})" if lease else None


def _shortest(leases: list[Lease]) -> float:
    """Return the length of the shortest lease, in seconds."""
    return min((lease.seconds for lease in leases), default=3 * MAX_INTERVAL)
