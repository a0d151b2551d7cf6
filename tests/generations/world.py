"""The simulator, an in-memory database and a client for the tests of generations."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from picture_queue.errors import Conflict, StaleLease
from picture_queue.generations.handler import image_handler
from picture_queue.generations.settings import HandlerSettings
from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.providers import errors
from picture_queue.providers.base import Provider
from picture_queue.providers.replicate.catalog import models
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.http import RetryPolicy
from picture_queue.providers.replicate.provider import ReplicateProvider
from picture_queue.records import BegunPrediction, FinalState, MissingImage, SavedImage

from ..simulator import InProcessTransport

SCHNELL, DEV, SDXL = (
    "black-forest-labs/flux-schnell",
    "black-forest-labs/flux-dev",
    "stability-ai/sdxl",
)
SMALL = {"megapixels": "0.25"}
FAST = HandlerSettings(first_poll_interval=0.005, max_poll_interval=0.02, recheck_delay=0.02)


@dataclass
class PredictionRow:
    """A row of the table of predictions."""

    id: UUID
    generation_id: UUID
    input: dict[str, Any]
    created_at: datetime
    state: str = "creating"
    prediction_id: str | None = None
    error: str | None = None
    metrics: dict[str, Any] | None = None
    provider: str = "replicate"


@dataclass
class Generation:
    """A row of the table of generations."""

    model_id: str
    input: dict[str, Any]
    user_id: UUID | None = field(default_factory=uuid4)
    provider: str = "replicate"
    id: UUID = field(default_factory=uuid4)
    missing_images: list[dict[str, Any]] = field(default_factory=list)


class Database:
    """The tables, stored files and leases of all generations, in memory."""

    def __init__(self) -> None:
        self.predictions: list[PredictionRow] = []
        self.files: dict[str, tuple[bytes, str]] = {}
        self.images: dict[UUID, dict[int, SavedImage]] = {}
        self.leases: dict[UUID, UUID] = {}
        self.recorded = asyncio.Event()
        self.strip_metadata = True

    def predictions_of(self, generation: Generation) -> list[PredictionRow]:
        return [row for row in self.predictions if row.generation_id == generation.id]


class Store:
    """A store with a lease, instead of `GenerationStore`.

    Creating a store ends the lease of every older store of the same generation, as a later claim
    of the job does.
    """

    def __init__(self, db: Database, generation: Generation) -> None:
        self._db = db
        self._generation = generation
        self._lease = db.leases[generation.id] = uuid4()

    async def begin(self, lost: UUID | None = None) -> BegunPrediction:
        self._check_lease()
        model = models()[self._generation.model_id]
        resumable = [
            other
            for other in self._db.predictions_of(self._generation)
            if (self._is_resumable(other) if lost is None else other.id == lost)
        ]
        row = resumable[-1] if resumable else self._new_row()
        # The rows of other generations whose prediction ids are unknown. A prediction without a row
        # may belong to one of them.
        rows_without_id = [
            other
            for other in self._db.predictions
            if other.generation_id != row.generation_id
            and other.prediction_id is None
            and other.state in ("creating", "lost", "canceled")
        ]
        # Those that may still create a prediction with the same input.
        equal_rows_without_id = [
            other
            for other in rows_without_id
            if other.state == "creating" and other.input == row.input
        ]
        images = list(self._db.images.get(self._generation.id, {}).values())
        is_searched = lost is not None or (bool(resumable) and row.state == "creating")
        owned = [r.prediction_id for r in self._db.predictions if r.prediction_id]
        return BegunPrediction.model_validate(
            {
                "generation": vars(self._generation),
                "model": {"model_id": model.id, **model.model_dump(exclude={"id"})},
                "prediction": vars(row),
                "age_seconds": (datetime.now(UTC) - row.created_at).total_seconds(),
                "resumed": bool(resumable),
                "owned": owned if is_searched else [],
                "rows_without_id": [r.id for r in rows_without_id if is_searched],
                "equal_rows_without_id": [r.id for r in equal_rows_without_id if is_searched],
                "images": images,
                "saved_paths": [
                    path for i in images for path in (i.path, i.thumbnail_path) if path
                ],
                "strip_metadata": self._db.strip_metadata,
            }
        )

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        row = self._row(row_id)
        if any(r.prediction_id == prediction_id and r is not row for r in self._db.predictions):
            raise Conflict("another row owns the prediction")
        row.prediction_id, row.state = prediction_id, "created"
        self._db.recorded.set()

    async def finish(
        self,
        row_id: UUID,
        state: FinalState,
        *,
        error: str | None = None,
        metrics: dict[str, Any] | None = None,
    ) -> None:
        row = self._row(row_id)
        if row.state in ("creating", "created"):
            row.state, row.error, row.metrics = state, error, metrics

    async def upload(
        self, path: str, content: Any, content_type: str, timeout: float = 120
    ) -> None:
        self._check_lease()
        data = content if isinstance(content, bytes) else b"".join(content.chunks())
        self._db.files[path] = (data, content_type)

    async def read_file(self, path: str) -> bytes:
        return self._db.files[path][0]

    async def sign_file(self, path: str, seconds: int) -> str:
        return f"{self.file_url(path)}?token={uuid4()}"

    def file_url(self, path: str) -> str:
        return f"https://storage.localhost/object/sign/{path}"

    async def save_images(
        self, images: Sequence[SavedImage], missing: Sequence[MissingImage] | None = None
    ) -> None:
        self._check_lease()
        self._db.images.setdefault(self._generation.id, {}).update({i.n: i for i in images})
        if missing is not None:
            self._generation.missing_images = [image.model_dump() for image in missing]

    async def list_files(self, folder: str) -> list[str]:
        return [path for path in self._db.files if path.rpartition("/")[0] == folder]

    async def delete_files(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._db.files.pop(path, None)

    def _is_resumable(self, row: PredictionRow) -> bool:
        # An attempt may have ended after it saved some images and before it completed the job.
        if row.state == "succeeded":
            return bool(self._db.images.get(self._generation.id))
        return row.state in ("creating", "created")

    def _new_row(self) -> PredictionRow:
        generation = self._generation
        row = PredictionRow(
            uuid4(),
            generation.id,
            generation.input,
            datetime.now(UTC),
            provider=generation.provider,
        )
        self._db.predictions.append(row)
        return row

    def _row(self, row_id: UUID) -> PredictionRow:
        self._check_lease()
        return next(row for row in self._db.predictions_of(self._generation) if row.id == row_id)

    def _check_lease(self) -> None:
        if self._db.leases[self._generation.id] != self._lease:
            raise StaleLease("the lease ended")


def providers_of(client: Any) -> dict[str, Provider]:
    """Return the providers of a worker that calls Replicate through this client."""
    return {"replicate": ReplicateProvider(client)}


class FakeJobContext:
    """A context for the handler, instead of the `JobContext` of a worker.

    Attributes:
        reported: The reported progress, as pairs of percentage and message.
        running: Set when the handler reports that the model runs.
    """

    def __init__(self, attempt: int = 1) -> None:
        self.id = uuid4()
        self.attempt = attempt
        self.cancel_requested = False
        self.job = SimpleNamespace(progress=0)
        self.reported: list[tuple[int, str | None]] = []
        self.running = asyncio.Event()

    async def progress(self, percent: int, message: str | None = None) -> None:
        self.reported.append((percent, message))
        if message is not None and message.startswith("generating"):
            self.running.set()


class World:
    """The simulator, the database and the client of one test.

    Attributes:
        now: The time of the simulator in seconds since 1970; None: the actual time.
    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.now: float | None = None
        settings = replace(
            settings or SimulatorSettings(speed=50),
            token="r8_test",
            admin_keys=("sb_secret_test",),
        )
        self.http = httpx.AsyncClient(
            transport=InProcessTransport(create_app(settings, clock=self._clock)),
            base_url="http://simulator.localhost",
            headers={"apikey": "sb_secret_test"},
        )
        self.client = ReplicateClient(
            "r8_test",
            base_url="http://simulator.localhost/v1",
            http=self.http,
            retry=RetryPolicy(first_wait=0.001, max_wait=0.002, retry_timeout=0.2),
        )
        self.db = Database()

    def _clock(self) -> float:
        return datetime.now(UTC).timestamp() if self.now is None else self.now

    def generation(self, model_id: str = SCHNELL, **inputs: Any) -> Generation:
        return Generation(model_id, {"prompt": "a boat", **SMALL, **inputs})

    async def run(
        self,
        generation: Generation,
        job: FakeJobContext | None = None,
        settings: HandlerSettings = FAST,
        client: Any = None,
    ) -> dict[str, Any]:
        store = Store(self.db, generation)
        handler = image_handler(providers_of(client or self.client), lambda _: store, settings)
        return await handler({}, job or FakeJobContext())

    async def set_fault(self, **fault: Any) -> None:
        (await self.http.post("/_simulator/faults", json=fault)).raise_for_status()

    async def predictions(self) -> list[dict[str, Any]]:
        predictions: list[dict[str, Any]] = (await self.http.get("/_simulator/predictions")).json()
        return predictions

    async def paid(self) -> list[str]:
        """Return the ids of the predictions that were not stopped, and therefore cost money."""
        stopped = ("canceled", "aborted")
        predictions = await self.predictions()
        return [
            prediction["id"] for prediction in predictions if prediction["status"] not in stopped
        ]


class Crashed(BaseException):
    """An error that simulates a killed worker. Each later call of the worker raises it too."""


class CrashingCalls:
    """A simulated crash before or after one of the calls of wrapped objects.

    Args:
        crash_at: The number of the crash point. Each call has one point before and one after it.

    Attributes:
        points: The names of the crash points that the run has reached.
    """

    def __init__(self, crash_at: float) -> None:
        self._crash_at = crash_at
        self._count = itertools.count()
        self.crashed = False
        self.points: list[str] = []

    def wrap(self, target: Any) -> Any:
        return _Wrapped(self, target)

    def reach_point(self, name: str) -> None:
        if self.crashed:
            raise Crashed
        self.points.append(name)
        if next(self._count) >= self._crash_at:
            self.crashed = True
            raise Crashed


class _Wrapped:
    def __init__(self, crashing: CrashingCalls, target: Any) -> None:
        self._crashing = crashing
        self._target = target

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **options: Any) -> Any:
            self._crashing.reach_point(f"before {name}")
            answer = await attribute(*args, **options)
            self._crashing.reach_point(f"after {name}")
            return answer

        return call


async def run_with_crash(world: World, generation: Generation, crash_at: float) -> CrashingCalls:
    """Run an attempt until the crash point ``crash_at``; with ``inf``, to the end."""
    crashing = CrashingCalls(crash_at)
    store = crashing.wrap(Store(world.db, generation))
    handler = image_handler(providers_of(crashing.wrap(world.client)), lambda _: store, FAST)
    try:
        await handler({}, crashing.wrap(FakeJobContext()))
    except Crashed:
        assert crash_at < float("inf")
    return crashing


async def list_crash_points() -> list[str]:
    """Return the names of all crash points of an attempt, in order."""
    world = World()
    async with world.http:
        return (await run_with_crash(world, world.generation(num_outputs=2), float("inf"))).points


async def assert_paid_once(world: World, generation: Generation) -> None:
    """Assert that exactly one prediction was paid, and that both of its images are stored."""
    rows = world.db.predictions_of(generation)
    paid = await world.paid()
    assert len(paid) == 1
    assert [row.prediction_id for row in rows if row.prediction_id] == paid
    assert [row.state for row in rows if row.state != "lost"] == ["succeeded"]
    assert sorted(world.db.images[generation.id]) == [1, 2]
    assert len(world.db.files) == 2


class UnusualClient:
    """A client that returns an unusual prediction at the first poll."""

    def __init__(self, client: ReplicateClient, **changes: Any) -> None:
        self._client = client
        self._changes = {"status": "processing", **changes}
        self._polls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get(self, prediction_id: str) -> Any:
        self._polls += 1
        prediction = await self._client.get(prediction_id)
        if self._polls > 1:
            return prediction
        return prediction.model_copy(update=self._changes)


class AnswerGate:
    """A wrapper of a client or store that delays the answer of one method.

    Attributes:
        has_effect: Set when the target has carried out the call, before the caller gets the answer.
        may_answer: Set by the test to let the caller get the answer.
    """

    def __init__(self, target: Any, name: str) -> None:
        self._target = target
        self._name = name
        self.has_effect = asyncio.Event()
        self.may_answer = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if name != self._name:
            return attribute

        async def call(*args: Any, **options: Any) -> Any:
            answer = await attribute(*args, **options)
            self.has_effect.set()
            await self.may_answer.wait()
            return answer

        return call


class FakeDownloads:
    """A client whose every download returns the given data instead of a picture."""

    def __init__(self, client: ReplicateClient, data: bytes) -> None:
        self._client = client
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def download_into(self, link: str, sink: Any) -> None:
        sink.clear()
        await sink.write(self._data)


@dataclass
class RaisedVerdict:
    """The exception with which a handler ended an attempt.

    Attributes:
        verdict: The exception, which decides between a retry, a failure and a cancellation.
        cause: The error of the provider that led to it.
    """

    verdict: Any = None
    cause: Any = None


@contextmanager
def raises_verdict(
    kind: type[BaseException], cause: type[errors.ProviderError]
) -> Iterator[RaisedVerdict]:
    """Expect that the handler raises `kind`, caused by an error of exactly the class `cause`."""
    raised = RaisedVerdict()
    with pytest.raises(kind) as caught:
        yield raised
    raised.verdict, raised.cause = caught.value, caught.value.__cause__
    assert type(raised.cause) is cause
