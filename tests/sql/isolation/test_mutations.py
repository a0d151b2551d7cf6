"""Mutation tests: the tests in test_isolation.py fail if the engine lacks a protection.

Each mutation replaces a text in one function. Its test also fails if the function no longer
contains the text. In that case, change the mutation.
"""

import os
from dataclasses import dataclass

import pytest

from . import internals
from .conftest import copied_database
from .database import IsolationDatabase, NotIsolated, RefusedCall, open_database
from .disturbances import DISTURBANCES, Disturbance
from .flows import FLOWS, Flow, run

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"

pytestmark = pytest.mark.timeout(3600)


@dataclass(frozen=True)
class Mutation:
    """A replacement in a function, and the disturbance and flow that are expected to fail with it.

    `also` is a second text and its replacement, for a call that waits only if both are replaced.
    """

    name: str
    function: str
    text: str
    replacement: str
    disturbance: str
    flow: str
    also: tuple[str, str] | None = None


CATCHES, CATCHES_NOTHING = "exception when others then", "exception when division_by_zero then"
SKIPS, WAITS = "for update skip locked", "for update"

MUTATIONS = (
    Mutation("steps catch no error", "_run_isolated", CATCHES, CATCHES_NOTHING,
             "trigger on any update", "maintain_jobs"),
    Mutation("claims are not repeated in parts", "_start_isolated", CATCHES, CATCHES_NOTHING,
             "trigger on the start", "claim_jobs"),
    Mutation("claims wait for locked jobs", "_pick", SKIPS, WAITS,
             "held lock on a job", "claim_jobs"),
    Mutation("claims wait for their worker's row", "_touch_worker", SKIPS, WAITS,
             "held lock on a worker", "claim_jobs"),
    Mutation("claims wait for locked keys", "_lock_keys", "lock_timeout TO '50ms'",
             "lock_timeout TO '0'", "uncommitted pause_key", "claim_jobs"),
    Mutation("reports are not repeated outcome by outcome", "report_jobs",
             "picture_queue._report_each(outcomes)", "picture_queue._report(outcomes)",
             "trigger on the completion", "report_jobs"),
    Mutation("reports wait for locked jobs", "report_jobs", "lock_timeout TO '300ms'",
             "lock_timeout TO '0'", "held lock on a job", "report_jobs"),
    Mutation("maintenance waits for a locked batch", "_count_batches", SKIPS, WAITS,
             "held lock on a batch", "maintain_jobs"),
    Mutation("reports wait for a locked queue", "_check_breakers", "of q skip locked", "of q",
             "held lock on a queue", "report_jobs that fail"),
    Mutation("reports resolve many at once", "_record_follow_ups", "k.ids, 100)", "k.ids, 100000)",
             "many dependents", "report_jobs"),
    Mutation("heartbeats wait for locked jobs", "_heartbeat", SKIPS, WAITS,
             "held lock on a job", "heartbeat_jobs",
             also=("lock_timeout TO '10ms'", "lock_timeout TO '0'")),
    Mutation("heartbeats are not repeated lease by lease", "heartbeat_jobs", CATCHES,
             CATCHES_NOTHING, "trigger on any update", "heartbeat_jobs"),
    Mutation("a refused callback is not recorded", "_enqueue_callbacks", CATCHES,
             CATCHES_NOTHING, "callback with an unknown field", "report_jobs"),
    Mutation("the tick of a schedule catches no error", "_run_due_schedules", CATCHES,
             CATCHES_NOTHING, "failing schedule", "maintain_jobs"),
    Mutation("an event is one step", "_wake_parked", "picture_queue._run_isolated('wake'",
             "picture_queue._run_step('wake'", "trigger on any update", "send_event"),
    Mutation("a change of many jobs is one step", "_change_matching",
             "picture_queue._run_isolated(p_step", "picture_queue._run_step(p_step",
             "trigger on any update", "change_jobs"),
    Mutation("a purge is one step", "_change_matching", "picture_queue._run_isolated(p_step",
             "picture_queue._run_step(p_step", "trigger on any update", "purge_queue"),
)  # fmt: skip


def combinations(mutation: Mutation) -> list[tuple[Disturbance, Flow]]:
    """Return the expected combination; in the long profile, return all others after it."""
    pairs = [(disturbance, flow) for disturbance in DISTURBANCES for flow in FLOWS]
    expected = (mutation.disturbance, mutation.flow)
    pairs.sort(key=lambda pair: (pair[0].name, pair[1].name) != expected)
    assert (pairs[0][0].name, pairs[0][1].name) == expected
    return pairs if LONG else pairs[:1]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_the_suite_fails_if(stack, own_database, mutation):
    async def passes(disturbance: Disturbance, flow: Flow, mutation: Mutation | None) -> bool:
        template = own_database.rsplit("/", 1)[1]
        async with copied_database(stack, template) as url, open_database(url) as db:
            if mutation:
                await apply_mutation(db, mutation)
            try:
                await run(db, disturbance, flow)
            except (NotIsolated, RefusedCall):
                return False
            return True

    for disturbance, flow in combinations(mutation):
        # A combination that fails without the mutation proves nothing.
        if not await passes(disturbance, flow, mutation) and await passes(disturbance, flow, None):
            return
    pytest.fail("the suite does not notice this mutation")


async def apply_mutation(db: IsolationDatabase, mutation: Mutation) -> None:
    text = await internals.function_text(db.owner, mutation.function)
    replacements = [
        (mutation.text, mutation.replacement),
        *([mutation.also] if mutation.also else []),
    ]
    for old, new in replacements:
        assert text and old in text, "the engine has changed: change the mutation"
        text = text.replace(old, new)
    await db.owner.execute(text)
