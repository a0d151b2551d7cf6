"""Reports: many in one call, and none is lost."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from picture_queue import errors
from picture_queue.settings import WorkerSettings
from picture_queue.worker import reporter
from picture_queue.worker._link import Link
from picture_queue.worker._signals import Signals
from picture_queue.worker.claimer import Claimer, Demand
from picture_queue.worker.outcomes import Completed, Failed, Released
from picture_queue.worker.reporter import Reporter


class Bench:
    """A reporter, and a database that takes what it is told."""

    def __init__(self, project: Any, claimed: Any) -> None:
        self.project = project
        self.claimed = claimed
        self.signals = Signals().watch()
        self.launched: list[UUID] = []
        self.ended: list[UUID] = []
        self.one_ended = asyncio.Event()
        self.free = 0
        self.given: list[dict[str, Any]] = []
        project.answers["report_jobs"] = self.take
        project.answers["claim_jobs"] = lambda params: []
        link = Link(project)
        self.claimer = Claimer(
            link,
            "w",
            ("resize",),
            WorkerSettings(),
            lambda: Demand(self.free, self.free),
            lambda job, asked_at: self.launched.append(job.id),
            self.signals,
        )
        self.reporter = Reporter(link, self.claimer, self._ended, self.signals)

    def _ended(self, job: Any) -> None:
        self.ended.append(job.id)
        self.one_ended.set()

    def take(self, params: dict[str, Any], answer: str = "ok") -> dict[str, Any]:
        return {
            "outcomes": [
                {"job_id": item["job_id"], "outcome": answer, "status": "completed"}
                for item in params["outcomes"]
            ],
            "jobs": self.given if "claim" in params else [],
        }

    def put(self, result: Any = None) -> Any:
        job = self.claimed()
        self.reporter.put(job, Completed(result), 0.5)
        return job

    async def reported(self, count: int) -> list[tuple[UUID, str]]:
        return [await self.signals.reported.next() for _ in range(count)]


@pytest.fixture
async def bench(project, claimed):
    made = Bench(project, claimed)
    made.reporter.start()
    yield made
    await made.reporter.stop(1)


async def test_an_outcome_is_written_at_once(bench, project):
    job = bench.put({"a": 1})
    assert await bench.reported(1) == [(job.id, "ok")]
    params = await project.next("report_jobs")
    assert params == {
        "outcomes": [
            {
                "job_id": str(job.id),
                "lease_id": str(job.lease_id),
                "duration_seconds": 0.5,
                "outcome": "completed",
                "result": {"a": 1},
            }
        ]
    }
    assert bench.ended == [job.id]
    assert bench.reporter.backlog == 0


async def test_what_comes_together_meanwhile_goes_in_one_call(bench, project):
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def slow(params: dict[str, Any]) -> Any:
        await answer
        return bench.take(params)

    project.answers["report_jobs"] = slow
    bench.put()
    await project.next("report_jobs")
    later = [bench.put() for _ in range(20)]
    answer.set_result(None)
    assert len((await project.next("report_jobs"))["outcomes"]) == 20
    assert [job_id for job_id, _ in (await bench.reported(21))[1:]] == [job.id for job in later]


async def test_a_claim_travels_along(bench, project, row):
    bench.free, bench.given = 4, [row(), row()]
    bench.put()
    await bench.reported(1)
    params = await project.next("report_jobs")
    assert params["claim"]["max_jobs"] == 4
    assert [str(job_id) for job_id in bench.launched] == [job["id"] for job in bench.given]


async def test_an_outcome_is_repeated_until_it_is_answered(bench, project):
    bench.free = 1
    failures = [errors.ConnectionFailed("cut"), TimeoutError(), errors.AuthenticationFailed("old")]

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop(0)
        return bench.take(params, "repeated")

    project.answers["report_jobs"] = fail_first
    job = bench.put()
    assert await bench.reported(1) == [(job.id, "repeated")]
    asked = [await project.next("report_jobs") for _ in range(4)]
    assert asked[0]["outcomes"] == asked[3]["outcomes"]


async def test_a_report_that_never_arrives_does_not_hold_up_the_others(bench, project, claimed):
    def fail_for_one(params: dict[str, Any]) -> Any:
        if any(item["job_id"] == str(bad.id) for item in params["outcomes"]):
            raise errors.ConnectionFailed("a proxy in between finds it too large")
        return bench.take(params)

    project.answers["report_jobs"] = fail_for_one
    bad, *good = [bench.put() for _ in range(4)]
    assert {job_id for job_id, _ in await bench.reported(3)} == {job.id for job in good}
    assert bench.reporter.backlog == 1


async def test_an_outcome_whose_job_is_locked_is_sent_again_and_the_others_are_done(bench, project):
    def answer_one(params: dict[str, Any]) -> Any:
        answered = bench.take(params)
        for one in answered["outcomes"]:
            if one["job_id"] == str(locked.id) and len(calls) < 3:
                one["outcome"] = "busy"
        calls.append(len(params["outcomes"]))
        return answered

    calls: list[int] = []
    project.answers["report_jobs"] = answer_one
    locked, *good = [bench.put() for _ in range(4)]
    assert {job_id for job_id, _ in await bench.reported(3)} == {job.id for job in good}
    assert await bench.signals.reported.next() == (locked.id, "ok")
    assert len(calls) == 4 and locked.id in bench.ended


@pytest.mark.parametrize("refuses", ["the result", "everything"])
async def test_an_outcome_that_the_database_refuses_fails_its_job_or_gives_it_up(
    bench, project, refuses, caplog
):
    def refuse_one(params: dict[str, Any]) -> Any:
        answered = bench.take(params)
        for item, one in zip(params["outcomes"], answered["outcomes"], strict=True):
            bad = item["outcome"] == "completed" or refuses == "everything"
            if item["job_id"] == str(other.id) and bad:
                one["outcome"] = "refused"
            else:
                taken[item["job_id"]] = item["outcome"]
        return answered

    taken: dict[str, str] = {}
    project.answers["report_jobs"] = refuse_one
    other, good = bench.put(), bench.put()
    assert await bench.signals.reported.next() == (good.id, "ok")
    if refuses == "the result":
        assert await bench.signals.reported.next() == (other.id, "ok")
        assert taken[str(other.id)] == "failed"
    async with asyncio.timeout(5):
        while other.id not in bench.ended:
            await bench.one_ended.wait()
            bench.one_ended.clear()
    assert bench.reporter.backlog == 0
    assert ("cannot be written" in caplog.text) == (refuses == "everything")


@pytest.mark.parametrize(
    "error",
    [errors.InvalidArgument("untranslatable", code="22P05"), errors.TooLarge("x"), ValueError("x")],
)
async def test_an_outcome_the_database_cannot_take_fails_its_job_alone(bench, project, error):
    def refuse_one(params: dict[str, Any]) -> Any:
        for item in params["outcomes"]:
            if item.get("result") == "bad":
                raise error
        taken.extend(params["outcomes"])
        return bench.take(params)

    taken: list[dict[str, Any]] = []
    project.answers["report_jobs"] = refuse_one
    good, bad = bench.put("good"), bench.put("bad")
    assert {job_id for job_id, _ in await bench.reported(2)} == {good.id, bad.id}
    by_job = {item["job_id"]: item for item in taken}
    assert by_job[str(good.id)]["outcome"] == "completed"
    failed = by_job[str(bad.id)]
    assert (failed["outcome"], failed["retryable"]) == ("failed", False)
    assert "could not be written" in failed["error"]


async def test_what_cannot_even_be_failed_is_left_to_its_lease(bench, project, caplog):
    def refuse(params: dict[str, Any]) -> Any:
        raise errors.InvalidArgument("never")

    project.answers["report_jobs"] = refuse
    job = bench.put()
    while bench.reporter.backlog:
        await project.next("report_jobs")
        await asyncio.sleep(0)
    assert "cannot be written" in caplog.text
    assert bench.ended == [job.id]


async def test_a_stale_report_is_said_to_be_lost_work(bench, project, caplog):
    project.answers["report_jobs"] = lambda params: bench.take(params, "stale")
    job = bench.put()
    assert await bench.reported(1) == [(job.id, "stale")]
    assert f"The work on job {job.id} was not recorded" in caplog.text
    assert bench.ended == [job.id]


async def test_a_stale_release_is_no_lost_work(bench, project, caplog):
    project.answers["report_jobs"] = lambda params: bench.take(params, "stale")
    job = bench.claimed()
    bench.reporter.put(job, Released())
    assert await bench.reported(1) == [(job.id, "stale")]
    assert caplog.text == ""


async def test_a_newer_attempt_of_a_job_replaces_what_its_older_had_to_say(
    project, claimed, monkeypatch
):
    bench = Bench(project, claimed)
    job = claimed()
    again = claimed(id=job.key, lease_id=str(UUID(int=1)))
    bench.reporter.put(job, Failed("old"))
    bench.reporter.put(again, Completed("new"))
    bench.reporter.start()
    await bench.reported(1)
    (item,) = (await project.next("report_jobs"))["outcomes"]
    assert (item["lease_id"], item["outcome"]) == (str(UUID(int=1)), "completed")
    await bench.reporter.stop(1)


async def test_a_call_has_a_bounded_number_of_outcomes(project, claimed, monkeypatch):
    monkeypatch.setattr(reporter, "BATCH", 4)
    bench = Bench(project, claimed)
    for _ in range(10):
        bench.put()
    bench.reporter.start()
    await bench.reported(10)
    assert [len((await project.next("report_jobs"))["outcomes"]) for _ in range(3)] == [4, 4, 2]
    await bench.reporter.stop(1)


async def test_a_stop_writes_what_is_left(bench, project):
    job = bench.put()
    await bench.reporter.stop(5)
    assert bench.ended == [job.id]


async def test_a_stop_says_what_could_not_be_written(bench, project, caplog):
    def refuse(params: dict[str, Any]) -> Any:
        raise errors.ConnectionFailed("gone")

    project.answers["report_jobs"] = refuse
    job = bench.put()
    await bench.reporter.stop(0.05)
    assert f"The outcome of job {job.id} (completed) could not be written" in caplog.text
