"""Reports of outcomes to the database: their batches, their repetition, and refused outcomes."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from picture_queue import errors
from picture_queue.worker import reporter
from picture_queue.worker._calls import WorkerCalls
from picture_queue.worker.outcomes import Completed, Failed, Outcome, Released
from picture_queue.worker.reporter import Reporter
from picture_queue.worker.slots import Slots

from ..signals import Signals


class Harness:
    """A reporter, and a fake database that accepts every outcome."""

    def __init__(self, backend: Any, make_job: Any) -> None:
        self.backend = backend
        self.make_job = make_job
        self.signals = Signals()
        self.ended: list[UUID] = []  # Jobs that the reporter no longer holds.
        self.job_ended = asyncio.Event()
        backend.answers["report_jobs"] = self.report
        calls = WorkerCalls(backend, "w", self.signals.emit)
        self.slots = slots = Slots(10, lambda job: None)
        self.locked_reporter = Reporter(calls, slots, self._on_written)
        self.reporter = Reporter(calls, slots, self._on_written, self.locked_reporter)

    def start(self) -> None:
        self.locked_reporter.start()
        self.reporter.start()

    async def stop(self, timeout: float) -> None:
        await self.reporter.stop(timeout)
        await self.locked_reporter.stop(timeout)

    def _on_written(self, jobs: Any) -> None:
        self.ended += [job.id for job in jobs]
        self.job_ended.set()

    @property
    def backlog(self) -> int:
        return len(self.reporter._waiting) + len(self.locked_reporter._waiting)

    def report(self, params: dict[str, Any], answer: str = "ok") -> dict[str, Any]:
        return {
            "outcomes": [
                {"job_id": item["job_id"], "outcome": answer, "status": "completed"}
                for item in params["outcomes"]
            ],
            "jobs": [],
        }

    def put(self, result: Any = None) -> Any:
        job = self.make_job()
        self.reporter.put(job, Completed(result), 0.5)
        return job

    async def wait_reported(self, count: int) -> list[tuple[UUID, str]]:
        return [await self.signals.reported.next() for _ in range(count)]


@pytest.fixture
async def harness(backend, make_job):
    harness = Harness(backend, make_job)
    harness.start()
    yield harness
    await harness.stop(1)


async def test_an_outcome_is_written_at_once(harness, backend):
    job = harness.put({"a": 1})
    assert await harness.wait_reported(1) == [(job.id, "ok")]
    params = await backend.next_call("report_jobs")
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
    assert harness.ended == [job.id]
    assert harness.backlog == 0


async def test_outcomes_that_arrive_during_a_call_are_sent_together(harness, backend):
    may_answer = asyncio.Event()

    async def answer_later(params: dict[str, Any]) -> Any:
        await may_answer.wait()
        return harness.report(params)

    backend.answers["report_jobs"] = answer_later
    harness.put()
    await backend.next_call("report_jobs")
    later = [harness.put() for _ in range(20)]
    may_answer.set()
    assert len((await backend.next_call("report_jobs"))["outcomes"]) == 20
    assert [job_id for job_id, _ in (await harness.wait_reported(21))[1:]] == [
        job.id for job in later
    ]


async def test_a_report_is_retried_until_it_gets_a_response(harness, backend):
    failures = [errors.ConnectionFailed("cut"), TimeoutError(), errors.AuthenticationFailed("old")]

    def fail_first(params: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop(0)
        return harness.report(params, "repeated")

    backend.answers["report_jobs"] = fail_first
    job = harness.put()
    assert await harness.wait_reported(1) == [(job.id, "repeated")]
    requests = [await backend.next_call("report_jobs") for _ in range(4)]
    assert requests[0]["outcomes"] == requests[3]["outcomes"]


async def test_an_outcome_that_always_fails_does_not_delay_the_others(harness, backend, make_job):
    def fail_for_one(params: dict[str, Any]) -> Any:
        if any(item["job_id"] == str(failing.id) for item in params["outcomes"]):
            raise errors.ConnectionFailed("a proxy finds it too large")
        return harness.report(params)

    backend.answers["report_jobs"] = fail_for_one
    failing, *others = [harness.put() for _ in range(4)]
    assert {job_id for job_id, _ in await harness.wait_reported(3)} == {job.id for job in others}
    assert harness.backlog == 1


async def test_outcomes_of_locked_jobs_are_retried_separately(harness, backend):
    """The rows of two jobs are locked. The other outcomes are written without a delay."""

    def answer(params: dict[str, Any]) -> Any:
        response = harness.report(params)
        calls.append([item["job_id"] for item in params["outcomes"]])
        for outcome in response["outcomes"]:
            if outcome["job_id"] in locked and not unlocked.is_set():
                outcome["outcome"] = "busy"
        return response

    calls: list[list[str]] = []
    unlocked = asyncio.Event()
    backend.answers["report_jobs"] = answer
    jobs = [harness.put() for _ in range(5)]
    locked = {jobs[0].id_text, jobs[3].id_text}
    free = {job.id for job in jobs if job.id_text not in locked}
    assert {job_id for job_id, _ in await harness.wait_reported(3)} == free
    # Each further outcome is written at once, while the outcomes of the locked jobs are repeated.
    for _ in range(20):
        job = harness.put()
        assert await harness.wait_reported(1) == [(job.id, "ok")]
    assert all(locked.isdisjoint(call) or locked.issuperset(call) for call in calls[1:])
    unlocked.set()
    assert {job_id for job_id, _ in await harness.wait_reported(2)} == {jobs[0].id, jobs[3].id}
    assert harness.backlog == 0


@pytest.mark.parametrize(
    "error",
    [
        errors.Busy("another transaction has locked it"),
        errors.AuthenticationFailed("a firewall refuses the text of the outcome"),
        errors.ServerError("a proxy fails"),
    ],
)
async def test_a_single_outcome_that_cannot_be_written_delays_no_other(harness, backend, error):
    def answer(params: dict[str, Any]) -> Any:
        if len(params["outcomes"]) == 1 and params["outcomes"][0]["job_id"] == locked.id_text:
            raise error
        return harness.report(params)

    backend.answers["report_jobs"] = answer
    locked = harness.put()
    await backend.next_call("report_jobs")
    jobs = [harness.put() for _ in range(3)]
    assert {job_id for job_id, _ in await harness.wait_reported(3)} == {job.id for job in jobs}
    assert harness.backlog == 1
    assert harness.slots._locked == {locked.id_text}, "the slot is not free for new claims"
    assert harness.reporter._calls.is_up, "one failing outcome is treated as an outage"


async def test_a_refused_batch_is_halved_without_a_delay(harness, backend):
    """The job of the invalid outcome fails. The other outcomes are written unchanged."""

    def refuse_one(params: dict[str, Any]) -> Any:
        calls.append(len(params["outcomes"]))
        if any(item.get("result") == "bad" for item in params["outcomes"]):
            raise errors.InvalidArgument("no such value", code="22P02")
        return harness.report(params)

    calls: list[int] = []
    backend.answers["report_jobs"] = refuse_one
    jobs = [harness.put("bad" if n == 5 else "good") for n in range(16)]
    first = [job_id for job_id, _ in await harness.wait_reported(15)]
    assert set(first) == {job.id for job in jobs} - {jobs[5].id}
    assert (await harness.wait_reported(1))[0][0] == jobs[5].id
    assert len(calls) < 14


async def test_a_refused_outcome_is_found_although_outcomes_arrive_during_each_call(
    harness, backend
):
    refused = 0

    def refuse_one(params: dict[str, Any]) -> Any:
        nonlocal refused
        if refused:
            for _ in range(40):
                harness.put("good")
        if any(item.get("result") == "bad" for item in params["outcomes"]):
            refused += 1
            raise errors.InvalidArgument("no such value", code="22P02")
        return harness.report(params)

    jobs = [harness.put("bad" if n == 5 else "good") for n in range(64)]
    backend.answers["report_jobs"] = refuse_one
    async with asyncio.timeout(20):
        while jobs[5].id not in harness.ended:
            await harness.wait_reported(1)
    backend.answers["report_jobs"] = harness.report
    # The batches have 64, 32, 16, 8, 4, 2 and 1 outcomes, after the batch of the first call.
    assert refused <= 8


async def test_an_outcome_that_cannot_be_encoded_fails_only_its_job(harness, backend):
    class FailingOutcome(Outcome):
        name = "completed"

        def as_json(self) -> dict[str, Any]:
            raise OverflowError("date value out of range")

    job, good = harness.make_job(), harness.put("good")
    harness.reporter.put(job, FailingOutcome())
    assert {job_id for job_id, _ in await harness.wait_reported(2)} == {job.id, good.id}
    items = {item["job_id"]: item for item in (await backend.next_call("report_jobs"))["outcomes"]}
    assert items[good.id_text]["outcome"] == "completed"
    assert items[job.id_text]["outcome"] == "failed"
    assert "date value out of range" in items[job.id_text]["error"]


@pytest.mark.parametrize("refuses", ["the result", "everything"])
async def test_an_outcome_refused_by_the_database_fails_or_abandons_its_job(
    harness, backend, refuses, caplog
):
    def refuse_one(params: dict[str, Any]) -> Any:
        response = harness.report(params)
        for item, answer in zip(params["outcomes"], response["outcomes"], strict=True):
            is_refused = item["outcome"] == "completed" or refuses == "everything"
            if item["job_id"] == str(refused.id) and is_refused:
                answer |= {"outcome": "refused", "error": "a trigger of the project says no"}
            else:
                stored[item["job_id"]] = item["outcome"]
        return response

    stored: dict[str, str] = {}
    backend.answers["report_jobs"] = refuse_one
    refused, accepted = harness.put(), harness.put()
    assert await harness.signals.reported.next() == (accepted.id, "ok")
    if refuses == "the result":
        assert await harness.signals.reported.next() == (refused.id, "ok")
        assert stored[str(refused.id)] == "failed"
    async with asyncio.timeout(5):
        while refused.id not in harness.ended:
            await harness.job_ended.wait()
            harness.job_ended.clear()
    assert harness.backlog == 0
    assert ("cannot be written" in caplog.text) == (refuses == "everything")
    (record,) = [record for record in caplog.records if "is refused" in record.getMessage()]
    assert record.levelname == "ERROR"
    assert record.getMessage() == (
        f"The outcome of job {refused.id} (completed) is refused, and the job fails: "
        "a trigger of the project says no"
    )


@pytest.mark.parametrize(
    "error",
    [errors.InvalidArgument("untranslatable", code="22P05"), errors.TooLarge("x"), ValueError("x")],
)
async def test_an_outcome_that_causes_a_database_error_fails_only_its_job(harness, backend, error):
    def refuse_one(params: dict[str, Any]) -> Any:
        for item in params["outcomes"]:
            if item.get("result") == "bad":
                raise error
        stored.extend(params["outcomes"])
        return harness.report(params)

    stored: list[dict[str, Any]] = []
    backend.answers["report_jobs"] = refuse_one
    good, bad = harness.put("good"), harness.put("bad")
    assert {job_id for job_id, _ in await harness.wait_reported(2)} == {good.id, bad.id}
    by_job = {item["job_id"]: item for item in stored}
    assert by_job[str(good.id)]["outcome"] == "completed"
    failed = by_job[str(bad.id)]
    assert (failed["outcome"], failed["retryable"]) == ("failed", False)
    assert "could not be written" in failed["error"]


async def test_a_job_whose_failure_the_database_refuses_too_is_abandoned(harness, backend, caplog):
    def refuse(params: dict[str, Any]) -> Any:
        raise errors.InvalidArgument("never")

    backend.answers["report_jobs"] = refuse
    job = harness.put()
    while harness.backlog:
        await backend.next_call("report_jobs")
        await asyncio.sleep(0)
    assert "cannot be written" in caplog.text
    assert harness.ended == [job.id]


async def test_a_stale_report_is_logged_as_lost_work(harness, backend, caplog):
    backend.answers["report_jobs"] = lambda params: harness.report(params, "stale")
    job = harness.put()
    assert await harness.wait_reported(1) == [(job.id, "stale")]
    assert f"The outcome of job {job.id} (completed) was not recorded" in caplog.text
    assert harness.ended == [job.id]


async def test_a_stale_release_is_not_logged_as_lost_work(harness, backend, caplog):
    backend.answers["report_jobs"] = lambda params: harness.report(params, "stale")
    job = harness.make_job()
    harness.reporter.put(job, Released())
    assert await harness.wait_reported(1) == [(job.id, "stale")]
    assert caplog.text == ""


async def test_the_outcome_of_a_newer_attempt_replaces_that_of_an_older_attempt(
    backend, make_job, monkeypatch
):
    harness = Harness(backend, make_job)
    job = make_job()
    claimed_again = make_job(id=job.id_text, lease_id=str(UUID(int=1)))
    harness.reporter.put(job, Failed("old"))
    harness.reporter.put(claimed_again, Completed("new"))
    harness.start()
    await harness.wait_reported(1)
    (item,) = (await backend.next_call("report_jobs"))["outcomes"]
    assert (item["lease_id"], item["outcome"]) == (str(UUID(int=1)), "completed")
    await harness.stop(1)


async def test_the_number_of_outcomes_in_a_call_is_limited(backend, make_job, monkeypatch):
    monkeypatch.setattr(reporter, "BATCH", 4)
    harness = Harness(backend, make_job)
    for _ in range(10):
        harness.put()
    harness.start()
    await harness.wait_reported(10)
    assert [len((await backend.next_call("report_jobs"))["outcomes"]) for _ in range(3)] == [
        4,
        4,
        2,
    ]
    await harness.stop(1)


async def test_a_stop_writes_the_remaining_outcomes(harness, backend):
    job = harness.put()
    await harness.reporter.stop(5)
    assert harness.ended == [job.id]


async def test_a_stop_logs_outcomes_that_could_not_be_written(harness, backend, caplog):
    def refuse(params: dict[str, Any]) -> Any:
        calls.append(params)
        raise errors.ConnectionFailed("gone")

    calls: list[Any] = []

    backend.answers["report_jobs"] = refuse
    job = harness.put()
    await harness.reporter.stop(0.05)
    assert f"The outcome of job {job.id} (completed) could not be written" in caplog.text
    assert len(calls) < 10, "the reporter does not wait between its attempts during a stop"
