"""User code may cancel the tasks of the worker, which must not lose an outcome."""

import asyncio
from typing import Any

import pytest

from picture_queue import (
    JobContext,
    errors,
)

from .conftest import WaitingHandler, until


def cancel_other_tasks(keep: asyncio.Task[Any]) -> None:
    """Cancel all tasks of the event loop except one, as a handler may do."""
    for task in asyncio.all_tasks() - {keep}:
        task.cancel()


@pytest.mark.parametrize("method", ["run", "start"])
async def test_cancelling_all_tasks_stops_the_worker_without_losing_outcomes(
    harness, backend, method, caplog
):
    """Cancel while a claim is in progress, and outcomes wait for their report or for their log."""
    test: Any = asyncio.current_task()
    # The jobs of each claim, by its request id: a repeated claim gets the same jobs.
    claimed: dict[str, list[dict[str, Any]]] = {}
    claiming, logging = asyncio.Event(), asyncio.Event()
    is_cancelled = False

    async def claim(params: dict[str, Any]) -> list[dict[str, Any]]:
        is_new = params["request_id"] not in claimed
        jobs = claimed.setdefault(params["request_id"], harness.claim(params))
        if is_new and last_job in [job["id"] for job in jobs]:
            claiming.set()
            await asyncio.Event().wait()
        return jobs

    async def log(params: dict[str, Any]) -> None:
        logging.set()
        await asyncio.Event().wait()

    def report(params: dict[str, Any]) -> Any:
        if not is_cancelled:
            raise errors.Busy("not now")
        return harness.report(params)

    backend.answers |= {"claim_jobs": claim, "report_jobs": report, "log_job": log}
    worker = harness.make_worker(concurrency=4)

    @worker.handler("ends")
    async def ends() -> int:
        return 1

    @worker.handler("logs")
    async def logs(job: JobContext) -> int:
        job.log("a line")
        return 2

    @worker.handler("cancels")
    async def cancels() -> None:
        nonlocal is_cancelled, last_job
        await logging.wait()
        last_job = harness.add_job(job_type="ends")
        harness.subscriptions.wake("default", "enqueue")
        await claiming.wait()
        is_cancelled = True
        cancel_other_tasks(keep=test)

    last_job = ""
    jobs = [harness.add_job(job_type=job_type) for job_type in ("ends", "logs", "cancels")]
    await worker.start()
    running = asyncio.create_task(worker.run()) if method == "run" else None
    await until(lambda: is_cancelled)
    await until(lambda: not worker.is_ready)
    await until(lambda: worker.name is None)
    if running is not None:
        with pytest.raises(errors.PictureQueueError, match=r"cancelled the \w+ of the worker"):
            await running
    outcomes = [harness.reported[job]["outcome"] for job in (*jobs, last_job)]
    assert outcomes == ["completed", "completed", "completed", "released"]
    assert caplog.text.count("Other code cancelled the ") == 1


async def test_cancelling_the_tasks_of_a_stop_loses_no_outcome(harness, backend):
    test: Any = asyncio.current_task()
    worker = harness.make_worker(shutdown_grace=30)
    handler = WaitingHandler(worker)
    job = harness.add_job()
    await worker.start()
    await handler.wait_started()
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: handler.context.shutdown_requested)
    cancel_other_tasks(keep=test)
    await asyncio.wait({stopping}, timeout=10)
    await until(lambda: worker.name is None)
    assert harness.reported[job]["outcome"] == "released"
    await backend.next_call("unregister_worker")


async def test_cancelling_a_stop_during_the_last_report_loses_no_outcome(harness, backend):
    """The task of the reporter is cancelled too, while it sends an outcome."""
    test: Any = asyncio.current_task()
    reporting = asyncio.Event()

    async def report(params: dict[str, Any]) -> Any:
        if not reporting.is_set():
            reporting.set()
            await asyncio.Event().wait()
        return harness.report(params)

    backend.answers["report_jobs"] = report
    worker = harness.make_worker()
    worker.handler("resize")(lambda: 1)
    job = harness.add_job()
    await worker.start()
    await reporting.wait()
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._supervisor._reporter.stopping)
    cancel_other_tasks(keep=test)
    await asyncio.wait({stopping}, timeout=10)
    await until(lambda: worker.name is None)
    assert harness.reported[job]["outcome"] == "completed"


async def test_cancelling_a_stop_during_a_claim_releases_the_claimed_jobs(harness, backend):
    test: Any = asyncio.current_task()
    # The jobs of each claim, by its request id: a repeated claim gets the same jobs.
    claimed: dict[str, list[dict[str, Any]]] = {}
    claiming = asyncio.Event()

    async def claim(params: dict[str, Any]) -> list[dict[str, Any]]:
        is_new = params["request_id"] not in claimed
        jobs = claimed.setdefault(params["request_id"], harness.claim(params))
        if jobs and is_new:
            claiming.set()
            await asyncio.Event().wait()
        return jobs

    backend.answers["claim_jobs"] = claim
    worker = harness.make_worker()
    worker.handler("resize")(lambda: 1)
    job = harness.add_job()
    await worker.start()
    await claiming.wait()
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._supervisor._claimer.stopping)
    cancel_other_tasks(keep=test)
    await asyncio.wait({stopping}, timeout=10)
    await until(lambda: worker.name is None)
    assert harness.reported[job]["outcome"] == "released"
