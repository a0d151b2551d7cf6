"""Heartbeats: when, and what their answers do."""

import asyncio
from typing import Any

import pytest

from picture_queue.errors import ConnectionFailed
from picture_queue.worker import heartbeat
from picture_queue.worker._link import Link
from picture_queue.worker._signals import Signals
from picture_queue.worker.executor import Stop
from picture_queue.worker.heartbeat import Heartbeat, Lease, Leases


class Attempt:
    """What a lease needs of an attempt."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.settled = False
        self.stops: list[Stop] = []
        self.stopped = asyncio.Event()

    def stop(self, reason: Stop) -> None:
        self.stops.append(reason)
        self.stopped.set()


class Bench:
    def __init__(self, project: Any, claimed: Any) -> None:
        self.project = project
        self.claimed = claimed
        self.signals = Signals().watch()
        self.leases = Leases()
        self.heart = Heartbeat(Link(project), "w", self.leases, self.signals)
        self.clock = asyncio.get_running_loop().time
        project.answers["heartbeat_jobs"] = lambda params: {"cancel": [], "lost": []}

    def hold(self, age: float = 0.0, **columns: Any) -> Any:
        """Holds a lease that was asked for some seconds ago."""
        lease = Lease(Attempt(self.claimed(**columns)), self.clock() - age)  # type: ignore[arg-type]
        self.heart.hold(lease)
        return lease


@pytest.fixture
async def bench(project, claimed):
    made = Bench(project, claimed)
    made.heart.start()
    yield made
    await made.heart.stop(0)


async def test_all_leases_go_in_one_call_when_the_first_is_due(bench, project):
    old = bench.hold(age=11)
    new = bench.hold()
    params = await project.next("heartbeat_jobs")
    assert params["worker"] == "w"
    assert {item["job_id"]: item["lease_id"] for item in params["leases"]} == {
        str(lease.attempt.job.id): str(lease.attempt.job.lease_id) for lease in (old, new)
    }
    await bench.signals.beaten.next()
    assert bench.clock() - old.confirmed_at < 5


async def test_a_lease_is_prolonged_at_a_third_of_its_length(bench):
    lease = bench.hold(lease_seconds=0.09)
    began = lease.confirmed_at
    await bench.signals.beaten.next()
    assert lease.confirmed_at >= began + 0.03
    assert not lease.attempt.stops


async def test_a_short_lease_is_minded_although_a_long_one_came_first(bench):
    bench.hold(lease_seconds=3600)
    await asyncio.sleep(0)
    bench.hold(lease_seconds=0.03)
    await bench.signals.beaten.next()


async def test_a_worker_without_leases_shows_that_it_lives(project, claimed, monkeypatch):
    monkeypatch.setattr(heartbeat, "PRESENCE", 0.02)
    bench = Bench(project, claimed)
    bench.heart.start()
    assert (await project.next("heartbeat_jobs"))["leases"] == []
    await bench.heart.stop(0)


async def test_a_cancelled_job_is_stopped_the_moment_it_is_told(bench, project):
    lease, other = bench.hold(), bench.hold()
    project.answers["heartbeat_jobs"] = lambda params: {
        "cancel": [str(lease.attempt.job.id)],
        "lost": [],
    }
    bench.heart.beat_now()
    await bench.signals.beaten.next()
    assert lease.attempt.stops == [Stop.CANCEL]
    assert not other.attempt.stops


async def test_a_lost_lease_stops_its_handler(bench, project, caplog):
    lease = bench.hold()
    project.answers["heartbeat_jobs"] = lambda params: {
        "cancel": [],
        "lost": [str(lease.attempt.job.id)],
    }
    bench.heart.beat_now()
    await bench.signals.beaten.next()
    assert lease.attempt.stops == [Stop.LOST]
    assert list(bench.leases) == []
    assert "is lost and its handler stopped: the database" in caplog.text


async def test_a_lease_reported_while_the_question_was_out_is_nobodys_loss(bench, project, caplog):
    lease = bench.hold()

    def settle_meanwhile(params: dict[str, Any]) -> Any:
        lease.attempt.settled = True
        bench.leases.drop(lease.attempt.job)
        return {"cancel": [], "lost": [str(lease.attempt.job.id)]}

    project.answers["heartbeat_jobs"] = settle_meanwhile
    bench.heart.beat_now()
    await bench.signals.beaten.next()
    assert "lost" not in caplog.text


async def test_without_an_answer_for_the_whole_lease_the_handler_is_stopped(bench, project, caplog):
    def fail(params: dict[str, Any]) -> Any:
        raise ConnectionFailed("cut")

    project.answers["heartbeat_jobs"] = fail
    lease = bench.hold(lease_seconds=0.3)
    finished = bench.hold(lease_seconds=0.3)
    finished.attempt.settled = True
    await asyncio.wait_for(lease.attempt.stopped.wait(), 5)
    assert lease.attempt.stops == [Stop.LOST]
    assert bench.clock() >= lease.ends
    assert "no heartbeat was answered for its whole length" in caplog.text
    # An outcome is kept under its lease: when the database is back it may still be in time.
    assert list(bench.leases) == [finished]
    assert not finished.attempt.stops


async def test_a_job_claimed_again_here_ends_the_attempt_before(bench):
    older = bench.hold()
    job = older.attempt.job
    newer = bench.hold(id=str(job.id))
    assert older.attempt.stops == [Stop.LOST]
    bench.leases.drop(job)
    assert list(bench.leases) == [newer]
