"""Mutation tests: the tests of this directory fail if a mechanism that isolates jobs is removed."""

import pytest

from .bad_jobs import DISTURB_OTHERS, HANDLERS, RESULTS, ROWS, STUCK, BadJob
from .conftest import worker_environment
from .flows import run_with_ordinary_jobs
from .harness import Harness, IsolationFailure
from .test_answers import check_throttled_worker
from .test_connections import proxied
from .test_isolation import block_event_loop

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

WAIT_TIMEOUT = 20.0  # Seconds after which a worker counts as hanging.


def find_bad_job(name: str) -> BadJob:
    (bad_job,) = [
        bad_job
        for bad_job in (*HANDLERS, *DISTURB_OTHERS, *RESULTS, *ROWS, *STUCK)
        if bad_job.name == name
    ]
    return bad_job


#: For each mutation, the name of the bad job that affects ordinary jobs because of the mutation.
DETECTING_BAD_JOBS = {
    "catch_no_base_exception": "raises KeyboardInterrupt",
    "read_properties_unguarded": "property retry_after raises",
    "send_delays_without_limits": "delay that is a time since the epoch",
    "let_handlers_cancel_others": "cancels tasks of other jobs",
    "store_any_json": "result that is not JSON",
    "read_all_or_nothing": "number of 5,000 digits in the payload",
    "wait_for_stuck_handlers": "ignores cancellation when the worker stops",
    "wait_for_stuck_tasks": "ignores cancellation when the worker stops",
    "wait_for_stuck_threads": "waits in a thread of asyncio forever",
}


@pytest.mark.parametrize("mutation", DETECTING_BAD_JOBS)
async def test_the_suite_detects_a_mutation(start, stack, service, db, mutation):
    bad_job = find_bad_job(DETECTING_BAD_JOBS[mutation])
    # A handler that ignores its cancellation has 25 seconds to clean up.
    timeout = WAIT_TIMEOUT + 25 * bad_job.name.startswith("ignores")
    queue, worker = start(worker_environment(stack, "http"), mutation, **bad_job.settings)
    harness = Harness(service, db, queue, worker, timeout)
    with pytest.raises(IsolationFailure):
        await run_with_ordinary_jobs(harness, bad_job)
    assert f"applied mutation: {mutation}" in worker.log, worker.log


@pytest.mark.parametrize(
    "mutation", ["send_heartbeats_in_the_event_loop", "do_not_watch_the_event_loop"]
)
async def test_the_suite_detects_a_mutation_while_the_event_loop_is_blocked(
    start, stack, service, db, mutation
):
    queue, worker = start(worker_environment(stack, "http"), mutation, lease=3)
    with pytest.raises(IsolationFailure):
        await block_event_loop(Harness(service, db, queue, worker, WAIT_TIMEOUT + 25))
    assert f"applied mutation: {mutation}" in worker.log, worker.log


async def test_the_suite_detects_a_mutation_while_the_api_throttles(
    start, stack, service, db, tmp_path
):
    with proxied(stack, "http", tmp_path) as (proxy, environment):
        queue, worker = start(environment, "ignore_retry_after")
        with pytest.raises(IsolationFailure):
            await check_throttled_worker(Harness(service, db, queue, worker, WAIT_TIMEOUT), proxy)
        assert "applied mutation: ignore_retry_after" in worker.log, worker.log
