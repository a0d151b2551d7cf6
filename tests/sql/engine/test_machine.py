"""Any history of calls by four workers and their users keeps what the engine promises.

`make test` runs a few short histories, always the same; `make test-long` 2,000 long ones, new each
time. A failure prints the shortest history that Hypothesis finds.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from .engine import Engine
from .enqueueing import Enqueueing
from .operating import Operating
from .working import Working

COMMON: dict[str, Any] = dict(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
)
# Shrinking takes minutes; the short histories are short enough.
settings.register_profile(
    "fast", max_examples=50, stateful_step_count=40, derandomize=True, phases=[Phase.generate],
    **COMMON,
)  # fmt: skip
settings.register_profile(
    "long", max_examples=2000, stateful_step_count=50, phases=[Phase.generate, Phase.shrink],
    **COMMON,
)  # fmt: skip
PROFILE = os.environ.get("PICTURE_QUEUE_TEST_PROFILE", "fast")


class Machine(Enqueueing, Working, Operating):
    """Four workers, some of whose leases are stale, and the users of four queues."""

    @rule(seconds=st.sampled_from([0.3, 1.5, 6, 11, 31, 61, 700, 8000, 700_000]))
    def wait(self, seconds: float) -> None:
        self.tick(seconds)


@pytest.fixture(scope="module")
def engine(stack: Any) -> Iterator[Engine]:
    engine = Engine(stack.db_url)
    yield engine
    engine.close()


@pytest.mark.timeout(7200 if PROFILE == "long" else 120)
def test_any_history_keeps_the_promises(engine: Engine) -> None:
    Machine.engine = engine
    run_state_machine_as_test(Machine, settings=settings.get_profile(PROFILE))
