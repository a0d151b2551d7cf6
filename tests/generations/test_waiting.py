"""Polling of predictions, and their deadlines."""

import asyncio
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers import errors
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.worker import PermanentFailure, Retry

from .world import FAST, FakeJobContext, UnusualClient, World, raises_verdict


@pytest.mark.parametrize(
    ("queued", "state", "verdict", "cause"),
    [
        (False, "canceled", PermanentFailure, errors.DeadlinePassed),
        (True, "aborted", Retry, errors.NotStarted),
    ],
)
async def test_only_a_prediction_that_did_not_start_is_retried_after_its_deadline(
    world: World, queued: bool, state: str, verdict: Any, cause: Any
) -> None:
    await world.set_fault(kind="slow", seconds=5000, queued=queued)
    world.now = datetime.now(UTC).timestamp()
    job = FakeJobContext()
    task = asyncio.create_task(world.run(world.generation(), job))
    await world.db.recorded.wait()
    world.now += 700
    with raises_verdict(verdict, cause):
        await task
    assert world.db.predictions[0].state == state


async def test_an_overdue_prediction_is_cancelled_by_the_worker(world: World) -> None:
    await world.set_fault(kind="slow", seconds=5000, queued=True)
    # The local deadline has passed before the first poll; the one at Replicate is much later.
    overdue = replace(FAST, stop_margin=-FAST.prediction_timeout - 200)
    with raises_verdict(Retry, errors.NotStarted):
        await world.run(world.generation(), settings=overdue)
    assert await world.paid() == []
    assert world.db.predictions[0].state in ("canceled", "aborted")


async def test_an_overdue_prediction_that_has_ended_is_used() -> None:
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        world.now = datetime.now(UTC).timestamp()
        late = replace(FAST, stop_margin=-900)
        client = _ClockAdvancingClient(world)
        await world.run(world.generation(num_outputs=2), settings=late, client=client)
        assert world.db.predictions[0].state == "succeeded"


async def test_an_overdue_prediction_that_stops_slowly_is_not_awaited(world: World) -> None:
    await world.set_fault(kind="slow", seconds=5000)
    # The local deadline has passed before the first poll; the one at Replicate is much later.
    overdue = replace(FAST, stop_margin=-FAST.prediction_timeout - 200)
    with raises_verdict(PermanentFailure, errors.DeadlinePassed):
        await world.run(
            world.generation(), settings=overdue, client=_SlowToStopClient(world.client)
        )
    assert [row.state for row in world.db.predictions] == ["canceled"]
    assert await world.paid() == []


class _SlowToStopClient:
    """A client whose response to a cancel still shows the prediction as running."""

    def __init__(self, client: ReplicateClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def cancel(self, prediction_id: str) -> Any:
        stopped = await self._client.cancel(prediction_id)
        return stopped.model_copy(update={"status": "processing"})


async def test_the_delay_of_the_first_poll_depends_on_the_model(world: World) -> None:
    started_at = asyncio.get_running_loop().time()
    await world.run(world.generation(), settings=replace(FAST, first_poll_interval=None))
    # The delay is 0.25 seconds; the jitter shortens it by at most 20 %.
    assert asyncio.get_running_loop().time() - started_at >= 0.2


class _ClockAdvancingClient:
    """A client that advances the clock before a cancel, so that the prediction has ended."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.client, name)

    async def cancel(self, prediction_id: str) -> Any:
        assert self._world.now is not None
        self._world.now += 10
        return await self._world.client.cancel(prediction_id)


async def test_errors_of_polls_do_not_end_the_wait() -> None:
    world = World(SimulatorSettings(seconds=0.1))
    async with world.http:
        await world.set_fault(kind="server_error", on="get", count=12)
        await world.set_fault(kind="rate_limit", on="get", count=12)
        await world.run(world.generation())
        assert world.db.predictions[0].state == "succeeded"


async def test_a_prediction_in_an_unknown_state_is_polled_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await world.run(world.generation(), client=UnusualClient(world.client, status="hibernating"))
    assert "hibernating" in caplog.text
    assert world.db.predictions[0].state == "succeeded"
