"""No disturbance affects ordinary jobs: every disturbance is combined with every call.

A flow makes a call and checks the ordinary jobs. A disturbance makes jobs bad, locks rows or
changes settings, and checks that the cause is reported. The tests measure no time; a generous
timeout only ends a test that hangs.
"""

import pytest

from .database import IsolationDatabase
from .disturbances import DISTURBANCES, Disturbance
from .flows import FLOWS, Flow, run

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda disturbance: disturbance.name)
async def test_ordinary_jobs_are_not_affected(
    db: IsolationDatabase, disturbance: Disturbance, flow: Flow
) -> None:
    await run(db, disturbance, flow)
