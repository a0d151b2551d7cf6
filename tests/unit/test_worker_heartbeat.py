"""Heartbeats of a worker: their timing, the effect of the answers, and faults they survive."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from picture_queue.errors import Busy, ConnectionFailed
from picture_queue.records import HeartbeatAnswer
from picture_queue.worker import heartbeat
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker.executor import StopReason
from picture_queue.worker.heartbeat import HeartbeatLoop
from picture_queue.worker.slots import Lease, Slots

from ..signals import Signals


class FakeAttempt:
    """The attributes of an attempt that a lease uses."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.has_outcome = False
        self.stops: list[StopReason] = []


class Harness:
    """A heartbeat loop with leases, and a fake database whose answers the test sets.

    The queues have the leases that were confirmed, cancelled or lost.
    """

    def __init__(self, backend: Any, make_job: Any) -> None:
        self.backend = backend
        self.make_job = make_job
        self.signals = Signals()
        self.slots = Slots(10, lambda job: None)
        self.calls = WorkerCalls(backend, "w", self.signals.emit)
        self.confirmed: asyncio.Queue[Lease] = asyncio.Queue()
        self.cancelled: asyncio.Queue[Lease] = asyncio.Queue()
        self.lost: asyncio.Queue[tuple[Lease, str]] = asyncio.Queue()
        self.connection = backend.for_thread()
        self.heartbeat = HeartbeatLoop(self.calls, self.slots, self.take_answer, self.lose)
        backend.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": []}

    def start(self) -> None:
        connection: Any = self.connection
        self.heartbeat.start(connection)

    def take_answer(self, leases: list[Lease], answer: HeartbeatAnswer) -> None:
        for lease in leases:
            if lease.job.id_text in answer.lost:
                self.lose(lease, "the database says so")
            else:
                self.confirmed.put_nowait(lease)
            if lease.job.id_text in answer.cancel:
                self.cancelled.put_nowait(lease)

    def lose(self, lease: Lease, reason: str) -> None:
        self.slots.drop_lease(lease.job)
        self.lost.put_nowait((lease, reason))

    def start_job(self, age: float = 0.0, confirmed: bool = True, **columns: Any) -> Any:
        """Assign a slot to a job whose lease was granted `age` seconds ago; return the lease."""
        attempt: Any = FakeAttempt(self.make_job(**columns))
        lease = Lease(attempt.job, time.monotonic() - age, start_confirmed=confirmed)
        self.slots.add(lease)
        self.slots.assign_slot(lease, attempt)
        self.heartbeat.schedule_confirm(lease)
        return lease


@pytest.fixture
async def harness(backend, make_job) -> AsyncIterator[Harness]:
    harness = Harness(backend, make_job)
    harness.start()
    yield harness
    await harness.heartbeat.stop()
    assert harness.connection.closed.is_set()


async def test_one_call_extends_all_leases_when_the_first_is_due(harness, backend):
    old = harness.start_job(age=11)
    new = harness.start_job()
    params = await backend.next_call("heartbeat_jobs")
    # The heartbeat thread may have sent the first heartbeat before the second lease existed.
    while len(params["leases"]) < 2:
        old.renewed_at -= 11
        harness.heartbeat.beat_now()
        params = await backend.next_call("heartbeat_jobs")
    assert params["worker"] == "w"
    assert {item["job_id"]: item["lease_id"] for item in params["leases"]} == {
        lease.job.id_text: lease.job.lease_id_text for lease in (old, new)
    }
    await harness.signals.heartbeat_answered.next()
    assert time.monotonic() - old.renewed_at < 5


async def test_a_lease_is_extended_at_a_third_of_its_length(harness):
    lease = harness.start_job(lease_seconds=0.3)
    began = lease.renewed_at
    await harness.signals.heartbeat_answered.next()
    assert lease.renewed_at >= began + 0.1
    assert harness.lost.empty()


async def test_a_short_lease_is_extended_in_time_although_a_longer_lease_came_first(harness):
    harness.start_job(lease_seconds=3600)
    await asyncio.sleep(0)
    harness.start_job(lease_seconds=0.3)
    await harness.signals.heartbeat_answered.next()


async def test_a_job_without_a_slot_is_not_confirmed(harness, backend):
    harness.slots.add(Lease(harness.make_job(lease_seconds=0.3), time.monotonic() - 0.3))
    harness.heartbeat.beat_now()
    assert (await backend.next_call("heartbeat_jobs"))["leases"] == []


@pytest.mark.parametrize("in_bulk", [False, True])
async def test_a_heartbeat_that_confirms_a_start_has_no_other_leases(harness, backend, in_bulk):
    """While jobs are held, more starts will follow soon, so the worker waits longer for them."""
    if in_bulk:
        harness.slots.hold(Lease(harness.make_job(), time.monotonic()))
    harness.start_job()
    lease = harness.start_job(confirmed=False)
    params = await backend.next_call("heartbeat_jobs")
    started_at = lease.renewed_at
    assert (time.monotonic() - started_at >= heartbeat._CONFIRM_AFTER_IN_BULK) or not in_bulk
    assert [item["job_id"] for item in params["leases"]] == [lease.job.id_text]
    assert await harness.confirmed.get() is lease
    assert lease.start_confirmed


async def test_a_job_that_ends_at_once_needs_no_heartbeat(harness, backend):
    lease = harness.start_job(confirmed=False)
    lease.attempt.has_outcome = True
    running = harness.start_job(confirmed=False)
    params = await backend.next_call("heartbeat_jobs")
    assert [item["job_id"] for item in params["leases"]] == [running.job.id_text]


async def test_a_job_that_waits_for_its_confirmation_is_confirmed_quickly(harness):
    lease = Lease(harness.make_job(), time.monotonic())
    harness.slots.add(lease)
    harness.slots.assign_slot(lease, None)
    harness.heartbeat.schedule_confirm(lease)
    assert await harness.confirmed.get() is lease


async def test_starts_are_confirmed_in_batches(harness, backend):
    """A single call confirms all starts that wait at its time."""
    may_respond = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        calls.append(len(params["leases"]))
        await may_respond.wait()
        return {"cancel": [], "lost": []}

    calls: list[int] = []
    backend.answers["heartbeat_jobs"] = answer_later
    first = [harness.start_job(confirmed=False) for _ in range(5)]
    await backend.next_call("heartbeat_jobs")
    later = []
    for _ in range(5):
        later.append(harness.start_job(confirmed=False))
        await asyncio.sleep(0.01)
    may_respond.set()
    assert [await harness.confirmed.get() for _ in range(10)] == first + later
    assert calls == [5, 5]


async def test_a_lost_lease_is_reported_once(harness, backend, monkeypatch):
    """A blocked event loop drops the lease late; meanwhile more heartbeats find the lease lost."""
    lease = harness.start_job(confirmed=False)
    monkeypatch.setattr(harness, "lose", lambda *args: harness.lost.put_nowait(args))
    backend.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": [lease.job.id_text]}
    await harness.lost.get()
    await asyncio.sleep(0.1)
    assert harness.lost.empty()


async def test_a_confirmation_without_a_response_is_retried(harness, backend):
    answers = iter([ConnectionFailed("cut"), ConnectionFailed("cut")])

    def answer(params: dict[str, Any]) -> Any:
        if error := next(answers, None):
            raise error
        return {"cancel": [], "lost": []}

    backend.answers["heartbeat_jobs"] = answer
    lease = harness.start_job(confirmed=False)
    assert await harness.confirmed.get() is lease
    assert harness.confirmed.empty()


async def test_a_worker_without_leases_sends_heartbeats(backend, make_job, monkeypatch):
    monkeypatch.setattr(heartbeat, "MAX_INTERVAL", 0.02)
    harness = Harness(backend, make_job)
    harness.start()
    assert (await backend.next_call("heartbeat_jobs"))["leases"] == []
    await harness.heartbeat.stop()


async def test_a_cancel_request_is_delivered_to_the_event_loop(harness, backend):
    lease = harness.start_job()
    harness.start_job()
    backend.answers["heartbeat_jobs"] = lambda params: {"cancel": [lease.job.id_text], "lost": []}
    harness.heartbeat.beat_now()
    await harness.signals.heartbeat_answered.next()
    assert harness.cancelled.get_nowait() is lease
    assert harness.cancelled.empty() and harness.lost.empty()


async def test_a_failed_heartbeat_after_a_wake_up_is_retried(harness, backend):
    """A wake-up comes only once, and the next regular heartbeat is due much later."""
    lease = harness.start_job(lease_seconds=3600)
    failed = False

    def answer(params: dict[str, Any]) -> dict[str, Any]:
        nonlocal failed
        if not failed:
            failed = True
            raise ConnectionFailed("reset by peer")
        return {"cancel": [lease.job.id_text], "lost": []}

    backend.answers["heartbeat_jobs"] = answer
    harness.heartbeat.beat_now()
    async with asyncio.timeout(5):
        assert await harness.cancelled.get() is lease


async def test_a_lost_lease_is_delivered_to_the_event_loop(harness, backend):
    lease = harness.start_job()
    backend.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": [lease.job.id_text]}
    harness.heartbeat.beat_now()
    await harness.signals.heartbeat_answered.next()
    assert harness.lost.get_nowait() == (lease, "the database says so")


async def test_a_lease_without_an_answered_heartbeat_is_lost_at_its_end(harness, backend):
    def fail(params: dict[str, Any]) -> Any:
        raise ConnectionFailed("cut")

    backend.answers["heartbeat_jobs"] = fail
    lease = harness.start_job(lease_seconds=0.3)
    finished = harness.start_job(lease_seconds=0.3)
    finished.attempt.has_outcome = True
    async with asyncio.timeout(5):
        lost, reason = await harness.lost.get()
    assert lost is lease and reason == "no heartbeat was answered during the whole lease"
    assert time.monotonic() >= lease.ends_at
    assert not harness.calls.is_up
    # A finished job keeps its lease: its outcome may still be accepted when the database is back.
    assert harness.slots.leases() == [finished]


def block_until(condition: Callable[[], bool], min_seconds: float = 0.0) -> None:
    """Block the event loop for `min_seconds` at least, until a condition is true or 30 s passed."""
    began = time.monotonic()
    while time.monotonic() < began + (30 if not condition() else min_seconds):
        time.sleep(0.01)


async def test_a_blocked_event_loop_is_logged_and_does_not_stop_heartbeats(
    backend, make_job, caplog, monkeypatch
):
    """The event loop is blocked for longer than the lease, but a thread sends the heartbeats."""
    harness = Harness(backend, make_job)
    heartbeat_times: list[float] = []

    def answer(rpc: Any, timeout: float) -> Any:
        heartbeat_times.append(time.monotonic())
        return rpc.parse({"cancel": [], "lost": []})

    monkeypatch.setattr(harness.connection, "call", answer)
    harness.start()
    lease = harness.start_job(lease_seconds=2.0)
    job = lease.job
    began = time.monotonic()

    async def block() -> None:
        block_until(lambda: len([at for at in heartbeat_times if at > began]) >= 3, min_seconds=2.5)

    await asyncio.create_task(block(), name=f"{job.job_type} {job.id_text}")
    ended = time.monotonic()
    assert lease.is_valid
    assert len([at for at in heartbeat_times if began < at < ended]) >= 3
    await asyncio.sleep(0.2)
    await harness.heartbeat.stop()
    during, afterwards = [record.getMessage() for record in caplog.records]
    handler = f"The handler of job {job.id} (resize)"
    assert during.startswith(f"{handler} has blocked the event loop for ")
    assert "test_worker_heartbeat.py" in during  # The message has a traceback.
    seconds = float(afterwards.rsplit(" ", 2)[1])
    assert afterwards.startswith(f"{handler} blocked the event loop for ")
    assert 2.4 < seconds < 60


async def test_the_log_names_the_task_that_blocks_the_event_loop_outside_of_handlers(
    harness, caplog
):
    harness.start_job(lease_seconds=0.6)

    async def block() -> None:
        await asyncio.sleep(0.1)
        block_until(lambda: "has blocked the event loop" in caplog.text)

    await asyncio.create_task(block(), name="another task")
    assert "Code of another task has blocked the event loop for" in caplog.text


async def test_a_suspended_process_is_not_logged_as_a_blocked_event_loop(harness):
    """Between SIGSTOP and SIGCONT, neither the event loop nor the heartbeat thread runs.

    So a handler is at fault only if the thread ran while the event loop did not.
    """
    harness.start_job(lease_seconds=30)
    await asyncio.sleep(0.1)
    monitor = harness.heartbeat._monitor
    monitor._loop_ran_at -= 60
    monitor._checked_at -= 60
    assert monitor.check(10) is None
    monitor._loop_ran_at -= 60
    assert "has blocked the event loop" in monitor.check(10)


async def test_an_error_in_the_check_of_the_event_loop_does_not_delay_heartbeats(
    backend, make_job, monkeypatch, caplog
):
    def fail(limit: float) -> None:
        raise OSError("no frames")

    harness = Harness(backend, make_job)
    monkeypatch.setattr(harness.heartbeat._monitor, "_check", fail)
    monkeypatch.setattr(heartbeat, "_FAULT_DELAY", 60.0)
    harness.start()
    harness.start_job(lease_seconds=0.3)
    for _ in range(3):
        await harness.signals.heartbeat_answered.next()
    await harness.heartbeat.stop()
    assert "The event loop could not be checked: OSError('no frames')" in caplog.text


async def test_a_slow_log_does_not_delay_heartbeats(backend, make_job, monkeypatch):
    """A due heartbeat is sent before the message that the event loop is blocked is logged."""
    order: list[str] = []

    def answer(rpc: Any, timeout: float) -> Any:
        order.append("beat")
        return rpc.parse({"cancel": [], "lost": []})

    harness = Harness(backend, make_job)
    monkeypatch.setattr(harness.connection, "call", answer)
    monkeypatch.setattr(harness.heartbeat._monitor, "check", lambda limit: "blocked")
    logged = asyncio.Event()

    def warning(text: str) -> None:
        order.append(text)
        event_loop.call_soon_threadsafe(logged.set)

    event_loop = asyncio.get_running_loop()
    monkeypatch.setattr(heartbeat._log, "warning", warning)
    harness.heartbeat.beat_now()
    harness.start()
    await asyncio.wait_for(logged.wait(), 5)
    await harness.heartbeat.stop()
    assert order[:2] == ["beat", "blocked"]


async def test_a_handler_that_holds_the_gil_is_logged(harness, caplog):
    """While a handler holds the GIL, the heartbeat thread cannot run."""
    harness.start_job(lease_seconds=0.6)
    await asyncio.sleep(0.1)
    sum(range(5 * 10**7))  # A single call of a C function, which holds the GIL until it returns.
    async with asyncio.timeout(5):
        while "held the GIL" not in caplog.text:  # noqa: ASYNC110 - a thread writes the log
            await asyncio.sleep(0.01)


async def test_heartbeats_are_retried_before_a_lease_ends_despite_retry_after(harness, backend):
    """A refused heartbeat is repeated, because the lease ends before Retry-After has passed."""
    calls: list[float] = []

    def limit(params: dict[str, Any]) -> Any:
        calls.append(time.monotonic())
        error = Busy("too many calls")
        error.retry_after = 30.0
        raise error

    backend.answers["heartbeat_jobs"] = limit
    lease = harness.start_job(lease_seconds=0.9)
    async with asyncio.timeout(5):
        await harness.lost.get()
    assert 2 <= len(calls) <= 4
    assert all(later - earlier >= 0.25 for earlier, later in pairwise(calls))
    assert time.monotonic() >= lease.ends_at


async def test_a_worker_without_jobs_sends_no_heartbeat_before_retry_after_has_passed(
    backend, make_job, monkeypatch
):
    monkeypatch.setattr(heartbeat, "MAX_INTERVAL", 0.02)
    harness = Harness(backend, make_job)
    harness.calls.quiet_until = time.monotonic() + 0.5
    harness.start()
    began = time.monotonic()
    await backend.next_call("heartbeat_jobs")
    assert time.monotonic() - began >= 0.45
    await harness.heartbeat.stop()


async def test_no_thread_remains_after_the_event_loop_was_closed(backend, make_job, monkeypatch):
    """If a loop closes before the worker stops, heartbeats must end, so that the leases expire."""
    harness = Harness(backend, make_job)

    def answer(rpc: Any, timeout: float) -> Any:
        return rpc.parse({"cancel": [], "lost": []})

    class ClosedLoop:
        def is_closed(self) -> bool:
            return False  # Simulate a loop that is closed right after this check.

        def call_soon_threadsafe(self, *args: Any) -> None:
            raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(harness.connection, "call", answer)
    harness.start()
    monkeypatch.setattr(harness.heartbeat, "_loop", ClosedLoop())
    harness.heartbeat.beat_now()
    assert await asyncio.to_thread(harness.connection.closed.wait, 5)


async def test_a_heartbeat_requested_while_the_thread_reads_the_leases_is_sent(backend, make_job):
    """The current call only confirms a start, so a heartbeat for all leases must follow."""
    harness = Harness(backend, make_job)

    class RequestingLease(Lease):
        @property
        def due_at(self) -> float:
            if not requested.is_set():
                requested.set()
                harness.heartbeat.beat_now()
            return self.confirm_at

    requested = asyncio.Event()
    running = harness.start_job(lease_seconds=3600)
    starting = RequestingLease(make_job(lease_seconds=3600), time.monotonic())
    harness.slots.add(starting)
    attempt: Any = FakeAttempt(starting.job)
    harness.slots.assign_slot(starting, attempt)
    harness.start()
    params = await backend.next_call("heartbeat_jobs")
    while running.job.id_text not in [item["job_id"] for item in params["leases"]]:
        params = await backend.next_call("heartbeat_jobs")
    await harness.heartbeat.stop()


async def test_a_lease_whose_row_is_locked_is_not_extended_and_is_sent_again_soon(harness, backend):
    free = harness.start_job(confirmed=False)
    busy = harness.start_job(confirmed=False)
    granted_at = busy.renewed_at
    backend.answers["heartbeat_jobs"] = lambda params: {
        "cancel": [],
        "lost": [],
        "busy": [busy.job.id_text],
    }
    harness.heartbeat.beat_now()
    assert await harness.confirmed.get() is free
    assert (busy.start_confirmed, busy.renewed_at) == (False, granted_at)
    backend.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": []}
    while await harness.confirmed.get() is not busy:
        pass
    assert busy.start_confirmed
