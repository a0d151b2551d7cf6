"""The kinds of generations whose workers are killed, and the workers that run them.

The killed worker and its successor run the same scenario. `create_worker` creates both.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from picture_queue import AsyncPictureQueue, Worker, WorkerSettings, add_generations
from picture_queue.generations import handler
from picture_queue.generations.moderation import Moderation, PictureToModerate, PromptToModerate
from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers import errors
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.provider import ReplicateProvider

SCHNELL, KONTEXT = "black-forest-labs/flux-schnell", "black-forest-labs/flux-kontext-pro"
OWN_MODEL, OWN_PROVIDER = "killed/function", "killed"
QUICK = HandlerSettings(
    first_poll_interval=0.02,
    max_poll_interval=0.05,
    recheck_delay=0.1,
    cancel_timeout=30,
    thumbnail_size=0,
)
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def draw(prompt: str, progress: Callable[..., None]) -> bytes:
    """Return a picture, as the provider of `OWN_MODEL`."""
    progress(50, "drawing")
    return _PNG


async def draw_async(prompt: str) -> bytes:
    """Return a picture, as a provider that is an async function."""
    await asyncio.sleep(0)
    return _PNG


def refuse_prompt(request: PromptToModerate) -> str | None:
    """Refuse each prompt."""
    return "No lighthouses, please."


def refuse_second_picture(picture: PictureToModerate) -> str | None:
    """Refuse the second picture of a generation."""
    return "No second picture, please." if picture.n == 2 else None


async def refuse_picture(picture: PictureToModerate) -> str | None:
    """Refuse each picture."""
    return "No pictures, please."


@dataclass(frozen=True)
class Scenario:
    """A kind of generation.

    Attributes:
        model: The model.
        input: The input of the model.
        steps: The models of the further steps of a chain.
        uploads: The input that gets an uploaded picture; None: none is uploaded.
        deletes: Whether the job deletes the files of a generation.
        faults: Faults of the simulator, for all predictions of the scenario.
        settings: The settings of both workers.
        own_provider: The function that makes the pictures, instead of the simulator.
        cancels_in: The method of the provider in whose first call the killed worker learns that its
            job is cancelled.
        loses_creates: The number of create calls of the killed worker that are not sent, and whose
            answers are lost.
        statuses: The final states that the job may have.
        images: The numbers of the pictures of a completed generation.
    """

    model: str = SCHNELL
    input: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    uploads: str | None = None
    deletes: bool = False
    faults: tuple[Mapping[str, Any], ...] = ()
    settings: HandlerSettings = QUICK
    own_provider: Callable[..., Any] | None = None
    cancels_in: str | None = None
    loses_creates: int = 0
    statuses: frozenset[str] = frozenset({"completed"})
    images: tuple[int, ...] = (1,)


_CANCELLED = frozenset({"completed", "cancelled"})
_TWO, _THREE = {"num_outputs": 2}, {"num_outputs": 3}
SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(),
    "thumbnails": Scenario(settings=replace(QUICK, thumbnail_size=64)),
    "several outputs": Scenario(input=_THREE, images=(1, 2, 3)),
    "input picture": Scenario(KONTEXT, uploads="input_image"),
    "chain": Scenario(steps=(KONTEXT,)),
    "cancelled while waiting": Scenario(
        faults=({"kind": "slow", "seconds": 2},), cancels_in="wait", statuses=_CANCELLED
    ),
    "cancelled while storing": Scenario(
        input=_TWO, cancels_in="download_into", statuses=_CANCELLED, images=(1, 2)
    ),
    "parked and resumed": Scenario(
        faults=({"kind": "slow", "seconds": 0.3},),
        settings=replace(QUICK, park_after=0.1, max_poll_interval=0.2),
    ),
    "failed at the provider": Scenario(
        faults=({"kind": "fail"},), statuses=frozenset({"failed"}), images=()
    ),
    "partly delivered": Scenario(
        input=_THREE, faults=({"kind": "bad_picture", "number": 1},), images=(1, 3)
    ),
    "prompt refused": Scenario(
        settings=replace(QUICK, moderation=Moderation(moderate_prompt=refuse_prompt)),
        statuses=frozenset({"failed"}),
        images=(),
    ),
    "one picture refused": Scenario(
        input=_TWO,
        settings=replace(QUICK, moderation=Moderation(moderate_image=refuse_second_picture)),
    ),
    "all pictures refused": Scenario(
        settings=replace(QUICK, moderation=Moderation(moderate_image=refuse_picture)),
        statuses=frozenset({"failed"}),
        images=(),
    ),
    "create answer lost": Scenario(faults=({"kind": "lose_answer", "on": "create"},)),
    "create call lost": Scenario(loses_creates=1),
    "own function": Scenario(OWN_MODEL, own_provider=draw),
    "own async function": Scenario(OWN_MODEL, own_provider=draw_async),
    "deletion": Scenario(deletes=True),
}


class _FaultyProvider(ReplicateProvider):
    """Replicate, with a cancel of the job in one of its methods, or with lost create calls."""

    def __init__(
        self, client: ReplicateClient, scenario: Scenario, cancel: Callable[[], Any]
    ) -> None:
        super().__init__(client)
        self._creates_to_lose = scenario.loses_creates
        self._cancels_in = scenario.cancels_in
        self._cancel = cancel

    async def _cancel_once(self, method: str) -> None:
        if self._cancels_in == method:
            self._cancels_in = None
            await self._cancel()

    async def create(self, request: Any) -> Any:
        if self._creates_to_lose > 0:
            self._creates_to_lose -= 1
            raise errors.OutcomeUnknown("The create call was lost")
        return await super().create(request)

    async def wait(self, prediction_id: str, seconds: float) -> None:
        await self._cancel_once("wait")
        await super().wait(prediction_id, seconds)

    async def download_into(self, output: str, sink: Any) -> None:
        await self._cancel_once("download_into")
        await super().download_into(output, sink)


def create_worker(
    client: AsyncPictureQueue,
    scenario: Scenario,
    settings: WorkerSettings,
    replicate: tuple[str, str],
    generation_id: UUID | None = None,
) -> Worker:
    """Create a worker that runs the generations of a scenario.

    Args:
        client: A client with the service key.
        scenario: The scenario.
        settings: The settings of the worker.
        replicate: The token and the URL of the simulator.
        generation_id: The generation of the worker to be killed, which also cancels this generation
            and loses create calls if the scenario says so; None: the worker is its successor.
    """
    handler._CLEANUP_TIMEOUT = 30.0  # a slow machine must not decide about a test
    worker = Worker(client, settings)
    token, url = replicate

    async def cancel() -> None:
        """Cancel the generation, and return when the handler knows."""
        assert generation_id is not None
        await client.generations.cancel(generation_id)
        supervisor: Any = worker._supervisor
        supervisor._heartbeat.beat_now()
        async with asyncio.timeout(20):
            while not all(a.cancel_requested for a in supervisor._slots.attempts):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    http = ReplicateClient(token, base_url=url)
    replicate_provider = (
        ReplicateProvider(http)
        if generation_id is None
        else _FaultyProvider(http, scenario, cancel)
    )
    providers: dict[str, Any] = {"replicate": replicate_provider}
    if scenario.own_provider is not None:
        providers[OWN_PROVIDER] = scenario.own_provider
    add_generations(worker, client, providers=providers, handling=scenario.settings)
    return worker
