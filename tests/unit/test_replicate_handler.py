"""The recipe of a generation against the simulator: pay once, whatever dies."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from picture_queue.errors import Conflict, ConnectionFailed, StaleLease
from picture_queue.local.simulator import SimulatorSettings, create_app
from picture_queue.replicate import errors
from picture_queue.replicate.catalog import models
from picture_queue.replicate.client import ReplicateClient, RetryPolicy
from picture_queue.replicate.download import DownloadRules
from picture_queue.replicate.handler import HandlerSettings, image_handler
from picture_queue.replicate.images import read_image
from picture_queue.replicate.store import Begun, FinalState, PredictionRow, SavedImage

SCHNELL, DEV, SDXL = (
    "black-forest-labs/flux-schnell",
    "black-forest-labs/flux-dev",
    "stability-ai/sdxl",
)
SMALL = {"megapixels": "0.25"}
FAST = HandlerSettings(first_look=0.005, longest_look=0.02, grace=0.02)


@dataclass
class Row:
    id: UUID
    generation_id: UUID
    input: dict[str, Any]
    created_at: datetime
    state: str = "creating"
    prediction_id: str | None = None
    error: str | None = None
    metrics: dict[str, Any] | None = None


@dataclass
class Generation:
    model_id: str
    input: dict[str, Any]
    user_id: UUID | None = field(default_factory=uuid4)
    id: UUID = field(default_factory=uuid4)


class Database:
    """The rules of the SQL functions, in memory."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.files: dict[str, tuple[bytes, str]] = {}
        self.images: dict[UUID, dict[int, SavedImage]] = {}
        self.leases: dict[UUID, UUID] = {}
        self.recorded = asyncio.Event()

    def of(self, generation: Generation) -> list[Row]:
        return [row for row in self.rows if row.generation_id == generation.id]


class Store:
    """A store under a lease; taking another lease makes this one stale."""

    def __init__(self, db: Database, generation: Generation) -> None:
        self._db = db
        self._generation = generation
        self._lease = db.leases[generation.id] = uuid4()

    async def begin(self) -> Begun:
        self._check()
        model = models()[self._generation.model_id]
        kept = [r for r in self._db.of(self._generation) if r.state in _KEPT]
        row = kept[-1] if kept else self._new_row()
        return Begun.model_validate(
            {
                "generation": vars(self._generation),
                "model": {"model_id": model.id, **model.model_dump(exclude={"id"})},
                "prediction": vars(row),
                "resumed": bool(kept),
                "owned": [r.prediction_id for r in self._db.rows if r.prediction_id],
                "images": list(self._db.images.get(self._generation.id, {}).values()),
            }
        )

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        row = self._row(row_id)
        if any(r.prediction_id == prediction_id and r is not row for r in self._db.rows):
            raise Conflict("another row owns it")
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

    async def upload(self, path: str, data: bytes, content_type: str) -> None:
        self._check()
        self._db.files[path] = (data, content_type)

    async def save_images(self, images: Sequence[SavedImage]) -> None:
        self._check()
        self._db.images.setdefault(self._generation.id, {}).update({i.n: i for i in images})

    def _new_row(self) -> Row:
        generation = self._generation
        row = Row(uuid4(), generation.id, generation.input, datetime.now(UTC))
        self._db.rows.append(row)
        return row

    def _row(self, row_id: UUID) -> Row:
        self._check()
        return next(row for row in self._db.of(self._generation) if row.id == row_id)

    def _check(self) -> None:
        if self._db.leases[self._generation.id] != self._lease:
            raise StaleLease("the lease ended")


_KEPT = ("creating", "created", "succeeded")


class Job:
    """A job context that records the progress it was given."""

    def __init__(self, attempt: int = 1) -> None:
        self.id = uuid4()
        self.attempt = attempt
        self.cancel_requested = False
        self.shown: list[tuple[int, str | None]] = []
        self.running = asyncio.Event()

    async def progress(self, percent: int, message: str | None = None) -> None:
        self.shown.append((percent, message))
        if message is not None and message.startswith("generating"):
            self.running.set()


class World:
    """Simulator, database and client of one test."""

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.now: float | None = None
        settings = replace(settings or SimulatorSettings(speed=50), switch_keys=("sb_secret_test",))
        self.http = httpx.AsyncClient(
            transport=_InProcess(create_app(settings, clock=self._clock)),
            base_url="http://simulator.localhost",
            headers={"apikey": "sb_secret_test"},
        )
        self.client = ReplicateClient(
            "r8_test",
            base_url="http://simulator.localhost/v1",
            http=self.http,
            retry=RetryPolicy(first_wait=0.001, longest_wait=0.002, patience=0.2),
        )
        self.db = Database()

    def _clock(self) -> float:
        return datetime.now(UTC).timestamp() if self.now is None else self.now

    def generation(self, model_id: str = SCHNELL, **given: Any) -> Generation:
        return Generation(model_id, {"prompt": "a boat", **SMALL, **given})

    async def run(
        self,
        generation: Generation,
        job: Job | None = None,
        settings: HandlerSettings = FAST,
        client: Any = None,
    ) -> dict[str, Any]:
        store = Store(self.db, generation)
        handler = image_handler(client or self.client, lambda _: store, settings)
        return await handler({}, job or Job())

    async def switch(self, **fault: Any) -> None:
        (await self.http.post("/_simulator/faults", json=fault)).raise_for_status()

    async def predictions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.http.get("/_simulator/predictions")).json()
        return found

    async def paid(self) -> list[str]:
        stopped = ("canceled", "aborted")
        return [one["id"] for one in await self.predictions() if one["status"] not in stopped]


class _InProcess(httpx.ASGITransport):
    """Shows an answer that breaks off the way a socket does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AssertionError:
            raise httpx.RemoteProtocolError("the answer broke off", request=request) from None


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    async with made.http:
        yield made


# --- the way it should go ---


async def test_a_generation_becomes_pictures(world: World) -> None:
    generation = world.generation(num_outputs=2, seed=7)
    result = await world.run(generation)
    folder = f"{generation.user_id}/{generation.id}"
    assert [image["path"] for image in result["images"]] == [f"{folder}/1.webp", f"{folder}/2.webp"]
    for image in result["images"]:
        data, content_type = world.db.files[image["path"]]
        assert content_type == image["mime_type"] == "image/webp"
        assert (image["width"], image["height"], image["bytes"]) == (512, 512, len(data))
        assert read_image(data) is not None
    assert list(world.db.images[generation.id]) == [1, 2]
    (row,) = world.db.rows
    assert row.state == "succeeded"
    assert row.metrics is not None
    assert row.metrics["image_count"] == 2
    assert await world.paid() == [row.prediction_id]


async def test_a_generation_without_an_owner_is_shared(world: World) -> None:
    generation = Generation(SCHNELL, {"prompt": "a boat", **SMALL}, user_id=None)
    result = await world.run(generation)
    assert result["images"][0]["path"] == f"shared/{generation.id}/1.webp"


async def test_progress_rises_and_leaves_100_to_the_end() -> None:
    world = World(SimulatorSettings(seconds=0.3))
    async with world.http:
        job = Job()
        await world.run(world.generation(DEV), job)
    percents = [percent for percent, _ in job.shown]
    messages = [message for _, message in job.shown]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert 30 < percents[-1] <= 99
    assert messages[0] == "waiting for the model"
    assert any(message and message.endswith("of 28") for message in messages)
    assert messages[-1] == "storing the pictures"
    assert len(set(job.shown)) == len(job.shown)


async def test_no_progress_is_invented_for_models_that_show_none() -> None:
    world = World(SimulatorSettings(seconds=0.1))
    async with world.http:
        job = Job()
        await world.run(Generation("black-forest-labs/flux-1.1-pro", {"prompt": "a boat"}), job)
    assert {percent for percent, _ in job.shown} == {0}
    assert (0, "generating") in job.shown


async def test_a_bar_that_is_full_before_the_end_is_not_the_end(world: World) -> None:
    job = Job()
    full = "100%|██████████| 20/20 [00:01<00:00, 14.02it/s]\n"
    await world.run(world.generation(), job, client=_OddClient(world.client, logs=full))
    assert (99, "generating, step 20 of 20") in job.shown
    assert max(percent for percent, _ in job.shown) == 99


async def test_a_community_model_runs_by_version(world: World) -> None:
    generation = Generation(SDXL, {"prompt": "a boat", "width": 256, "height": 256})
    await world.run(generation)
    (made,) = await world.predictions()
    assert (made["model"], made["version"]) == (SDXL, models()[SDXL].version)


async def test_a_vector_picture_is_stored_as_one(world: World) -> None:
    result = await world.run(Generation("recraft-ai/recraft-v3-svg", {"prompt": "a fox"}))
    assert result["images"][0]["mime_type"] == "image/svg+xml"
    assert result["images"][0]["path"].endswith("/1.svg")


async def test_every_prediction_has_a_deadline(world: World) -> None:
    await world.run(world.generation())
    (made,) = await world.predictions()
    span = datetime.fromisoformat(made["deadline"]) - datetime.fromisoformat(made["created_at"])
    assert 600 <= span.total_seconds() < 700


# --- whatever dies ---


class Killed(BaseException):
    """The worker is gone: nothing of it runs any more."""


class Mortal:
    """Passes calls on and dies before or after the ``death``-th of them."""

    def __init__(self, death: float) -> None:
        self._death = death
        self._count = itertools.count()
        self.dead = False
        self.calls: list[str] = []

    def wrap(self, target: Any) -> Any:
        return _Wrapped(self, target)

    def point(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.calls.append(name)
        if next(self._count) >= self._death:
            self.dead = True
            raise Killed


class _Wrapped:
    def __init__(self, mortal: Mortal, target: Any) -> None:
        self._mortal = mortal
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **options: Any) -> Any:
            self._mortal.point(f"before {name}")
            answer = await found(*args, **options)
            self._mortal.point(f"after {name}")
            return answer

        return call


async def mortal_run(world: World, generation: Generation, death: float) -> Mortal:
    """Runs an attempt that dies at a point; ``inf`` for one that does not."""
    mortal = Mortal(death)
    store = mortal.wrap(Store(world.db, generation))
    handler = image_handler(mortal.wrap(world.client), lambda _: store, FAST)
    try:
        await handler({}, mortal.wrap(Job()))
    except Killed:
        assert death < float("inf")
    return mortal


async def calls_of_a_whole_run() -> list[str]:
    world = World()
    async with world.http:
        return (await mortal_run(world, world.generation(num_outputs=2), float("inf"))).calls


async def assert_paid_once(world: World, generation: Generation) -> None:
    rows = world.db.of(generation)
    paid = await world.paid()
    assert len(paid) == 1
    assert [row.prediction_id for row in rows if row.prediction_id] == paid
    assert [row.state for row in rows if row.state != "lost"] == ["succeeded"]
    assert list(world.db.images[generation.id]) == [1, 2]
    assert len(world.db.files) == 2


async def test_the_points_of_death_are_all_there() -> None:
    calls = await calls_of_a_whole_run()
    steps = {call.split()[1] for call in calls}
    assert steps >= {
        "begin", "progress", "create", "record", "get",
        "download", "upload", "save_images", "finish",
    }  # fmt: skip
    assert {call.split()[0] for call in calls} == {"before", "after"}
    assert calls.index("after create") < calls.index("before record") < calls.index("before get")


@pytest.mark.parametrize("workers", [1, 3], ids=["one death", "three deaths"])
async def test_a_worker_may_die_anywhere(workers: int) -> None:
    points = len(await calls_of_a_whole_run())
    assert points > 20
    for death in range(points):
        world = World()
        async with world.http:
            generation = world.generation(num_outputs=2)
            for _ in range(workers):
                await mortal_run(world, generation, death)
            result = await world.run(generation)
            assert len(result["images"]) == 2
            await assert_paid_once(world, generation)


async def test_pictures_that_are_saved_are_not_made_again(world: World) -> None:
    generation = world.generation()
    first = await world.run(generation)
    await world.http.post("/_simulator/reset")
    assert await world.run(generation) == first
    assert await world.predictions() == []


# --- answers that are lost ---


async def test_a_lost_answer_is_found_again(world: World) -> None:
    await world.switch(kind="lose_answer")
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    assert len(world.db.rows) == 1
    await assert_paid_once(world, generation)


async def test_a_create_that_made_nothing_is_given_up_as_lost(world: World) -> None:
    await world.switch(kind="server_error", status=502)
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    assert [row.state for row in world.db.rows] == ["lost", "succeeded"]
    await assert_paid_once(world, generation)


async def test_creates_that_are_lost_again_and_again_end_the_attempt(world: World) -> None:
    await world.switch(kind="server_error", count=3)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        await world.run(world.generation())
    assert caught.value.retryable
    assert [row.state for row in world.db.rows] == ["lost"] * 3


async def test_a_double_that_shows_up_late_is_cancelled() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation = world.generation()
        late = _LateClient(world.client)
        job = Job()
        task = asyncio.create_task(world.run(generation, job, client=late))
        await job.running.wait()
        await late.arrive()
        stranger = await world.client.create(SCHNELL, generation.input, cancel_after=3000)
        await world.http.post(f"/v1/predictions/{world.db.rows[1].prediction_id}/cancel",
                              headers={"authorization": "Bearer r8_x"})  # fmt: skip
        with pytest.raises(errors.StoppedOutside):
            await task
        assert await world.paid() == [stranger.id]
        assert [row.state for row in world.db.rows] == ["lost", "canceled"]


async def test_a_search_for_doubles_that_fails_harms_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    generation = world.generation(num_outputs=2)
    late = _LateClient(world.client)
    task = asyncio.create_task(world.run(generation, client=late))
    await world.db.recorded.wait()
    await world.switch(kind="server_error", on="list", count=100)
    await task
    assert "no look for doubles" in caplog.text
    await assert_paid_once(world, generation)


class _LateClient:
    """A client whose first create reaches Replicate when nobody expects it any more."""

    def __init__(self, client: ReplicateClient) -> None:
        self._client = client
        self._late: tuple[Any, dict[str, Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def create(self, *args: Any, **options: Any) -> Any:
        if self._late is None:
            self._late = args, options
            raise errors.OutcomeUnknown("The answer to a create was lost")
        return await self._client.create(*args, **options)

    async def arrive(self) -> None:
        assert self._late
        args, options = self._late
        await self._client.create(*args, **options)


async def test_twins_whose_answers_are_lost_find_their_own(world: World) -> None:
    await world.switch(kind="lose_answer", count=6)
    twins = [world.generation(seed=1) for _ in range(6)]
    await asyncio.gather(*(world.run(twin) for twin in twins))
    assert [row.state for row in world.db.rows] == ["succeeded"] * 6
    paid = await world.paid()
    assert len(paid) == 6
    assert sorted(row.prediction_id or "" for row in world.db.rows) == sorted(paid)
    made = {one["id"]: one for one in await world.predictions()}
    for row in world.db.rows:
        one = made[row.prediction_id or ""]
        span = datetime.fromisoformat(one["deadline"]) - datetime.fromisoformat(one["created_at"])
        assert round(span.total_seconds()) == 600 + row.id.int % 97


async def test_a_prediction_that_a_twin_took_over_is_left_to_it(world: World) -> None:
    generation, twin = world.generation(), world.generation()
    thief = _ThievingStore(world.db, generation, twin)
    await image_handler(world.client, lambda _: thief, FAST)({}, Job())
    assert [row.state for row in world.db.of(generation)] == ["lost", "succeeded"]
    paid = await world.paid()
    assert len(paid) == 2
    assert {world.db.of(twin)[0].prediction_id, world.db.of(generation)[1].prediction_id} == set(
        paid
    )


class _ThievingStore(Store):
    """Lets another generation's row take the first prediction right before it is recorded."""

    def __init__(self, db: Database, generation: Generation, twin: Generation) -> None:
        super().__init__(db, generation)
        self._twin: Generation | None = twin

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        if self._twin is not None:
            row = Row(uuid4(), self._twin.id, {}, datetime.now(UTC), "created", prediction_id)
            self._db.rows.append(row)
            self._twin = None
        await super().record(row_id, prediction_id)


# --- Replicate says no ---


async def test_a_throttled_create_gives_the_attempt_back(world: World) -> None:
    await world.switch(kind="rate_limit", seconds=30)
    generation = world.generation(num_outputs=2)
    with pytest.raises(errors.RateLimited) as caught:
        await world.run(generation)
    assert (caught.value.counts, caught.value.retry_after) == (False, 30.0)
    assert caught.value.pause_key == "type:generate-image"
    assert [row.state for row in world.db.rows] == ["failed"]
    # Nothing was made, so nothing is searched for: a broken list does not matter.
    await world.switch(kind="server_error", on="list", count=100)
    await world.run(generation)
    assert len(await world.paid()) == 1


async def test_a_throttled_create_without_a_time_waits_a_while(world: World) -> None:
    await world.switch(kind="rate_limit", count=100)
    with pytest.raises(errors.RateLimited) as caught:
        await world.run(world.generation())
    assert caught.value.retry_after == FAST.pause


async def test_without_credit_the_job_waits(world: World) -> None:
    await world.switch(kind="out_of_credit")
    with pytest.raises(errors.OutOfCredit) as caught:
        await world.run(world.generation())
    assert (caught.value.counts, caught.value.retryable) == (False, True)
    assert world.db.rows[0].state == "failed"
    assert "billing" not in (world.db.rows[0].error or "")


class _Outage(httpx.AsyncBaseTransport):
    """Refuses connections while `on`."""

    def __init__(self, behind: httpx.AsyncBaseTransport) -> None:
        self.behind = behind
        self.on = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.on and not request.url.path.startswith("/_simulator"):
            raise httpx.ConnectError("refused", request=request)
        return await self.behind.handle_async_request(request)


@pytest.mark.parametrize("recorded", [False, True], ids=["before the create", "after it"])
async def test_an_outage_of_replicate_gives_the_attempt_back(world: World, recorded: bool) -> None:
    generation = world.generation(num_outputs=2)
    if recorded:
        death = (await calls_of_a_whole_run()).index("after record")
        await mortal_run(world, generation, death)
    outage = world.http._transport = _Outage(world.http._transport)
    for _ in range(5):  # more than the attempts of a job
        with pytest.raises(errors.NotReached) as caught:
            await world.run(generation)
        assert (caught.value.counts, caught.value.retry_after) == (False, FAST.pause)
        assert caught.value.pause_key == "type:generate-image"
    outage.on = False
    await world.run(generation)
    assert len(await world.paid()) == 1


async def test_a_refused_input_fails_for_good(world: World) -> None:
    with pytest.raises(errors.InputRejected) as caught:
        await world.run(world.generation(num_outputs=99))
    assert not caught.value.retryable
    assert "num_outputs" in caught.value.public
    assert world.db.rows[0].state == "failed"


async def test_a_model_that_cannot_be_called_fails_for_good(world: World) -> None:
    with pytest.raises(errors.Misconfigured) as caught:
        await world.run(Generation("nvidia/sana", {"prompt": "a boat"}))
    assert not caught.value.retryable
    assert await world.predictions() == []
    assert world.db.rows[0].state == "failed"


@pytest.mark.parametrize(
    ("fault", "attempt", "kind", "retryable"),
    [
        ({"kind": "fail"}, 1, errors.Interrupted, True),
        ({"kind": "fail"}, 5, errors.Interrupted, True),
        ({"kind": "fail", "message": "KeyError"}, 1, errors.PredictionFailed, True),
        ({"kind": "fail", "message": "KeyError"}, 2, errors.PredictionFailed, False),
        ({"kind": "fail", "message": "CUDA out of memory"}, 1, errors.InputTooLarge, False),
        ({"kind": "nsfw"}, 1, errors.ContentRefused, False),
    ],
)
async def test_a_failed_prediction_fails_the_attempt_by_its_class(
    world: World,
    fault: dict[str, Any],
    attempt: int,
    kind: type[errors.ReplicateError],
    retryable: bool,
) -> None:
    await world.switch(**fault)
    with pytest.raises(kind) as caught:
        await world.run(world.generation(), Job(attempt))
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    (row,) = world.db.rows
    assert row.state == "failed"
    assert row.error == (await world.predictions())[0]["error"]


async def test_a_retry_is_a_new_row_and_a_new_prediction(world: World) -> None:
    await world.switch(kind="fail")
    generation = world.generation()
    with pytest.raises(errors.Interrupted):
        await world.run(generation)
    await world.run(generation, Job(attempt=2))
    assert [row.state for row in world.db.rows] == ["failed", "succeeded"]
    made = [one["id"] for one in await world.predictions()]
    assert [row.prediction_id for row in world.db.rows] == made


# --- time ---


@pytest.mark.parametrize(("queued", "state"), [(False, "canceled"), (True, "aborted")])
async def test_a_prediction_that_meets_its_deadline_may_be_tried_once_more(
    world: World, queued: bool, state: str
) -> None:
    await world.switch(kind="slow", seconds=5000, queued=queued)
    world.now = datetime.now(UTC).timestamp()
    job = Job()
    task = asyncio.create_task(world.run(world.generation(), job))
    await world.db.recorded.wait()
    world.now += 700
    with pytest.raises(errors.DeadlinePassed) as caught:
        await task
    assert caught.value.retryable
    assert world.db.rows[0].state == state


async def test_an_overdue_prediction_is_stopped_by_our_own_clock(world: World) -> None:
    await world.switch(kind="slow", seconds=5000)
    # Its bound has passed before it looks; the deadline at Replicate is far off.
    impatient = replace(FAST, margin=-FAST.deadline - 200)
    with pytest.raises(errors.DeadlinePassed):
        await world.run(world.generation(), settings=impatient)
    assert await world.paid() == []
    assert world.db.rows[0].state in ("canceled", "aborted")


async def test_an_overdue_prediction_that_has_ended_is_taken() -> None:
    world = World(SimulatorSettings(seconds=0))
    async with world.http:
        world.now = datetime.now(UTC).timestamp()
        slow = _JumpingClient(world)
        await world.run(
            world.generation(num_outputs=2), settings=replace(FAST, margin=-900), client=slow
        )
        assert world.db.rows[0].state == "succeeded"


async def test_an_overdue_prediction_that_is_slow_to_stop_is_given_up(world: World) -> None:
    await world.switch(kind="slow", seconds=5000)
    # Its bound has passed before it looks; the deadline at Replicate is far off.
    impatient = replace(FAST, margin=-FAST.deadline - 200)
    with pytest.raises(errors.DeadlinePassed):
        await world.run(world.generation(), settings=impatient, client=_SlowToStop(world.client))
    assert [row.state for row in world.db.rows] == ["canceled"]
    assert await world.paid() == []


class _SlowToStop:
    """Shows a prediction as running in the answer to its cancel."""

    def __init__(self, client: ReplicateClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def cancel(self, prediction_id: str) -> Any:
        stopped = await self._client.cancel(prediction_id)
        return stopped.model_copy(update={"status": "processing"})


async def test_the_first_look_depends_on_the_model(world: World) -> None:
    began = asyncio.get_running_loop().time()
    await world.run(world.generation(), settings=replace(FAST, first_look=None))
    assert asyncio.get_running_loop().time() - began >= 0.2  # 0.25, less the jitter


class _JumpingClient:
    """Lets the prediction end between its creation and the cancel."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.client, name)

    async def cancel(self, prediction_id: str) -> Any:
        assert self._world.now is not None
        self._world.now += 10
        return await self._world.client.cancel(prediction_id)


async def test_trouble_while_waiting_does_not_end_the_wait() -> None:
    world = World(SimulatorSettings(seconds=0.1))
    async with world.http:
        await world.switch(kind="server_error", on="get", count=12)
        await world.switch(kind="rate_limit", on="get", count=12)
        await world.run(world.generation())
        assert world.db.rows[0].state == "succeeded"


async def test_an_unknown_state_is_waited_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await world.run(world.generation(), client=_OddClient(world.client, status="hibernating"))
    assert "hibernating" in caplog.text
    assert world.db.rows[0].state == "succeeded"


class _OddClient:
    """Reports something odd at the first look."""

    def __init__(self, client: ReplicateClient, **odd: str) -> None:
        self._client = client
        self._odd = {"status": "processing", **odd}
        self._looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get(self, prediction_id: str) -> Any:
        self._looks += 1
        found = await self._client.get(prediction_id)
        return found.model_copy(update=self._odd) if self._looks == 1 else found


# --- pictures that cannot be had ---


async def test_an_expired_output_says_so(world: World) -> None:
    await world.switch(kind="expired_output")
    with pytest.raises(errors.OutputExpired) as caught:
        await world.run(world.generation())
    assert not caught.value.retryable
    assert "deleted" in caught.value.public
    assert world.db.rows[0].state == "failed"
    assert world.db.images == {}


async def test_a_prediction_replicate_no_longer_has_is_not_paid_twice(world: World) -> None:
    generation = world.generation()
    await mortal_run(world, generation, (await calls_of_a_whole_run()).index("after record"))
    await world.http.post("/_simulator/reset")
    with pytest.raises(errors.OutputExpired):
        await world.run(generation)
    assert [row.state for row in world.db.rows] == ["lost"]
    assert await world.predictions() == []


async def test_an_output_against_the_rules_fails_for_good(world: World) -> None:
    world.client.rules = DownloadRules(max_bytes=10).allowing("http://simulator.localhost")
    with pytest.raises(errors.OutputRefused) as caught:
        await world.run(world.generation(num_outputs=3))
    assert not caught.value.retryable
    assert world.db.rows[0].state == "failed"


@pytest.mark.parametrize("data", [b"<html>", b""])
async def test_an_output_that_is_no_picture_is_not_stored(world: World, data: bytes) -> None:
    with pytest.raises(errors.OutputRefused):
        await world.run(world.generation(), client=_Faking(world.client, data))
    assert world.db.files == {}


@pytest.mark.parametrize("width", [0, 1 << 19, 0xFFFFFFFF])
async def test_a_picture_of_too_many_pixels_fails_at_once(world: World, width: int) -> None:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    data = header + width.to_bytes(4, "big") + (1024).to_bytes(4, "big")
    with pytest.raises(errors.OutputRefused) as caught:
        await world.run(world.generation(), client=_Faking(world.client, data))
    assert not caught.value.retryable
    assert world.db.files == {}
    if width:
        assert "too large to be shown" in caught.value.public
        assert f"{width} x 1024" in str(caught.value)


async def test_an_svg_without_a_usable_size_is_stored(world: World) -> None:
    data = b'<svg viewBox="0 0 1e999 1"></svg>'
    result = await world.run(world.generation(), client=_Faking(world.client, data))
    assert (result["images"][0]["width"], result["images"][0]["height"]) == (None, None)


class _Faking:
    """Downloads something else."""

    def __init__(self, client: ReplicateClient, data: bytes) -> None:
        self._client = client
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def download(self, link: str) -> bytes:
        return self._data


async def test_not_all_pictures_are_held_at_once(world: World) -> None:
    counting = _Counting(world.client)
    settings = replace(FAST, parallel=2)
    await world.run(world.generation(num_outputs=4), settings=settings, client=counting)
    assert counting.most == 2


class _Counting:
    """Counts downloads at the same time."""

    def __init__(self, client: ReplicateClient) -> None:
        self._client = client
        self._now = 0
        self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def download(self, link: str) -> bytes:
        self._now += 1
        self.most = max(self.most, self._now)
        data = await self._client.download(link)
        self._now -= 1
        return data


async def test_an_output_without_links_is_refused(world: World) -> None:
    with pytest.raises(errors.OutputRefused, match="without a picture"):
        await world.run(world.generation(), client=_Empty(world.client))


class _Empty(_Faking):
    """Reads predictions without output."""

    def __init__(self, client: ReplicateClient) -> None:
        super().__init__(client, b"")

    async def get(self, prediction_id: str) -> Any:
        return (await self._client.get(prediction_id)).model_copy(update={"output": None})


@pytest.mark.parametrize("kind", ["server_error", "rate_limit"])
async def test_a_download_that_fails_now_is_tried_again_by_the_next_attempt(
    world: World, kind: str
) -> None:
    await world.switch(kind=kind, on="file", count=10)
    generation, job = world.generation(num_outputs=2), Job()
    with pytest.raises(errors.ServiceUnavailable) as caught:
        await world.run(generation, job)
    assert caught.value.retryable
    # The attempt is given back, and no other job waits.
    assert (caught.value.counts, caught.value.pause_key) == (False, None)
    assert job.shown[-1][1] == "The picture was made and waits to be stored."
    # After an hour it counts, so that the job ends.
    await world.switch(kind=kind, on="file", count=10)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        await world.run(generation, settings=replace(FAST, outage=0.0))
    assert caught.value.counts
    await world.http.post(
        "/_simulator/faults", json={"kind": "fail"}
    )  # for a create, if there is one
    await world.run(generation)
    await assert_paid_once(world, generation)


class _StorageAway(Store):
    """Storage cannot be reached."""

    async def upload(self, path: str, data: bytes, content_type: str) -> None:
        raise ConnectionFailed("http://x does not answer", detail="refused")


async def test_an_outage_of_storage_gives_the_attempt_back(world: World) -> None:
    generation = world.generation(num_outputs=2)
    for outage, counts in ((3600.0, False), (0.0, True)):
        store = _StorageAway(world.db, generation)
        settings = replace(FAST, outage=outage)
        with pytest.raises(errors.ServiceUnavailable, match=r"project.*refused") as caught:
            await image_handler(world.client, lambda _, s=store: s, settings)({}, Job())
        assert (caught.value.counts, caught.value.retryable) == (counts, True)
        assert caught.value.pause_key is None
    await world.run(generation)
    await assert_paid_once(world, generation)


# --- cancel and release ---


async def stopped_while_running(world: World, cancel: bool) -> Generation:
    generation, job = world.generation(num_outputs=2), Job()
    task = asyncio.create_task(world.run(generation, job))
    await job.running.wait()
    job.cancel_requested = cancel
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return generation


async def test_a_cancel_stops_the_prediction() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        await stopped_while_running(world, cancel=True)
        assert [one["status"] for one in await world.predictions()] == ["canceled"]
        assert [row.state for row in world.db.rows] == ["canceled"]


async def test_a_release_leaves_the_prediction_to_the_next_worker() -> None:
    world = World(SimulatorSettings(seconds=0.3))
    async with world.http:
        generation = await stopped_while_running(world, cancel=False)
        assert [one["status"] for one in await world.predictions()] == ["processing"]
        await world.run(generation)
        assert len(world.db.rows) == 1
        await assert_paid_once(world, generation)


class _Gate:
    """A client or store that is held in the middle of a call, after its effect."""

    def __init__(self, target: Any, name: str) -> None:
        self._target = target
        self._name = name
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name != self._name:
            return found

        async def call(*args: Any, **options: Any) -> Any:
            answer = await found(*args, **options)
            self.reached.set()
            await self.open.wait()
            return answer

        return call


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "released"])
async def test_a_create_on_its_way_is_still_recorded(cancel: bool) -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        gate, job = _Gate(world.client, "create"), Job()
        task = asyncio.create_task(world.run(world.generation(), job, client=gate))
        await gate.reached.wait()
        job.cancel_requested = cancel
        task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        (row,) = world.db.rows
        assert row.prediction_id == (await world.predictions())[0]["id"]
        assert row.state == ("canceled" if cancel else "created")
        assert len(await world.paid()) == (0 if cancel else 1)


async def test_a_create_that_never_answers_is_cancelled_by_its_deadline_mark() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        gate, job = _Gate(world.client, "create"), Job()
        hasty = replace(FAST, undo=0.05)
        task = asyncio.create_task(world.run(world.generation(), job, hasty, gate))
        await gate.reached.wait()
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await world.paid() == []
        assert [row.state for row in world.db.rows] == ["canceled"]


async def test_a_cancel_does_not_reach_what_is_only_likely_to_be_ours() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation, job = world.generation(), Job()
        stranger = await world.client.create(SCHNELL, generation.input, cancel_after=3000)
        await world.switch(kind="server_error")
        gate: Any = _Gate(Store(world.db, generation), "record")
        task = asyncio.create_task(image_handler(world.client, lambda _: gate, FAST)({}, job))
        await gate.reached.wait()
        job.cancel_requested = True
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await world.paid() == [stranger.id]


async def test_a_cancel_before_anything_was_begun_has_nothing_to_undo(world: World) -> None:
    job = Job()
    job.cancel_requested = True
    gate: Any = _Gate(Store(world.db, world.generation()), "begin")
    task = asyncio.create_task(image_handler(world.client, lambda _: gate, FAST)({}, job))
    await gate.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.predictions() == []


async def test_a_cancel_that_cannot_be_undone_still_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        await world.switch(kind="server_error", on="cancel", count=100)
        await stopped_while_running(world, cancel=True)
        assert "was not cancelled" in caplog.text
        assert [row.state for row in world.db.rows] == ["created"]


async def test_a_stale_lease_ends_the_attempt_and_touches_nothing() -> None:
    world = World(SimulatorSettings(seconds=0.2))
    async with world.http:
        generation, job = world.generation(num_outputs=2), Job()
        first = asyncio.create_task(world.run(generation, job))
        await job.running.wait()
        second = asyncio.create_task(world.run(generation))
        with pytest.raises(StaleLease):
            await first
        await second
        await assert_paid_once(world, generation)


async def test_a_lease_lost_before_the_id_is_recorded_leaves_the_row_to_others(
    world: World,
) -> None:
    generation = world.generation(num_outputs=2)
    gate = _Gate(world.client, "create")
    first = asyncio.create_task(world.run(generation, client=gate))
    await gate.reached.wait()
    second = asyncio.create_task(world.run(generation))
    await world.db.recorded.wait()
    gate.open.set()
    with pytest.raises(StaleLease):
        await first
    await second
    await assert_paid_once(world, generation)


def test_rows_do_not_show_the_prompt() -> None:
    row = PredictionRow(
        id=uuid4(), state="creating", input={"prompt": "secret"}, created_at=datetime.now(UTC)
    )
    assert "secret" not in repr(row)
