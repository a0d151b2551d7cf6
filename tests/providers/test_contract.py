"""The providers of this project pass the checks that every provider must pass."""

import asyncio
import functools
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from standardwebhooks.webhooks import Webhook

from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers.base import PredictionRequest, Provider
from picture_queue.providers.function import FunctionProvider
from picture_queue.providers.replicate.provider import ReplicateProvider
from picture_queue.testing.providers import CHECKS, Check, ProviderHarness

from ..generations.world import SCHNELL, SMALL, World
from . import drawing


class _ReplicateHarness:
    """The harness for `ReplicateProvider`, with the simulator of Replicate."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.provider: Provider = self.other_process()

    async def request(
        self, *, pictures: int = 1, fails: bool = False, is_slow: bool = False, timeout: float = 600
    ) -> PredictionRequest:
        if fails:
            await self._world.set_fault(kind="fail", message="cannot draw 'a boat'")
        if is_slow:
            await self._world.set_fault(kind="slow", seconds=5000)
        model_input = {"prompt": "a boat", **SMALL, "num_outputs": pictures}
        # Slow predictions must report progress, so use a model whose simulated logs have a bar.
        model = "black-forest-labs/flux-dev" if is_slow else SCHNELL
        now = datetime.now(UTC)
        return PredictionRequest(uuid4(), now, model, model_input, timeout, official=True)

    def other_process(self) -> Provider:
        return ReplicateProvider(self._world.client)

    async def pass_deadline(self, request: PredictionRequest) -> None:
        self._world.now = time.time() + self.provider.time_limit(request) + 10

    async def lose_answer(self) -> None:
        await self._world.set_fault(kind="lose_answer")

    async def webhook(self, prediction_id: str) -> tuple[Mapping[str, str], bytes]:
        token = {"Authorization": "Bearer r8_test"}
        path = f"/v1/predictions/{prediction_id}"
        body = (await self._world.http.get(path, headers=token)).text
        signer, now = Webhook(await self._world.client.webhook_secret()), datetime.now(UTC)
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signer.sign("msg_1", now, body),
        }
        return headers, body.encode()


class _FunctionHarness:
    """The harness for `FunctionProvider`, with a function and the executor that runs it."""

    def __init__(self, function: Callable[..., Any], executor: Any = None) -> None:
        self._create_provider = functools.partial(FunctionProvider, function, executor=executor)
        self.provider: Provider = self._create_provider()

    async def request(
        self, *, pictures: int = 1, fails: bool = False, is_slow: bool = False, timeout: float = 600
    ) -> PredictionRequest:
        model_input = {
            "prompt": "a boat", "pictures": pictures, "fails": fails, "is_slow": is_slow,
        }  # fmt: skip
        return PredictionRequest(uuid4(), datetime.now(UTC), "own/model", model_input, timeout)

    def other_process(self) -> Provider:
        return self._create_provider()

    async def pass_deadline(self, request: PredictionRequest) -> None:
        await asyncio.sleep(request.timeout)

    async def lose_answer(self) -> None:
        raise NotImplementedError

    async def webhook(self, prediction_id: str) -> tuple[Mapping[str, str], bytes]:
        raise NotImplementedError


def new_process_pool() -> Executor:
    """Return a pool of two spawned processes, since a process with threads must not fork."""
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


@asynccontextmanager
async def _replicate() -> AsyncIterator[ProviderHarness]:
    world = World(SimulatorSettings(speed=50))
    async with world.http:
        yield _ReplicateHarness(world)


@asynccontextmanager
async def _function(
    function: Callable[..., Any], executor: Any = None
) -> AsyncIterator[ProviderHarness]:
    harness = _FunctionHarness(function, executor)
    yield harness
    await harness.provider.aclose()


_HARNESSES = {
    "replicate": _replicate,
    "async function": functools.partial(_function, drawing.draw_async),
    "function in a thread": functools.partial(_function, drawing.draw),
    "function in threads": functools.partial(
        _function, drawing.draw, lambda: ThreadPoolExecutor(4)
    ),
    "function in processes": functools.partial(_function, drawing.draw, new_process_pool),
}


@pytest.mark.parametrize("harness", _HARNESSES.values(), ids=_HARNESSES.keys())
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_provider_passes_the_check(
    check: Check, harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # for the processes of a pool
    async with harness() as opened:
        await check(opened)
