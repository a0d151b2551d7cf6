"""The kinds of generations whose workers are killed, and the workers that run them.

The killed worker and its successor run the same scenario. `create_worker` creates both.
"""

import asyncio
import base64
import io
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from PIL import Image

from picture_queue import AsyncPictureQueue, Worker, WorkerSettings, add_generations
from picture_queue.generations import handler
from picture_queue.generations.moderation import Moderation, PictureToModerate, PromptToModerate
from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers import errors, registry
from picture_queue.providers.base import Prediction, PredictionRequest, Provider
from picture_queue.settings import ReplicateSettings

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


async def draw_slowly(prompt: str) -> bytes:
    """Return a picture after some time."""
    await asyncio.sleep(1)
    return _PNG


def draw_large(prompt: str) -> bytes:
    """Return a picture of more than a MiB, which is written to a temporary file."""
    picture = io.BytesIO()
    Image.new("RGB", (700, 700), "navy").save(picture, "PNG", compress_level=0)
    return picture.getvalue()


async def refuse_prompt(request: PromptToModerate) -> str | None:
    """Refuse each prompt."""
    return "No lighthouses, please."


def refuse_second_picture(picture: PictureToModerate) -> str | None:
    """Refuse the second picture of a generation."""
    return "No second picture, please." if picture.n == 2 else None


def refuse_picture(picture: PictureToModerate) -> Awaitable[str | None]:
    """Refuse each picture, by a plain function that returns an awaitable."""
    return refuse_prompt(picture.request)


@dataclass(frozen=True)
class Scenario:
    """A kind of generation.

    Attributes:
        model: The model.
        input: The input of the model.
        steps: The models of the further steps of a chain.
        uploads: The input that gets an uploaded picture; None: none is uploaded.
        has_upload: Whether the uploaded picture exists.
        deletes: Whether the job deletes the files of a generation.
        faults: Faults of the simulator, for all predictions of the scenario.
        settings: The settings of both workers.
        own_provider: The function that makes the pictures, instead of the simulator.
        cancels_in: The method of the provider in whose first call the killed worker learns that its
            job is cancelled.
        raises: The errors that the methods of the provider raise once, without effect, by method.
        cancels_late: Whether the answer to a cancel says that the prediction still runs.
        statuses: The final states that the job may have.
        images: The numbers of the pictures of a completed generation.
    """

    model: str = SCHNELL
    input: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    uploads: str | None = None
    has_upload: bool = True
    deletes: bool = False
    faults: tuple[Mapping[str, Any], ...] = ()
    settings: HandlerSettings = QUICK
    own_provider: Callable[..., Any] | None = None
    cancels_in: str | None = None
    raises: Mapping[str, errors.ProviderError] = field(default_factory=dict)
    cancels_late: bool = False
    statuses: frozenset[str] = frozenset({"completed"})
    images: tuple[int, ...] = (1,)


_CANCELLED = frozenset({"completed", "cancelled"})
_FAILED = frozenset({"failed"})
_SLOW = ({"kind": "slow", "seconds": 2, "logs": "empty"},)
_TWO, _THREE = {"num_outputs": 2}, {"num_outputs": 3}
SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(),
    "thumbnails": Scenario(settings=replace(QUICK, thumbnail_size=64)),
    "several outputs": Scenario(input=_THREE, images=(1, 2, 3)),
    "input picture": Scenario(KONTEXT, uploads="input_image"),
    "chain": Scenario(steps=(KONTEXT,)),
    "cancelled while waiting": Scenario(faults=_SLOW, cancels_in="wait", statuses=_CANCELLED),
    "cancelled while storing": Scenario(
        input=_TWO, cancels_in="download_into", statuses=_CANCELLED, images=(1, 2)
    ),
    "parked and resumed": Scenario(
        faults=({"kind": "slow", "seconds": 0.3},),
        settings=replace(QUICK, park_after=0.1, max_poll_interval=0.2),
    ),
    "failed at the provider": Scenario(faults=({"kind": "fail"},), statuses=_FAILED, images=()),
    "partly delivered": Scenario(
        input=_THREE, faults=({"kind": "bad_picture", "number": 1},), images=(1, 3)
    ),
    "prompt refused": Scenario(
        settings=replace(QUICK, moderation=Moderation(moderate_prompt=refuse_prompt)),
        statuses=_FAILED,
        images=(),
    ),
    "one picture refused": Scenario(
        input=_TWO,
        settings=replace(QUICK, moderation=Moderation(moderate_image=refuse_second_picture)),
    ),
    "all pictures refused": Scenario(
        settings=replace(QUICK, moderation=Moderation(moderate_image=refuse_picture)),
        statuses=_FAILED,
        images=(),
    ),
    "create answer lost": Scenario(faults=({"kind": "lose_answer", "on": "create"},)),
    "create call lost": Scenario(raises={"create": errors.OutcomeUnknown("It was lost")}),
    "create call throttled": Scenario(
        raises={"create": errors.TooManyRequests("It was throttled", retry_after=0.1)}
    ),
    "create answer lost and cancelled": Scenario(
        faults=({"kind": "lose_answer", "on": "create"}, *_SLOW),
        cancels_in="create",
        statuses=_CANCELLED,
    ),
    "read refused once": Scenario(raises={"get": errors.Forbidden("It was refused")}),
    "cancel refused once": Scenario(
        faults=_SLOW,
        cancels_in="wait",
        raises={"cancel": errors.Forbidden("It was refused")},
        statuses=_CANCELLED,
    ),
    "cancel takes time": Scenario(
        faults=_SLOW, cancels_in="wait", cancels_late=True, statuses=_CANCELLED
    ),
    "overdue": Scenario(
        faults=_SLOW,
        settings=replace(QUICK, stop_margin=-10_000),
        statuses=_FAILED,
        images=(),
    ),
    "no picture can be stored": Scenario(
        faults=({"kind": "bad_picture", "number": 0},), statuses=_FAILED, images=()
    ),
    "one download failed": Scenario(
        input=_TWO,
        settings=replace(QUICK, default_pause=0.05),
        raises={"download_into": errors.ServiceUnavailable("It is down")},
        images=(1, 2),
    ),
    "missing upload": Scenario(
        KONTEXT, uploads="input_image", has_upload=False, statuses=_FAILED, images=()
    ),
    "own function": Scenario(OWN_MODEL, own_provider=draw),
    "own async function": Scenario(OWN_MODEL, own_provider=draw_async),
    "own function with a large picture": Scenario(OWN_MODEL, own_provider=draw_large),
    "own function cancelled": Scenario(
        OWN_MODEL, own_provider=draw_slowly, cancels_in="wait", statuses=_CANCELLED
    ),
    "deletion": Scenario(deletes=True),
}


class _FaultyProvider:
    """A provider with the errors of a scenario, in one of whose methods the job is cancelled."""

    def __init__(
        self, provider: Provider, scenario: Scenario, cancel: Callable[[], Awaitable[None]]
    ) -> None:
        self._provider = provider
        self._scenario = scenario
        self._cancel_job = cancel
        self._has_cancelled = False
        self._errors = dict(scenario.raises)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def _begin(self, method: str) -> None:
        if self._scenario.cancels_in == method and not self._has_cancelled:
            self._has_cancelled = True
            await self._cancel_job()
        if method in self._errors:
            raise self._errors.pop(method)

    async def create(self, request: PredictionRequest) -> Prediction:
        await self._begin("create")
        return await self._provider.create(request)

    async def get(self, prediction_id: str) -> Prediction:
        await self._begin("get")
        return await self._provider.get(prediction_id)

    async def cancel(self, prediction_id: str) -> Prediction:
        await self._begin("cancel")
        prediction = await self._provider.cancel(prediction_id)
        return (
            replace(prediction, status="processing") if self._scenario.cancels_late else prediction
        )

    async def wait(self, prediction_id: str, seconds: float) -> None:
        await self._begin("wait")
        await self._provider.wait(prediction_id, seconds)

    async def download_into(self, output: str, sink: Any) -> None:
        await self._begin("download_into")
        await self._provider.download_into(output, sink)


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
            and gets the errors of the scenario; None: the worker is its successor.
    """
    handler._CLEANUP_TIMEOUT = 30.0  # a slow machine must not decide about a test
    worker = Worker(client, settings)

    async def cancel() -> None:
        """Cancel the generation, and return when the handler knows."""
        assert generation_id is not None
        await client.generations.cancel(generation_id)
        supervisor: Any = worker._supervisor
        supervisor._heartbeat.beat_now()
        async with asyncio.timeout(20):
            while not all(a.cancel_requested for a in supervisor._slots.attempts):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    name, provider = "replicate", registry.resolve("replicate", ReplicateSettings(*replicate))
    if scenario.own_provider is not None:
        name, provider = OWN_PROVIDER, registry.resolve(OWN_PROVIDER, scenario.own_provider)
    if generation_id is not None:
        faulty: Any = _FaultyProvider(provider, scenario, cancel)
        provider = faulty
    providers = {name: provider}
    add_generations(worker, client, providers=providers, handling=scenario.settings)
    return worker
