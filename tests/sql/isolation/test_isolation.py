"""Bad jobs do not affect ordinary jobs: every kind of bad job is tried in every call.

A flow makes a call and checks the ordinary jobs. A kind makes jobs bad and checks that the reason
is reported. The tests measure no time; a generous timeout only ends a test that hangs.
"""

import pytest

from .flows import FLOWS, Flow, run
from .kinds import KINDS, Kind
from .world import World

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_ordinary_jobs_are_not_affected(world: World, kind: Kind, flow: Flow) -> None:
    await run(world, kind, flow)
