"""Generations whose provider is a function of the project, and workers without their provider."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

import pytest

from picture_queue import (
    AsyncPictureQueue,
    JobStatus,
    PermanentFailure,
    RateLimited,
    Retry,
    Snooze,
    Worker,
    WorkerSettings,
)
from picture_queue.errors import ConnectionFailed, InvalidArgument, SettingsError, StaleLease
from picture_queue.generations.builtin import add_generations
from picture_queue.generations.handler import JOB_TYPES, image_handler, job_type_of
from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers import errors
from picture_queue.providers.function import FunctionProvider
from picture_queue.providers.replicate.provider import CAPABILITIES
from picture_queue.settings import ReplicateSettings
from picture_queue.worker import Cancel
from picture_queue.worker.outcomes import Failed
from picture_queue.worker.verdicts import from_error

from ..providers import drawing
from ..signals import watch
from .world import (
    FAST,
    SCHNELL,
    Crashed,
    CrashingCalls,
    Database,
    FakeJobContext,
    Generation,
    Store,
    raises_verdict,
)


class FunctionWorld:
    """An in-memory database, and handlers whose provider is a function.

    Attributes:
        calls: Number of calls of the function.
        running: Set when the function runs.
    """

    def __init__(self) -> None:
        self.db = Database()
        self.calls = 0
        self.running = asyncio.Event()

    async def draw(self, prompt: str, is_slow: bool = False, progress: Any = None) -> bytes:
        self.calls += 1
        self.running.set()
        return (await drawing.draw_async(prompt, is_slow=is_slow, progress=progress))[0]

    def generation(self, **inputs: Any) -> Generation:
        return Generation(SCHNELL, {"prompt": "a boat", **inputs}, provider="own")

    def start(
        self,
        generation: Generation,
        provider: FunctionProvider,
        job: FakeJobContext | None = None,
        store: Store | None = None,
        settings: HandlerSettings = FAST,
    ) -> "asyncio.Task[dict[str, Any]]":
        job_store = store or Store(self.db, generation)
        handler = image_handler({"own": provider}, lambda _: job_store, settings)
        return asyncio.create_task(handler({}, job or FakeJobContext()))

    def states(self) -> list[str]:
        return [row.state for row in self.db.predictions]


@pytest.fixture
def function_world() -> FunctionWorld:
    return FunctionWorld()


@pytest.fixture
async def provider(function_world: FunctionWorld) -> AsyncIterator[FunctionProvider]:
    provider = FunctionProvider(function_world.draw)
    yield provider
    await provider.aclose()


async def test_a_cancelled_generation_of_a_dead_worker_is_lost() -> None:
    world, job = FunctionWorld(), FakeJobContext()
    generation = world.generation()
    dead = Store(world.db, generation)
    await dead.record((await dead.begin()).prediction.id, "prediction of the dead process")
    job.cancel_requested = True
    with pytest.raises(Cancel):
        await world.start(generation, FunctionProvider(world.draw), job)
    assert (world.states(), world.calls) == (["lost"], 0)


async def test_a_function_makes_the_picture(
    function_world: FunctionWorld, provider: FunctionProvider
) -> None:
    generation, job = function_world.generation(), FakeJobContext()
    result = await function_world.start(generation, provider, job)
    path = result["images"][0]["path"]
    assert function_world.db.files[path] == (drawing.png("a boat"), "image/png")
    assert function_world.states() == ["succeeded"]
    assert function_world.db.predictions[0].metrics is not None
    assert function_world.db.predictions[0].metrics["image_count"] == 1
    assert provider._runs == {}, "the pictures are not held once they are stored"


async def test_a_generation_runs_again_after_its_worker_died(
    function_world: FunctionWorld, provider: FunctionProvider
) -> None:
    generation = function_world.generation(is_slow=True)
    died = function_world.start(generation, provider)
    async with asyncio.timeout(20):
        await function_world.running.wait()
    # The worker dies here: its task is not cancelled. Another worker resumes the row.
    generation.input["is_slow"] = function_world.db.predictions[0].input["is_slow"] = False
    other = FunctionProvider(function_world.draw)
    result = await function_world.start(generation, other)
    assert len(result["images"]) == 1
    assert function_world.states() == ["lost", "succeeded"]
    assert function_world.calls == 2
    died.cancel()
    await asyncio.wait({died})


async def test_a_lost_lease_stops_the_function(
    function_world: FunctionWorld, provider: FunctionProvider
) -> None:
    generation, job = function_world.generation(is_slow=True), FakeJobContext()

    class LeaseLostAtHalf(FakeJobContext):
        async def progress(self, percent: int, message: str | None = None) -> None:
            await super().progress(percent, message)
            if percent == 50:
                raise StaleLease("the lease ended")

    with pytest.raises(StaleLease):
        await function_world.start(generation, provider, LeaseLostAtHalf())
    assert provider._runs == {}
    function_world.db.predictions[0].input["is_slow"] = generation.input["is_slow"] = False
    await function_world.start(generation, provider, job)
    assert function_world.states() == ["lost", "succeeded"]


@pytest.mark.parametrize(("cancel", "state"), [(True, "canceled"), (False, "created")])
async def test_a_cancel_or_release_stops_the_function(
    function_world: FunctionWorld, provider: FunctionProvider, cancel: bool, state: str
) -> None:
    generation, job = function_world.generation(is_slow=True), FakeJobContext()
    task = function_world.start(generation, provider, job)
    async with asyncio.timeout(20):
        await function_world.running.wait()
    (run,) = provider._runs.values()
    job.cancel_requested = cancel
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (run.status, function_world.states()) == ("canceled", [state])
    assert run.task is not None
    await asyncio.wait({run.task}, timeout=5)
    assert run.task.done()
    if not cancel:  # the next worker runs it again
        function_world.db.predictions[0].input["is_slow"] = generation.input["is_slow"] = False
        await function_world.start(generation, provider)
        assert function_world.states() == ["lost", "succeeded"]


async def test_pictures_wait_in_the_process_for_the_end_of_an_outage_of_storage(
    function_world: FunctionWorld, provider: FunctionProvider
) -> None:
    class Outage(Store):
        async def upload(self, path: str, data: bytes, content_type: str) -> None:
            raise ConnectionFailed("no answer")

    generation = function_world.generation()
    with raises_verdict(Snooze, errors.ServiceUnavailable):
        await function_world.start(
            generation, provider, store=Outage(function_world.db, generation)
        )
    await function_world.start(generation, provider)
    assert (function_world.calls, function_world.states()) == (1, ["succeeded"])


@pytest.mark.parametrize(
    ("error", "verdict", "cause"),
    [
        (ValueError("x"), Retry, errors.PredictionFailed),
        (PermanentFailure("No cats."), PermanentFailure, errors.PredictionFailed),
        (errors.ContentRefused("no"), PermanentFailure, errors.ContentRefused),
        (errors.TooManyRequests("full", retry_after=7), RateLimited, errors.TooManyRequests),
    ],
)
async def test_an_exception_of_the_function_decides_about_the_job(
    function_world: FunctionWorld,
    error: Exception,
    verdict: type[Exception],
    cause: type[errors.ProviderError],
) -> None:
    def fail(prompt: str) -> bytes:
        raise error

    with raises_verdict(verdict, cause) as raised:
        await function_world.start(function_world.generation(), FunctionProvider(fail))
    assert function_world.states() == ["failed"]
    if verdict is RateLimited:
        assert (raised.verdict.seconds, raised.verdict.key) == (7.0, "provider:own")


async def test_a_prediction_that_the_provider_no_longer_knows_is_retried(
    function_world: FunctionWorld, provider: FunctionProvider
) -> None:
    generation = function_world.generation(is_slow=True)
    task = function_world.start(generation, provider)
    async with asyncio.timeout(20):
        await function_world.running.wait()
    await provider.aclose()
    with raises_verdict(Retry, errors.Interrupted):
        await task
    assert function_world.states() == ["lost"]


async def test_a_timeout_of_the_function_fails_the_job(function_world: FunctionWorld) -> None:
    settings = HandlerSettings(prediction_timeout=0.05)
    provider = FunctionProvider(function_world.draw)
    with raises_verdict(PermanentFailure, errors.DeadlinePassed):
        await function_world.start(
            function_world.generation(is_slow=True), provider, settings=settings
        )
    assert function_world.states() == ["canceled"]


class _Broken(FunctionProvider):
    """A provider of the project with a bug in one method."""

    def __init__(self, function: Any, method: str) -> None:
        super().__init__(function)

        async def fail(*args: Any) -> Any:
            raise RuntimeError("s3cret")

        setattr(self, method, fail)


@pytest.mark.parametrize("method", ["create", "get", "wait", "download", "release"])
async def test_the_owner_does_not_see_an_unexpected_error_of_a_provider(
    function_world: FunctionWorld, method: str
) -> None:
    provider = _Broken(function_world.draw, method)
    with pytest.raises(Exception, match="s3cret") as raised:
        await function_world.start(function_world.generation(), provider)
    outcome = from_error(raised.value, "default")
    assert isinstance(outcome, Failed)
    assert outcome.error == "The picture could not be made, because of an internal error."
    assert outcome.retryable
    await provider.aclose()


async def test_a_generation_ends_wherever_its_workers_die(function_world: FunctionWorld) -> None:
    async def attempt(
        function_world: FunctionWorld, generation: Generation, crash_at: float
    ) -> list[str]:
        crashing = CrashingCalls(crash_at)
        provider = FunctionProvider(function_world.draw)
        store = crashing.wrap(Store(function_world.db, generation))
        handler = image_handler({"own": crashing.wrap(provider)}, lambda _: store, FAST)
        try:
            await handler({}, crashing.wrap(FakeJobContext()))
        except Crashed:
            assert crash_at < float("inf")
        await provider.aclose()
        return crashing.points

    points = await attempt(function_world, function_world.generation(), float("inf"))
    assert {
        "create",
        "record",
        "get",
        "wait",
        "download_into",
        "upload",
        "save_images",
        "finish",
    } <= {point.split()[1] for point in points}
    for crash_at in range(len(points)):
        new_world = FunctionWorld()
        generation = new_world.generation()
        for crash in (crash_at, crash_at, float("inf")):
            await attempt(new_world, generation, crash)
        states = new_world.states()
        assert states.count("succeeded") == 1
        assert set(states) <= {"succeeded", "lost"}
        assert list(new_world.db.images[generation.id]) == [1]


async def test_a_worker_without_the_provider_snoozes_the_job(function_world: FunctionWorld) -> None:
    generation = function_world.generation()
    generation.provider = "another"
    job = FakeJobContext()
    with raises_verdict(Snooze, errors.ProviderMissing) as raised:
        await function_world.start(generation, FunctionProvider(function_world.draw), job)
    assert raised.verdict.seconds == 60.0
    assert "has no provider 'another'" in raised.verdict.outcome("default").detail
    assert job.reported == [(0, "The picture waits for a worker that can make it.")]
    assert (function_world.calls, function_world.states()) == (0, ["failed"])


MODEL = """
insert into picture_queue.model (model_id, provider, kind, inputs)
values ('own/boat', 'boats', 'text-to-image', '[
  {"name": "prompt", "type": "string", "required": true},
  {"name": "pictures", "type": "integer", "minimum": 1, "maximum": 4}]')
on conflict (model_id) do update set enabled = true
"""


@pytest.fixture
async def new_worker(service: AsyncPictureQueue, db: Any) -> AsyncIterator[Callable[..., Worker]]:
    await db.execute(MODEL)

    def new(**providers: Any) -> Worker:
        worker = Worker(service, WorkerSettings(shutdown_grace=0, poll_interval=0.05))
        quick = HandlerSettings(first_poll_interval=0.05, max_poll_interval=0.1)
        add_generations(worker, service, handling=quick, providers=providers)
        watch(worker)
        return worker

    yield new
    await db.execute("update picture_queue.model set enabled = false where model_id = 'own/boat'")


async def test_a_worker_makes_pictures_with_a_function(service, new_worker, db) -> None:
    started = await service.generations.start("a boat", model_id="own/boat", input={"pictures": 2})
    async with new_worker(boats=drawing.draw):
        await service.jobs.result(started.job_id, timeout=30)
    job = await service.jobs.get(started.job_id)
    assert (job.job_type, job.attempt) == ("generate-image:boats", 1)
    generation = await service.generations.get(started.id)
    assert [image.n for image in generation.images] == [1, 2]
    assert await service.generations.download(generation.images[0]) == drawing.png("a boat", 0)
    row = await db.fetchrow(
        "select provider, state from picture_queue.prediction where generation_id = $1", started.id
    )
    assert tuple(row) == ("boats", "succeeded")


async def test_a_worker_without_the_provider_does_not_claim_the_job(
    service, new_worker, stack, db
) -> None:
    started = await service.generations.start("a boat", model_id="own/boat")
    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    async with new_worker(replicate=replicate) as worker:
        assert set(worker.job_types) == {*JOB_TYPES.values(), "delete-pictures"}
        other = await service.generations.start("a boat")
        await service.jobs.result(other.job_id, timeout=30)
        waiting = (await service.health()).job_types_without_worker
        assert "generate-image:boats" in [item.job_type for item in waiting]
    (explained,) = await service.jobs.explain([started.job_id])
    assert explained.reason == "no_worker"
    job = await service.jobs.get(started.job_id)
    assert (job.status, job.attempt) == (JobStatus.PENDING, 0)
    async with new_worker(boats=drawing.draw):
        await service.jobs.result(started.job_id, timeout=30)


async def test_an_outage_of_one_provider_pauses_only_its_own_jobs(
    service, new_worker, stack, db
) -> None:
    def refuse(prompt: str) -> bytes:
        raise errors.TooManyRequests("the GPU is in use", retry_after=60)

    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    first, second = [
        await service.generations.start(f"boat {n}", model_id="own/boat") for n in range(2)
    ]
    async with new_worker(boats=refuse, replicate=replicate) as worker:
        await worker._signals.outcome.next()
        other = await service.generations.start("a lighthouse")
        await service.jobs.result(other.job_id, timeout=30)
        await worker._signals.idle.next()
    reasons = {item.reason for item in await service.jobs.explain([first.job_id, second.job_id])}
    assert reasons <= {"scheduled", "key_paused", "no_worker"}
    for started in (first, second):
        job = await service.jobs.get(started.job_id)
        assert (job.status, job.attempt) == (JobStatus.PENDING, 0)
    await db.execute("select resume_key('provider:boats')")
    for started in (first, second):
        await service.generations.cancel(started.id)


async def test_the_models_show_their_provider(service, new_worker, stack, db) -> None:
    await db.execute("delete from picture_queue.job_type where name like 'generate-image%'")
    models = {model.model_id: model for model in await service.models.list()}
    assert (models["own/boat"].provider, models[SCHNELL].provider) == ("boats", "replicate")
    # The capabilities are null until a worker has registered them.
    assert models["own/boat"].capabilities is models[SCHNELL].capabilities is None
    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    async with new_worker(boats=drawing.draw, replicate=replicate):
        models = {model.model_id: model for model in await service.models.list()}
    of_function, of_replicate = models["own/boat"].capabilities, models[SCHNELL].capabilities
    assert of_function is not None
    assert of_replicate is not None
    assert (of_function.cancel, of_function.progress, of_function.recover) == (True, True, "none")
    assert of_replicate.model_dump() == asdict(CAPABILITIES)


async def test_the_job_type_of_a_provider_is_equal_in_sql_and_python(db) -> None:
    for name in ("replicate", "boats"):
        for kind in JOB_TYPES:
            job_type = await db.fetchval(
                "select picture_queue._generation_job_type($1, $2)", kind, name
            )
            assert job_type == job_type_of(name, kind)


async def test_add_generations_without_a_client_uses_the_client_of_each_run(
    service, new_worker, stack, monkeypatch
) -> None:
    for name, value in (("SUPABASE_URL", stack.api_url), ("SUPABASE_KEY", stack.secret_key)):
        monkeypatch.setenv(name, value)
    worker = Worker(settings=WorkerSettings(shutdown_grace=0, poll_interval=0.05))
    add_generations(worker, providers={"boats": drawing.draw})
    for _ in range(2):  # each run has its own client
        started = await service.generations.start("a boat", model_id="own/boat")
        async with worker:
            await service.jobs.result(started.job_id, timeout=30)


async def test_a_worker_whose_client_cannot_store_pictures_does_not_start(monkeypatch) -> None:
    for name in ("SUPABASE_URL", "SUPABASE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PICTURE_QUEUE_DATABASE_URL", "postgresql://localhost/nowhere")
    worker = Worker()
    add_generations(worker, providers={"boats": drawing.draw})
    with pytest.raises(SettingsError, match="SUPABASE_URL is not set"):
        await worker.start()


async def test_add_generations_refuses_a_missing_or_a_second_provider(service) -> None:
    worker = Worker(service)
    with pytest.raises(InvalidArgument, match="no provider"):
        add_generations(worker, service)
    settings = ReplicateSettings("token")
    with pytest.raises(InvalidArgument, match=r"providers\['replicate'\]"):
        add_generations(worker, service, settings, providers={"replicate": settings})
