"""The worker's log of outcomes: one line for each attempt, once the database has the outcome."""

import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue.worker import executor
from picture_queue.worker.executor import log_outcome
from picture_queue.worker.outcomes import (
    Cancelled,
    Completed,
    Failed,
    Outcome,
    Parked,
    Released,
    Snoozed,
)
from picture_queue.worker.reporter import Reporter
from picture_queue.worker.slots import Slots

from ..signals import Signals

Lines = Callable[[], list[tuple[str, str]]]
RESULT_REFUSED = "the database refused its result; the error of the job has the reason"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return a function that returns the level and text of each line about an outcome."""
    caplog.set_level(logging.INFO)
    return lambda: [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == executor.__name__
    ]


@pytest.mark.parametrize(
    ("outcome", "status", "level", "expected"),
    [
        (Completed(1), "completed", "INFO", "completed, attempt 1"),
        (Snoozed(5), "pending", "INFO", "snoozed, attempt 1"),
        (Snoozed(5, detail="429"), "pending", "WARNING", "snoozed, attempt 1: 429"),
        (Parked(5), "processing", "INFO", "parked, attempt 1"),
        (Released(), "pending", "INFO", "released, attempt 1"),
        (Cancelled(), "cancelled", "INFO", "cancelled, attempt 1"),
        (Failed("no"), "pending", "WARNING", "failed, attempt 1 of 3: no"),
        (Failed("no"), "failed", "ERROR", "failed, attempt 1 of 3: no"),
        (Failed("no", retryable=False), "failed", "ERROR", "failed, attempt 1, for good: no"),
        (Failed("no"), "cancelled", "WARNING", "cancelled, attempt 1 of 3: no"),
        (Released(), "cancelled", "INFO", "cancelled, attempt 1"),
        (Completed(1), "failed", "ERROR", f"failed, attempt 1, for good: {RESULT_REFUSED}"),
        (None, None, "INFO", "lost its lease, attempt 1"),
    ],
)
def test_a_line_names_the_new_state_of_the_job(make_job, lines, outcome, status, level, expected):
    job = make_job()
    log_outcome(job, outcome, 0.5, status)
    assert lines() == [(level, f"Job {job.id_text} (resize) {expected} (0.500 s)")]


def test_a_failure_is_logged_with_its_traceback(make_job, caplog):
    caplog.set_level(logging.INFO)
    job = make_job(attempt=3)
    log_outcome(job, Failed("ValueError: no", "Traceback …"), 0.5, "failed")
    line, traceback = caplog.records
    assert "failed, attempt 3 of 3: ValueError: no" in line.getMessage()
    assert "Traceback" not in line.getMessage()
    assert (traceback.levelname, traceback.name) == ("INFO", f"{executor.__name__}.tracebacks")
    assert traceback.getMessage() == f"The traceback of job {job.id_text}:\n    Traceback …"


def test_a_line_below_the_log_level_is_not_formatted(make_job, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(executor._log, "log", None)
    log_outcome(make_job(), Completed(), 0.5, "completed")


async def test_outcomes_are_reported_although_a_logging_handler_fails(report, monkeypatch, capsys):
    class FailingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ConnectionError("the log server is down")

    logger = logging.getLogger(executor.__name__)
    monkeypatch.setattr(logger, "handlers", [FailingHandler()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    await report(Completed(1), {"outcome": "ok", "status": "completed"})
    await report(Failed("no", "Trace"), {"outcome": "ok", "status": "failed"})
    assert "ConnectionError: the log server is down" in capsys.readouterr().err


# --- Lines after the response to the report ---

Report = Callable[..., Any]


@pytest.fixture
async def report(backend, make_job) -> AsyncIterator[Report]:
    """Return a function that reports an outcome; the fake database gives these answers in turn."""
    signals = Signals()
    calls: Any = SimpleNamespace(
        call=lambda rpc, timeout, **options: backend.call(rpc), emit=signals.emit, worker="w"
    )
    reporter = Reporter(calls, Slots(10, lambda job: None), lambda jobs: None)
    reporter.start()

    async def report_outcome(
        outcome: Outcome, *answers: dict[str, Any], seconds: float | None = 0.5
    ) -> Any:
        remaining = list(answers)

        def answer(params: dict[str, Any]) -> Any:
            return {"outcomes": [{"job_id": job.id_text, **remaining.pop(0)}], "jobs": []}

        backend.answers["report_jobs"] = answer
        job = make_job()
        reporter.put(job, outcome, seconds)
        await signals.reported.next()
        return job

    yield report_outcome
    await reporter.stop(1)


async def test_an_outcome_that_the_database_stores_at_the_second_report_is_logged_once(
    lines, report
):
    busy = {"outcome": "busy", "status": None}
    job = await report(Completed(1), busy, {"outcome": "ok", "status": "completed"})
    assert lines() == [("INFO", f"Job {job.id_text} (resize) completed, attempt 1 (0.500 s)")]


async def test_a_result_that_the_database_refuses_is_logged_as_a_failure(lines, report):
    job = await report(Completed("x" * 99), {"outcome": "ok", "status": "failed"})
    expected = f"Job {job.id_text} (resize) failed, attempt 1, for good: {RESULT_REFUSED} (0.500 s)"
    assert lines() == [("ERROR", expected)]


async def test_an_outcome_that_the_database_refuses_is_logged_with_its_reason(lines, report):
    refused = {"outcome": "refused", "status": None, "error": "a trigger says no"}
    await report(Completed(1), refused, {"outcome": "ok", "status": "failed"})
    ((level, line),) = lines()
    assert level == "ERROR"
    assert "failed, attempt 1, for good: The outcome of the job could not be written" in line
    assert "a trigger says no" in line


async def test_a_stale_report_is_not_logged_as_completed(lines, report):
    await report(Completed(1), {"outcome": "stale", "status": "pending"})
    assert lines() == []


async def test_the_release_of_a_job_that_never_started_is_not_logged(lines, report):
    await report(Released(), {"outcome": "ok", "status": "pending"}, seconds=None)
    assert lines() == []
