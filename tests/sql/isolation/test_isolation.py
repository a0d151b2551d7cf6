"""A bad item ends alone: each kind of it beside ordinary work through each call.

A flow says what ordinary work is to get, in numbers of calls; a kind says what is bad beside it and
which question tells why. No time is measured: only a wait that never ends is cut off.
"""

import pytest

from .flows import FLOWS, Flow
from .kinds import KINDS, Kind
from .world import BAD_TYPE, JOBS, TYPE, World

pytestmark = pytest.mark.timeout(900)


async def run(world: World, kind: Kind, flow: Flow) -> None:
    """Place good and bad side by side, let ordinary work be done, and ask what is wrong."""

    async def make_ordinary(world: World, given: dict) -> str:
        return await world.enqueue(TYPE, given)

    for state in flow.states:
        world.jobs[state] = await world.place(state, TYPE, make_ordinary, JOBS)
        world.bad[state] = await world.place(state, BAD_TYPE, kind.make, 1)
    if flow.arrange:
        await flow.arrange(world)
    await kind.spoil(world)
    await world.pass_time(20)
    await flow.act(world)
    if not flow.maintains:
        await kind.check(world)
    await world.work_goes_on()
    await kind.why(world)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_ordinary_work_goes_on_beside(world: World, kind: Kind, flow: Flow) -> None:
    await run(world, kind, flow)
