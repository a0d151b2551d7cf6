"""Heartbeats: their times, their answers, and faults that do not stop them."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from picture_queue.errors import Busy, ConnectionFailed
from picture_queue.records import HeartbeatAnswer
from picture_queue.worker import heartbeat
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker.executor import Stop
from picture_queue.worker.heartbeat import HeartbeatLoop
from picture_queue.worker.slots import Lease, Slots

from ..signals import Signals


class FakeAttempt:
    """The part of an attempt that a lease needs."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.settled = False
        self.stops: list[Stop] = []


class Bench:
    """A heartbeat, leases, and a database that gives the answer it was told to."""

    def __init__(self, project: Any, claimed: Any) -> None:
        self.project = project
        self.claimed = claimed
        self.signals = Signals()
        self.slots = Slots(10, lambda job: None)
        self.calls = WorkerCalls(project, "w", self.signals.emit)
        self.confirmed: asyncio.Queue[Lease] = asyncio.Queue()
        self.cancelled: asyncio.Queue[Lease] = asyncio.Queue()
        self.lost: asyncio.Queue[tuple[Lease, str]] = asyncio.Queue()
        self.connection = project.for_thread()
        self.heartbeat = HeartbeatLoop(self.calls, self.slots, self.take_answer, self.lose)
        project.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": []}

    def start(self) -> None:
        connection: Any = self.connection
        self.heartbeat.start(connection)

    def take_answer(self, leases: list[Lease], answer: HeartbeatAnswer) -> None:
        for lease in leases:
            if lease.job.key in answer.lost:
                self.lose(lease, "the database says so")
            else:
                self.confirmed.put_nowait(lease)
            if lease.job.key in answer.cancel:
                self.cancelled.put_nowait(lease)

    def lose(self, lease: Lease, reason: str) -> None:
        self.slots.drop_lease(lease.job)
        self.lost.put_nowait((lease, reason))

    def hold(self, age: float = 0.0, confirmed: bool = True, **columns: Any) -> Any:
        """Give a slot to a job whose lease was asked for some seconds ago."""
        attempt: Any = FakeAttempt(self.claimed(**columns))
        lease = Lease(attempt.job, time.monotonic() - age, start_confirmed=confirmed)
        self.slots.add(lease)
        self.slots.assign_slot(lease, attempt)
        self.heartbeat.schedule_confirm(lease)
        return lease


@pytest.fixture
async def bench(project, claimed) -> AsyncIterator[Bench]:
    made = Bench(project, claimed)
    made.start()
    yield made
    await made.heartbeat.stop()
    assert made.connection.closed.is_set()


async def test_all_leases_go_in_one_call_when_the_first_is_due(bench, project):
    old = bench.hold(age=11)
    new = bench.hold()
    params = await project.next("heartbeat_jobs")
    while len(params["leases"]) < 2:  # the thread may be quicker than the test
        old.confirmed_at -= 11
        bench.heartbeat.beat_now()
        params = await project.next("heartbeat_jobs")
    assert params["worker"] == "w"
    assert {item["job_id"]: item["lease_id"] for item in params["leases"]} == {
        lease.job.key: lease.job.lease_key for lease in (old, new)
    }
    await bench.signals.beaten.next()
    assert time.monotonic() - old.confirmed_at < 5


async def test_a_lease_is_prolonged_at_a_third_of_its_length(bench):
    lease = bench.hold(lease_seconds=0.3)
    began = lease.confirmed_at
    await bench.signals.beaten.next()
    assert lease.confirmed_at >= began + 0.1
    assert bench.lost.empty()


async def test_a_short_lease_is_prolonged_in_time_although_a_long_one_came_first(bench):
    bench.hold(lease_seconds=3600)
    await asyncio.sleep(0)
    bench.hold(lease_seconds=0.3)
    await bench.signals.beaten.next()


async def test_a_job_that_is_held_ahead_is_not_confirmed(bench, project):
    bench.slots.add(Lease(bench.claimed(lease_seconds=0.3), time.monotonic() - 0.3))
    bench.heartbeat.beat_now()
    assert (await project.next("heartbeat_jobs"))["leases"] == []


@pytest.mark.parametrize("in_bulk", [False, True])
async def test_a_start_is_confirmed_soon_and_by_itself(bench, project, in_bulk):
    if in_bulk:
        bench.slots.hold(Lease(bench.claimed(), time.monotonic()))
    bench.hold()
    lease = bench.hold(confirmed=False)
    params = await project.next("heartbeat_jobs")
    started_at = lease.confirmed_at
    assert (time.monotonic() - started_at >= heartbeat._CONFIRM_AFTER_IN_BULK) or not in_bulk
    assert [item["job_id"] for item in params["leases"]] == [lease.job.key]
    assert await bench.confirmed.get() is lease
    assert lease.start_confirmed


async def test_a_job_that_ended_at_once_costs_no_heartbeat(bench, project):
    lease = bench.hold(confirmed=False)
    lease.attempt.settled = True
    other = bench.hold(confirmed=False)
    params = await project.next("heartbeat_jobs")
    assert [item["job_id"] for item in params["leases"]] == [other.job.key]


async def test_a_job_that_waits_for_its_confirmation_does_not_wait_long(bench):
    lease = Lease(bench.claimed(), time.monotonic())
    bench.slots.add(lease)
    bench.slots.assign_slot(lease, None)
    bench.heartbeat.schedule_confirm(lease)
    assert await bench.confirmed.get() is lease


async def test_starts_are_confirmed_together_and_those_during_a_call_by_the_next(bench, project):
    """A slow link costs one round trip for all, not one each."""
    go = asyncio.Event()

    async def slow(params: dict[str, Any]) -> Any:
        calls.append(len(params["leases"]))
        await go.wait()
        return {"cancel": [], "lost": []}

    calls: list[int] = []
    project.answers["heartbeat_jobs"] = slow
    first = [bench.hold(confirmed=False) for _ in range(5)]
    await project.next("heartbeat_jobs")
    later = []
    for _ in range(5):
        later.append(bench.hold(confirmed=False))
        await asyncio.sleep(0.01)
    go.set()
    assert [await bench.confirmed.get() for _ in range(10)] == first + later
    assert calls == [5, 5]


async def test_a_lost_lease_is_named_once(bench, project, monkeypatch):
    """The event loop may be blocked before it drops the lease."""
    lease = bench.hold(confirmed=False)
    monkeypatch.setattr(bench, "lose", lambda *args: bench.lost.put_nowait(args))
    project.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": [lease.job.key]}
    await bench.lost.get()
    await asyncio.sleep(0.1)
    assert bench.lost.empty()


async def test_a_confirmation_that_was_not_answered_is_repeated(bench, project):
    answers = iter([ConnectionFailed("cut"), ConnectionFailed("cut")])

    def answer(params: dict[str, Any]) -> Any:
        if error := next(answers, None):
            raise error
        return {"cancel": [], "lost": []}

    project.answers["heartbeat_jobs"] = answer
    lease = bench.hold(confirmed=False)
    assert await bench.confirmed.get() is lease
    assert bench.confirmed.empty()


async def test_a_worker_without_leases_shows_that_it_lives(project, claimed, monkeypatch):
    monkeypatch.setattr(heartbeat, "PRESENCE", 0.02)
    bench = Bench(project, claimed)
    bench.start()
    assert (await project.next("heartbeat_jobs"))["leases"] == []
    await bench.heartbeat.stop()


async def test_a_cancel_request_arrives_in_the_event_loop(bench, project):
    lease = bench.hold()
    bench.hold()
    project.answers["heartbeat_jobs"] = lambda params: {"cancel": [lease.job.key], "lost": []}
    bench.heartbeat.beat_now()
    await bench.signals.beaten.next()
    assert bench.cancelled.get_nowait() is lease
    assert bench.cancelled.empty() and bench.lost.empty()


async def test_a_cancel_request_is_asked_for_again_after_a_failure(bench, project):
    """The wake-up that told of it comes once, and the lease is not due for long."""
    lease = bench.hold(lease_seconds=3600)
    failed = False

    def answer(params: dict[str, Any]) -> dict[str, Any]:
        nonlocal failed
        if not failed:
            failed = True
            raise ConnectionFailed("reset by peer")
        return {"cancel": [lease.job.key], "lost": []}

    project.answers["heartbeat_jobs"] = answer
    bench.heartbeat.beat_now()
    async with asyncio.timeout(5):
        assert await bench.cancelled.get() is lease


async def test_a_lost_lease_is_told_to_the_event_loop(bench, project):
    lease = bench.hold()
    project.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": [lease.job.key]}
    bench.heartbeat.beat_now()
    await bench.signals.beaten.next()
    found, reason = bench.lost.get_nowait()
    assert (found, reason) == (lease, "the database says so")


async def test_without_an_answer_for_the_whole_lease_it_is_lost(bench, project):
    def fail(params: dict[str, Any]) -> Any:
        raise ConnectionFailed("cut")

    project.answers["heartbeat_jobs"] = fail
    lease = bench.hold(lease_seconds=0.3)
    finished = bench.hold(lease_seconds=0.3)
    finished.attempt.settled = True
    async with asyncio.timeout(5):
        found, reason = await bench.lost.get()
    assert found is lease and reason == "no heartbeat was answered for its whole length"
    assert time.monotonic() >= lease.ends_at
    assert not bench.calls.is_up
    # An outcome is kept under its lease: when the database is back it may still be in time.
    assert bench.slots.leases() == [finished]


async def test_a_blocked_event_loop_stops_no_heartbeat_and_is_named(
    project, claimed, caplog, monkeypatch
):
    """A handler computes for longer than its lease; the answers do not need the event loop."""
    bench = Bench(project, claimed)
    beats: list[float] = []

    def answer(rpc: Any, timeout: float) -> Any:
        beats.append(time.monotonic())
        return rpc.parse({"cancel": [], "lost": []})

    monkeypatch.setattr(bench.connection, "call", answer)
    bench.start()
    lease = bench.hold(lease_seconds=0.6)

    async def block() -> None:
        time.sleep(2.0)  # noqa: ASYNC251

    job = lease.job
    began = time.monotonic()
    await asyncio.create_task(block(), name=f"{job.job_type} {job.key}")
    ended = time.monotonic()
    assert lease.is_valid
    assert len([at for at in beats if began < at < ended]) >= 3
    await asyncio.sleep(0.2)
    await bench.heartbeat.stop()
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith(f"The handler of job {job.id} (resize) has blocked the event loop for ")
    assert "test_worker_heartbeat.py" in first
    seconds = float(second.rsplit(" ", 2)[1])
    assert second.startswith(f"The handler of job {job.id} (resize) blocked the event loop for ")
    assert 1.9 < seconds < 10


async def test_code_of_no_handler_that_blocks_is_named_by_its_task(bench, caplog):
    bench.hold(lease_seconds=0.6)

    async def block() -> None:
        await asyncio.sleep(0.1)
        time.sleep(1.0)  # noqa: ASYNC251

    await asyncio.create_task(block(), name="somebody's")
    assert "Code of somebody's has blocked the event loop for" in caplog.text


async def test_a_process_that_was_stopped_blames_no_handler(bench):
    """After SIGSTOP and SIGCONT neither the event loop nor the thread has run for a while."""
    bench.hold(lease_seconds=30)
    await asyncio.sleep(0.1)
    monitor = bench.heartbeat._monitor
    monitor._loop_ran_at -= 60
    monitor._checked_at -= 60
    assert monitor.check(10) is None
    monitor._loop_ran_at -= 60
    assert "has blocked the event loop" in monitor.check(10)


async def test_a_fault_of_the_watch_over_the_event_loop_costs_no_heartbeat(
    project, claimed, monkeypatch, caplog
):
    def fail(limit: float) -> None:
        raise OSError("no frames")

    bench = Bench(project, claimed)
    monkeypatch.setattr(bench.heartbeat._monitor, "_check", fail)
    monkeypatch.setattr(heartbeat, "_FAULT_DELAY", 60.0)
    bench.start()
    bench.hold(lease_seconds=0.3)
    for _ in range(3):
        await bench.signals.beaten.next()
    await bench.heartbeat.stop()
    assert "The event loop could not be checked: OSError('no frames')" in caplog.text


async def test_a_log_that_takes_long_delays_no_heartbeat(project, claimed, monkeypatch):
    """The warning about a blocked event loop is written after the heartbeat that is due."""
    order: list[str] = []

    def answer(rpc: Any, timeout: float) -> Any:
        order.append("beat")
        return rpc.parse({"cancel": [], "lost": []})

    bench = Bench(project, claimed)
    monkeypatch.setattr(bench.connection, "call", answer)
    monkeypatch.setattr(bench.heartbeat._monitor, "check", lambda limit: "blocked")
    logged = asyncio.Event()

    def warning(text: str) -> None:
        order.append(text)
        asyncio_loop.call_soon_threadsafe(logged.set)

    asyncio_loop = asyncio.get_running_loop()
    monkeypatch.setattr(heartbeat._log, "warning", warning)
    bench.heartbeat.beat_now()
    bench.start()
    await asyncio.wait_for(logged.wait(), 5)
    await bench.heartbeat.stop()
    assert order[:2] == ["beat", "blocked"]


async def test_a_handler_that_holds_the_gil_is_told_of(bench, caplog):
    """No thread of the process can send a heartbeat meanwhile; afterwards the log says why."""
    bench.hold(lease_seconds=0.6)
    await asyncio.sleep(0.1)
    sum(range(5 * 10**7))  # one call into C: no other thread runs before it returns
    async with asyncio.timeout(5):
        while "held the GIL" not in caplog.text:  # noqa: ASYNC110 - it is a thread that logs
            await asyncio.sleep(0.01)


async def test_a_pause_that_the_api_asks_for_costs_no_lease(bench, project):
    """A heartbeat is sent at a third of the lease where the lease would end in the pause."""
    calls: list[float] = []

    def limit(params: dict[str, Any]) -> Any:
        calls.append(time.monotonic())
        error = Busy("too many calls")
        error.retry_after = 30.0
        raise error

    project.answers["heartbeat_jobs"] = limit
    lease = bench.hold(lease_seconds=0.9)
    async with asyncio.timeout(5):
        await bench.lost.get()
    assert 2 <= len(calls) <= 4
    assert all(later - earlier >= 0.25 for earlier, later in pairwise(calls))
    assert time.monotonic() >= lease.ends_at


async def test_a_worker_without_jobs_keeps_the_pause(project, claimed, monkeypatch):
    monkeypatch.setattr(heartbeat, "PRESENCE", 0.02)
    bench = Bench(project, claimed)
    bench.calls.quiet_until = time.monotonic() + 0.5
    bench.start()
    began = time.monotonic()
    await project.next("heartbeat_jobs")
    assert time.monotonic() - began >= 0.45
    await bench.heartbeat.stop()


async def test_a_worker_that_was_never_stopped_leaves_no_thread(project, claimed, monkeypatch):
    """Its event loop is closed, and the leases are to end with it."""
    bench = Bench(project, claimed)

    def answer(rpc: Any, timeout: float) -> Any:
        return rpc.parse({"cancel": [], "lost": []})

    class ClosedLoop:
        def is_closed(self) -> bool:
            return False  # it is closed just after that

        def call_soon_threadsafe(self, *args: Any) -> None:
            raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(bench.connection, "call", answer)
    bench.start()
    monkeypatch.setattr(bench.heartbeat, "_loop", ClosedLoop())
    bench.heartbeat.beat_now()
    assert await asyncio.to_thread(bench.connection.closed.wait, 5)
