"""A bad item ends alone: each kind of it beside ordinary work through each call.

A flow says what ordinary work is to get, in numbers of calls; a kind says what is bad beside it and
which question tells why. No time is measured: only a wait that never ends is cut off.
"""

import pytest

from .flows import FLOWS, Flow, run
from .kinds import KINDS, Kind
from .world import World

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_ordinary_work_goes_on_beside(world: World, kind: Kind, flow: Flow) -> None:
    await run(world, kind, flow)
