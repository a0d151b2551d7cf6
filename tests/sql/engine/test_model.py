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
from .enqueue_rules import EnqueueRules
from .operator_rules import OperatorRules
from .worker_rules import WorkerRules

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


class QueueMachine(EnqueueRules, WorkerRules, OperatorRules):
    """Random calls of workers (some with stale leases), users and operators on four queues."""

    # 700,000 s are longer than finished jobs are kept, unless they failed.
    @rule(seconds=st.sampled_from([0.3, 1.5, 6, 11, 31, 61, 700, 8000, 700_000]))
    def wait(self, seconds: float) -> None:
        self.advance_clock(seconds)


@pytest.fixture(scope="module")
def engine(stack: Any) -> Iterator[Engine]:
    engine = Engine(stack.db_url)
    yield engine
    engine.close()


@pytest.mark.timeout(7200 if PROFILE == "long" else 300)
def test_every_sequence_of_calls_agrees_with_the_model(engine: Engine) -> None:
    QueueMachine.engine = engine
    run_state_machine_as_test(QueueMachine, settings=settings.get_profile(PROFILE))


_PLAIN: dict[str, Any] = {"queue": "plain", "job_type": "a"}


def replace_a_job_in_a_queue_without_events(state: QueueMachine) -> None:
    state.enqueue_unique(conflict="ignore", fields=_PLAIN, period=None, states=None, u=1)
    moved = {**_PLAIN, "queue": "quiet"}
    state.enqueue_unique(conflict="replace", fields=moved, period=None, states=None, u=1)


def retry_a_child_that_ended_at_once(state: QueueMachine) -> None:
    """One parent was cancelled; the other one is unfinished, and its queue is paused."""
    state.cancel(n=0)
    state.enqueue_child(fields={**_PLAIN, "queue": "fair"}, parents=[0, 1], policy="cancel")
    state.retry(n=2)
    state.pause_or_resume_queue(action="pause", name="plain")


def retry_a_child_whose_parents_failed_one_after_the_other(state: QueueMachine) -> None:
    """The retry of the child is refused until both parents are retried."""
    state.cancel(n=0)
    state.enqueue_child(fields={**_PLAIN, "queue": "fair"}, parents=[0, 1], policy="cancel")
    state.cancel(n=1)
    for n in (2, 0, 2, 1, 2):
        state.retry(n=n)


def claim_while_blocked_jobs_occupy_places(state: QueueMachine) -> None:
    """Let a claim select as many candidates the second time as the first time.

    The second selection blocks jobs. The claim must go on, because the blocked jobs occupied the
    places of jobs that may start.
    """
    user = "00000000-0000-0000-0000-000000000001"
    state.set_limit("global", {"max_running": 3})
    state.set_limit(f"user:{user}", {"max_running": 1})
    for priority in (3, 2, -1):
        state.enqueue_one(fields={**_PLAIN, "user_id": user, "priority": priority})
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
    engine: Engine, history: Callable[[QueueMachine], None]
) -> None:
    QueueMachine.engine = engine
    state = QueueMachine()
    try:
        state.begin(limits={}, level="none", breaker=None, first_jobs=[_PLAIN, _PLAIN])
        history(state)
    finally:
        state.teardown()
