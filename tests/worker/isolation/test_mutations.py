"""Mutation tests: the suite fails if one isolation is removed from the worker."""

from collections.abc import Awaitable, Callable

import pytest

from .conftest import environment
from .flows import run
from .kinds import HANDLERS, HARM, RESULTS, ROWS, STUCK, Kind
from .test_answers import throttle
from .test_connections import proxied
from .test_isolation import block
from .world import NotIsolated, World

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

GUARD = 20.0  # The limit in seconds is long enough to detect a worker that hangs.
Case = Callable[[World], Awaitable[None]]


def kind(name: str) -> Kind:
    (found,) = [one for one in (*HANDLERS, *HARM, *RESULTS, *ROWS, *STUCK) if one.name == name]
    return found


KINDS = {
    "catch_no_base_exception": "raises KeyboardInterrupt",
    "read_properties_unguarded": "property retry_after raises",
    "leave_waits_unbounded": "retry after an epoch",
    "let_handlers_cancel_others": "cancels the tasks of others",
    "store_any_json": "result that is not JSON",
    "read_all_or_nothing": "number of 5,000 digits in the payload",
    "wait_for_stuck_handlers": "swallows cancels at the stop",
    "wait_for_stuck_tasks": "swallows cancels at the stop",
    "wait_for_stuck_threads": "waits in a thread of asyncio for ever",
}


@pytest.mark.parametrize("mutation", KINDS)
async def test_the_suite_detects_a_mutation(start, stack, service, db, mutation):
    bad = kind(KINDS[mutation])
    # An attempt has 25 seconds to clean up.
    guard = GUARD + 25 * bad.name.startswith("swallows")
    queue, worker = start(environment(stack, "http"), mutation, **bad.settings)
    world = World(service, db, queue, worker, guard)
    with pytest.raises(NotIsolated):
        await run(world, bad)
    assert f"took out: {mutation}" in worker.log, worker.log


@pytest.mark.parametrize("mutation", ["beat_in_the_event_loop", "name_no_blocker"])
async def test_the_suite_detects_a_mutation_while_the_event_loop_is_blocked(
    start, stack, service, db, mutation
):
    queue, worker = start(environment(stack, "http"), mutation, lease=3)
    with pytest.raises(NotIsolated):
        await block(World(service, db, queue, worker, GUARD + 25))
    assert f"took out: {mutation}" in worker.log, worker.log


async def test_the_suite_detects_a_mutation_while_the_api_throttles(
    start, stack, service, db, tmp_path
):
    with proxied(stack, "http", tmp_path) as (proxy, environment):
        queue, worker = start(environment, "ignore_retry_after")
        with pytest.raises(NotIsolated):
            await throttle(World(service, db, queue, worker, GUARD), proxy)
        assert "took out: ignore_retry_after" in worker.log, worker.log
