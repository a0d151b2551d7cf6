"""With an isolation taken out of the engine, the suite fails.

Each mutation replaces a text in one function. A mutation whose text is gone fails, too: then this
list must follow the engine.
"""

import os
from dataclasses import dataclass

import pytest

from . import inside
from .conftest import copied_database
from .flows import FLOWS, Flow, run
from .kinds import KINDS, Kind
from .world import NotIsolated, Refused, World, open_world

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"

pytestmark = pytest.mark.timeout(3600)


@dataclass(frozen=True)
class Mutation:
    """A text in a function, what replaces it, and which combination is to notice it first."""

    what: str
    function: str
    text: str
    replacement: str
    kind: str
    flow: str


MUTATIONS = (
    Mutation(
        "the tick of a schedule catches no error",
        "_run_due_schedule", "exception when others then", "exception when division_by_zero then",
        "failing schedule", "maintain_jobs",
    ),
    Mutation(
        "claims wait for locked jobs", "_start", "for update skip locked", "for update",
        "held lock on a job", "claim_jobs",
    ),
    Mutation(
        "heartbeats wait for locked jobs", "_heartbeat", "for update skip locked", "for update",
        "held lock on a job", "heartbeat_jobs",
    ),
    Mutation(
        "a callback that is refused fails the report", "_finish_batch", "'PT4%'", "'none'",
        "callback with an unknown field", "report_jobs",
    ),
    Mutation(
        "schedules wait for each other", "_run_schedules", "for update skip locked", "for update",
        "held lock on a schedule", "maintain_jobs",
    ),
)  # fmt: skip


def combinations(mutation: Mutation) -> list[tuple[Kind, Flow]]:
    """All of the suite, the likely one first; outside the long profile only that one."""
    both = [(kind, flow) for kind in KINDS for flow in FLOWS]
    both.sort(key=lambda pair: (pair[0].name, pair[1].name) != (mutation.kind, mutation.flow))
    assert (both[0][0].name, both[0][1].name) == (mutation.kind, mutation.flow)
    return both if LONG else both[:1]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
async def test_the_suite_fails_where(stack, own_database, mutation):
    async def passes(kind: Kind, flow: Flow, mutation: Mutation | None) -> bool:
        template = own_database.rsplit("/", 1)[1]
        async with copied_database(stack.db_url, template) as url, open_world(url) as world:
            if mutation:
                await apply(world, mutation)
            try:
                await run(world, kind, flow)
            except (NotIsolated, Refused):
                return False
            return True

    for kind, flow in combinations(mutation):
        # What fails anyway has noticed nothing.
        if not await passes(kind, flow, mutation) and await passes(kind, flow, None):
            return
    pytest.fail("the suite does not notice this mutation")


async def apply(world: World, mutation: Mutation) -> None:
    text = await inside.function_text(world.owner, mutation.function)
    assert text and mutation.text in text, "the engine has changed: change the mutation"
    await world.owner.execute(text.replace(mutation.text, mutation.replacement))
