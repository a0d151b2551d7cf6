"""A generation pays for one prediction, even if workers crash or responses are lost."""

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from picture_queue.errors import StaleLease
from picture_queue.generations.handler import image_handler
from picture_queue.local.simulator import SimulatorSettings
from picture_queue.providers import errors
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.worker import Park, PermanentFailure, Retry

from .world import (
    FAST,
    SCHNELL,
    AnswerGate,
    Database,
    FakeJobContext,
    Generation,
    PredictionRow,
    Store,
    World,
    assert_paid_once,
    list_crash_points,
    providers_of,
    raises_verdict,
    run_with_crash,
)


async def test_the_list_of_crash_points_is_complete() -> None:
    points = await list_crash_points()
    steps = {point.split()[1] for point in points}
    assert steps >= {
        "begin", "progress", "create", "record", "get",
        "download_into", "upload", "save_images", "finish",
    }  # fmt: skip
    assert {point.split()[0] for point in points} == {"before", "after"}
    assert points.index("after create") < points.index("before record") < points.index("before get")


@pytest.mark.parametrize("crashes", [1, 3], ids=["one crash", "three crashes"])
async def test_a_generation_is_paid_once_wherever_workers_crash(crashes: int) -> None:
    points = len(await list_crash_points())
    assert points > 20
    for crash_at in range(points):
        world = World()
        async with world.http:
            generation = world.generation(num_outputs=2)
            for _ in range(crashes):
                await run_with_crash(world, generation, crash_at)
            result = await world.run(generation)
            assert len(result["images"]) == 2
            await assert_paid_once(world, generation)


async def test_saved_images_are_not_generated_again(world: World) -> None:
    generation = world.generation()
    first = await world.run(generation)
    await world.http.post("/_simulator/reset")
    assert await world.run(generation) == first
    assert await world.predictions() == []


async def test_a_prediction_with_a_lost_response_is_found(world: World) -> None:
    await world.set_fault(kind="lose_answer")
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    assert len(world.db.predictions) == 1
    await assert_paid_once(world, generation)


async def test_a_create_without_a_prediction_is_marked_as_lost(world: World) -> None:
    await world.set_fault(kind="server_error", status=502)
    generation = world.generation(num_outputs=2)
    await world.run(generation)
    assert [row.state for row in world.db.predictions] == ["lost", "succeeded"]
    await assert_paid_once(world, generation)


@pytest.mark.parametrize("creates", [1, 3])
async def test_a_prediction_that_a_webhook_recorded_during_the_search_is_used(
    world: World, creates: int
) -> None:
    await world.set_fault(kind="lose_answer", count=1)
    generation = world.generation(num_outputs=2)
    client: Any = _WebhookDuringSearch(world, generation, creates)
    await world.run(generation, client=client)
    assert [row.state for row in world.db.predictions] == ["lost"] * (creates - 1) + ["succeeded"]
    await assert_paid_once(world, generation)


class _WebhookDuringSearch:
    """A client whose list shows no predictions; a webhook records one during the last search.

    Of a number of create calls, only the last reaches Replicate. The handler searches twice after
    each of them.
    """

    def __init__(self, world: World, generation: Generation, creates: int) -> None:
        self._world = world
        self._generation = generation
        self._unreached = creates - 1
        self._searches = 2 * creates

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.client, name)

    async def create(self, *args: Any, **options: Any) -> Any:
        if self._unreached:
            self._unreached -= 1
            raise errors.OutcomeUnknown("The answer to a create was lost")
        return await self._world.client.create(*args, **options)

    async def created_between(self, *args: Any, **options: Any) -> Any:
        self._searches -= 1
        if self._searches == 0:
            (prediction,) = await self._world.predictions()
            row = self._world.db.predictions_of(self._generation)[-1]
            row.prediction_id, row.state = prediction["id"], "created"
        return []


async def test_repeatedly_lost_creates_end_the_attempt(world: World) -> None:
    await world.set_fault(kind="server_error", count=3)
    with raises_verdict(Retry, errors.OutcomeUnknown):
        await world.run(world.generation())
    assert [row.state for row in world.db.predictions] == ["lost"] * 3


async def test_a_duplicate_that_appears_late_is_cancelled() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation = world.generation()
        late = _LateClient(world.client)
        job = FakeJobContext()
        task = asyncio.create_task(world.run(generation, job, client=late))
        await job.running.wait()
        await late.send_late_create()
        foreign = await world.client.create(SCHNELL, generation.input, cancel_after=3000)
        await world.http.post(f"/v1/predictions/{world.db.predictions[1].prediction_id}/cancel",
                              headers={"authorization": "Bearer r8_test"})  # fmt: skip
        with raises_verdict(PermanentFailure, errors.StoppedOutside):
            await task
        assert await world.paid() == [foreign.id]
        assert [row.state for row in world.db.predictions] == ["lost", "canceled"]


async def test_a_duplicate_is_cancelled_before_the_job_is_parked() -> None:
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        late, job = _LateClient(world.client), FakeJobContext()
        settings = replace(FAST, park_after=0.5)
        task = asyncio.create_task(world.run(world.generation(), job, settings, late))
        await job.running.wait()
        await late.send_late_create()
        with pytest.raises(Park):
            await task
        assert await world.paid() == [world.db.predictions[1].prediction_id]


async def test_a_failed_search_for_duplicates_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    generation = world.generation(num_outputs=2)
    late = _LateClient(world.client)
    task = asyncio.create_task(world.run(generation, client=late))
    await world.db.recorded.wait()
    await world.set_fault(kind="server_error", on="list", count=100)
    await task
    assert "search for duplicates failed" in caplog.text
    await assert_paid_once(world, generation)


class _LateClient:
    """A client whose first create fails at once and reaches Replicate later."""

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

    async def send_late_create(self) -> None:
        assert self._late
        args, options = self._late
        await self._client.create(*args, **options)


async def test_equal_generations_find_their_own_lost_predictions(world: World) -> None:
    await world.set_fault(kind="lose_answer", count=6)
    twins = [world.generation(seed=1) for _ in range(6)]
    await asyncio.gather(*(world.run(twin) for twin in twins))
    assert [row.state for row in world.db.predictions] == ["succeeded"] * 6
    paid = await world.paid()
    assert len(paid) == 6
    assert sorted(row.prediction_id or "" for row in world.db.predictions) == sorted(paid)
    by_id = {item["id"]: item for item in await world.predictions()}
    for row in world.db.predictions:
        prediction = by_id[row.prediction_id or ""]
        span = datetime.fromisoformat(prediction["deadline"]) - datetime.fromisoformat(
            prediction["created_at"]
        )
        assert round(span.total_seconds()) == 600 + row.id.int % 97


async def test_a_prediction_that_an_equal_generation_has_recorded_is_not_used(world: World) -> None:
    generation, twin = world.generation(), world.generation()
    store = _StealingStore(world.db, generation, twin)
    await image_handler(providers_of(world.client), lambda _: store, FAST)({}, FakeJobContext())
    assert [row.state for row in world.db.predictions_of(generation)] == ["lost", "succeeded"]
    paid = await world.paid()
    assert len(paid) == 2
    assert {
        world.db.predictions_of(twin)[0].prediction_id,
        world.db.predictions_of(generation)[1].prediction_id,
    } == set(paid)


class _StealingStore(Store):
    """A store whose first prediction is assigned to another generation before it is recorded."""

    def __init__(self, db: Database, generation: Generation, twin: Generation) -> None:
        super().__init__(db, generation)
        self._twin: Generation | None = twin

    async def record(self, row_id: UUID, prediction_id: str) -> None:
        if self._twin is not None:
            row = PredictionRow(
                uuid4(), self._twin.id, {}, datetime.now(UTC), "created", prediction_id
            )
            self._db.predictions.append(row)
            self._twin = None
        await super().record(row_id, prediction_id)


UPSCALER = "recraft-ai/recraft-crisp-upscale"


async def test_the_picture_of_another_user_is_not_taken_after_a_failed_create(
    world: World,
) -> None:
    generation_of_other_user = _upscale(world)
    client: Any = _CreateAtSearch(world.client, world.db, generation_of_other_user)
    generation = _upscale(world)
    await world.set_fault(kind="server_error")
    await world.run(generation, client=client)
    assert [row.state for row in world.db.predictions_of(generation)] == ["lost", "succeeded"]
    assert world.db.predictions_of(generation)[1].prediction_id != client.created


async def test_the_picture_of_another_program_is_not_taken_after_a_failed_create(
    world: World,
) -> None:
    generation = _upscale(world)
    await world.set_fault(kind="server_error")
    foreign: list[str] = []

    class Client:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.client, name)

        async def created_between(self, *args: Any, **options: Any) -> Any:
            if not foreign:
                data = {"image": "data:image/png;base64," + _PNG}
                foreign.append((await world.client.create(UPSCALER, data, cancel_after=3000)).id)
            return await world.client.created_between(*args, **options)

    client: Any = Client()
    await world.run(generation, client=client)
    assert [row.state for row in world.db.predictions_of(generation)] == ["lost", "succeeded"]
    assert world.db.predictions_of(generation)[1].prediction_id not in foreign


async def test_an_upscale_with_a_lost_answer_is_found(world: World) -> None:
    generation = _upscale(world)
    await world.set_fault(kind="lose_answer")
    await world.run(generation)
    assert [row.state for row in world.db.predictions_of(generation)] == ["succeeded"]
    assert await world.paid() == [world.db.predictions_of(generation)[0].prediction_id]


@pytest.mark.parametrize("is_live", [True, False])
async def test_the_prediction_of_a_live_row_with_equal_input_and_deadline_is_not_taken(
    world: World, is_live: bool
) -> None:
    generation, twin = world.generation(seed=1), world.generation(seed=1)
    client: Any = _CreateAtSearch(world.client, world.db, twin, is_live=is_live)
    await world.set_fault(kind="server_error")
    await world.run(generation, client=client)
    states = [row.state for row in world.db.predictions_of(generation)]
    assert states == (["lost", "succeeded"] if is_live else ["succeeded"])
    assert (world.db.predictions_of(generation)[-1].prediction_id != client.created) is is_live


async def test_the_prediction_of_a_live_row_with_equal_input_and_deadline_is_not_cancelled() -> (
    None
):
    world = World(SimulatorSettings(seconds=30))
    async with world.http:
        generation, twin = world.generation(seed=1), world.generation(seed=1)
        client: Any = _CreateAtSearch(world.client, world.db, twin, loses_first=True)
        job, settings = FakeJobContext(), replace(FAST, park_after=0.5)
        with pytest.raises(Park):
            await world.run(generation, job, settings, client)
        assert client.created in await world.paid()


_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # fmt: skip # noqa: E501


def _upscale(world: World) -> Generation:
    """Return a generation that enlarges a picture that its user has uploaded."""
    user = uuid4()
    path = f"uploads/{user}/in.png"
    world.db.files[path] = (base64.b64decode(_PNG), "image/png")
    return Generation(UPSCALER, {"image": f"storage:{path}"}, user)


class _CreateAtSearch:
    """A client that creates the prediction of another generation during its first search.

    The row of the other generation has the same deadline as the searching row. The id of its
    prediction is not recorded yet.

    Args:
        client: The client.
        db: The database.
        other: The other generation.
        is_live: False: the row of the other generation has the state ``lost``.
        loses_first: True: the first create of this client does not reach Replicate. The prediction
            of the other generation is then created during the third search.
    """

    def __init__(
        self,
        client: ReplicateClient,
        db: Database,
        other: Generation,
        is_live: bool = True,
        loses_first: bool = False,
    ) -> None:
        self._client = client
        self._db = db
        self._other = other
        self._state = "creating" if is_live else "lost"
        self._loses = loses_first
        self._searches_to_skip = 2 if loses_first else 0
        self.created: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def create(self, *args: Any, **options: Any) -> Any:
        if self._loses:
            self._loses = False
            raise errors.OutcomeUnknown("The answer to a create was lost")
        return await self._client.create(*args, **options)

    async def created_between(self, *args: Any, **options: Any) -> Any:
        self._searches_to_skip -= 1
        if self.created is None and self._searches_to_skip < 0:
            first = self._db.predictions[0].id
            row = PredictionRow(
                # Two rows whose ids differ by 97 have the same deadline.
                UUID(int=first.int + 97 if first.int < 2**127 else first.int - 97),
                self._other.id,
                self._other.input,
                datetime.now(UTC),
                self._state,
            )
            self._db.predictions.append(row)
            store = Store(self._db, self._other)
            files = {
                name: await store.sign_file(value.removeprefix("storage:"), 60)
                for name, value in row.input.items()
                if str(value).startswith("storage:")
            }
            created = await self._client.create(
                self._other.model_id, row.input | files, cancel_after=600 + row.id.int % 97
            )
            self.created = created.id
        return await self._client.created_between(*args, **options)


async def test_a_prediction_deleted_at_replicate_is_not_paid_twice(world: World) -> None:
    generation = world.generation()
    await run_with_crash(world, generation, (await list_crash_points()).index("after record"))
    await world.http.post("/_simulator/reset")
    with raises_verdict(PermanentFailure, errors.OutputExpired):
        await world.run(generation)
    assert [row.state for row in world.db.predictions] == ["lost"]
    assert await world.predictions() == []


async def test_a_stale_lease_ends_the_attempt_without_changes() -> None:
    world = World(SimulatorSettings(seconds=0.2))
    async with world.http:
        generation, job = world.generation(num_outputs=2), FakeJobContext()
        first = asyncio.create_task(world.run(generation, job))
        await job.running.wait()
        second = asyncio.create_task(world.run(generation))
        with pytest.raises(StaleLease):
            await first
        await second
        await assert_paid_once(world, generation)


async def test_a_lease_lost_before_the_recording_leaves_the_row_to_the_next_worker(
    world: World,
) -> None:
    generation = world.generation(num_outputs=2)
    gate = AnswerGate(world.client, "create")
    first = asyncio.create_task(world.run(generation, client=gate))
    await gate.has_effect.wait()
    second = asyncio.create_task(world.run(generation))
    await world.db.recorded.wait()
    gate.may_answer.set()
    with pytest.raises(StaleLease):
        await first
    await second
    await assert_paid_once(world, generation)
