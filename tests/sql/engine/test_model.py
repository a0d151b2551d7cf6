"""Random sequences of calls by four workers and their users, checked by the model.

`make test` runs 50 sequences, the same every time. `make test-long` runs 2,000 new ones; if one
fails, it prints the shortest failing sequence that Hypothesis finds.
"""

import os
from collections.abc import Callable, Iterator
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
# The fast profile does not shrink a failing sequence: shrinking takes minutes, and a sequence of
# 40 calls is readable.
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
    """Random calls of workers (some with stale leases), users and operators on four queues."""

    @rule(seconds=st.sampled_from([0.3, 1.5, 6, 11, 31, 61, 700, 8000, 700_000]))
    def wait(self, seconds: float) -> None:
        self.tick(seconds)


@pytest.fixture(scope="module")
def engine(stack: Any) -> Iterator[Engine]:
    engine = Engine(stack.db_url)
    yield engine
    engine.close()


@pytest.mark.timeout(7200 if PROFILE == "long" else 120)
def test_every_sequence_of_calls_agrees_with_the_model(engine: Engine) -> None:
    Machine.engine = engine
    run_state_machine_as_test(Machine, settings=settings.get_profile(PROFILE))


_PLAIN: dict[str, Any] = {"queue": "plain", "job_type": "a"}


def replace_a_job_in_a_queue_without_events(state: Machine) -> None:
    state.enqueue_unique(conflict="ignore", given=_PLAIN, period=None, states=None, u=1)
    moved = {**_PLAIN, "queue": "quiet"}
    state.enqueue_unique(conflict="replace", given=moved, period=None, states=None, u=1)


def retry_a_child_that_ended_at_once(state: Machine) -> None:
    """The other parent is unfinished, and its queue is paused."""
    state.cancel(n=0)
    state.enqueue_child(given={**_PLAIN, "queue": "fair"}, parents=[0, 1], policy="cancel")
    state.retry(n=2)
    state.steer_queue(action="pause", name="plain")


def retry_a_child_whose_parents_failed_one_after_the_other(state: Machine) -> None:
    state.cancel(n=0)
    state.enqueue_child(given={**_PLAIN, "queue": "fair"}, parents=[0, 1], policy="cancel")
    state.cancel(n=1)
    state.retry(n=2)


def claim_while_blocked_jobs_occupy_places(state: Machine) -> None:
    """Two picks have the same size; the second one blocks jobs, so that a third one starts more."""
    user = "00000000-0000-0000-0000-000000000001"
    state.set_limit("global", {"max_running": 3})
    state.set_limit(f"user:{user}", {"max_running": 1})
    for priority in (3, 2, -1):
        state.enqueue_one(given={**_PLAIN, "user_id": user, "priority": priority})
    state.claim(0, 3, ["plain"], ["a"], 30, False)


@pytest.mark.parametrize(
    "history",
    [
        claim_while_blocked_jobs_occupy_places,
        replace_a_job_in_a_queue_without_events,
        retry_a_child_that_ended_at_once,
        retry_a_child_whose_parents_failed_one_after_the_other,
    ],
)
def test_a_history_that_a_long_run_found_agrees_with_the_model(
    engine: Engine, history: Callable[[Machine], None]
) -> None:
    Machine.engine = engine
    state = Machine()
    try:
        state.begin(rules={}, level="none", breaker=None, first=[_PLAIN, _PLAIN])
        history(state)
    finally:
        state.teardown()
