"""The routes /process-jobs and /process-generation, and a worker in the process of the app."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from picture_queue import AsyncPictureQueue, JobContext, PermanentFailure, Worker, WorkerSettings
from picture_queue.errors import NotAuthenticated
from picture_queue.settings import ReplicateSettings
from picture_queue.web import BackgroundWorker, WebSettings, create_app

SECRET = "a-secret-of-the-service-for-tests"
REPLICATE = ReplicateSettings("r8_test", "http://127.0.0.1:1/v1", webhook_secret="whsec_a2V5")
UNKNOWN = b'{"generation_id": "00000000-0000-4000-8000-000000000000"}'
HEADERS = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture
def worker(service: AsyncPictureQueue, queue: str) -> Worker:
    """A worker with one slot and handlers that succeed, fail and wait."""
    worker = Worker(service, WorkerSettings(queues=(queue,), concurrency=1, shutdown_grace=0))
    prefix = queue

    @worker.handler(f"{prefix}.ok")
    async def succeed(payload: dict[str, Any]) -> str:
        return "done"

    @worker.handler(f"{prefix}.fail")
    async def fail(payload: dict[str, Any]) -> None:
        raise PermanentFailure("no such file")

    @worker.handler(f"{prefix}.wait")
    async def wait(payload: dict[str, Any], job: JobContext) -> None:
        await job.progress(1)
        await asyncio.sleep(60)

    return worker


@contextlib.asynccontextmanager
async def calling(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Call an app in this process, inside of its lifespan."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app.localhost", timeout=30) as http,
    ):
        yield http


def app_of(
    service: AsyncPictureQueue, worker: Worker | BackgroundWorker, seconds: float = 20
) -> Starlette:
    settings = WebSettings(process_secret=SECRET, process_seconds=seconds)
    return create_app(service, REPLICATE, settings=settings, worker=worker)


async def test_process_jobs_runs_the_due_jobs_and_counts_them(service, worker, queue):
    jobs = [await service.jobs.enqueue(f"{queue}.{kind}", queue=queue) for kind in ("ok", "fail")]
    jobs.append(await service.jobs.enqueue(f"{queue}.ok", queue=queue))
    later = await service.jobs.enqueue(f"{queue}.ok", queue=queue, delay=3600)
    async with calling(app_of(service, worker)) as http:
        answer = await http.post("/process-jobs", headers=HEADERS, json={})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"success": True, "processed": 2, "errors": 1}
        answer = await http.post("/process-jobs", headers=HEADERS)
        assert answer.json() == {"success": True, "processed": 0, "errors": 0}
    states = [(await service.jobs.get(job.id)).status for job in jobs]
    assert states == ["completed", "failed", "completed"]
    assert (await service.jobs.get(later.id)).attempt == 0
    await service.jobs.cancel(later.id)


async def test_a_job_that_is_not_done_in_time_is_released_without_an_attempt(
    service, worker, queue
):
    jobs = [await service.jobs.enqueue(f"{queue}.wait", queue=queue) for _ in range(2)]
    async with calling(app_of(service, worker, seconds=1)) as http:
        answer = await http.post("/process-jobs", headers=HEADERS)
    assert answer.json()["success"]
    for job in jobs:
        row = await service.jobs.get(job.id)
        assert (row.status, row.hold, row.attempt) == ("pending", None, 0)
        await service.jobs.cancel(job.id)


async def test_a_second_call_does_not_wait_for_the_first(service, worker, queue, wait_for_job):
    job = await service.jobs.enqueue(f"{queue}.wait", queue=queue)
    async with calling(app_of(service, worker)) as http:
        first = asyncio.create_task(http.post("/process-jobs", headers=HEADERS))
        await wait_for_job(job.id, lambda event: event.progress == 1)
        second = await http.post("/process-jobs", headers=HEADERS)
        assert second.json() == {"success": True, "processed": 0, "errors": 0}
        assert not first.done()
        await service.jobs.cancel(job.id)
        assert (await first).json()["success"]


async def test_the_end_of_the_app_releases_the_jobs_of_a_call(service, worker, queue, wait_for_job):
    job = await service.jobs.enqueue(f"{queue}.wait", queue=queue)
    async with calling(app_of(service, worker)) as http:
        call = asyncio.create_task(http.post("/process-jobs", headers=HEADERS))
        await wait_for_job(job.id, lambda event: event.progress == 1)
    assert (await call).json()["success"]
    row = await service.jobs.get(job.id)
    assert (row.status, row.attempt) == ("pending", 0)
    await service.jobs.cancel(job.id)


async def test_jobs_go_on_if_the_caller_disconnects(service, queue, wait_for_job):
    goes_on = asyncio.Event()
    worker = Worker(service, WorkerSettings(queues=(queue,)))

    @worker.handler(f"{queue}.slow")
    async def slow(payload: dict[str, Any], job: JobContext) -> str:
        await job.progress(1)
        await goes_on.wait()
        return "done"

    job = await service.jobs.enqueue(f"{queue}.slow", queue=queue)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app_of(service, worker), log_level="warning"))
        serving = asyncio.create_task(server.serve([listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/process-jobs"
        async with httpx.AsyncClient() as http:
            call = asyncio.create_task(http.post(url, headers=HEADERS, timeout=60))
            await wait_for_job(job.id, lambda event: event.progress == 1)
            call.cancel()
        goes_on.set()
        assert await service.jobs.result(job.id, timeout=20) == "done"
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


@pytest.mark.parametrize("path", ["/process-jobs", "/process-generation"])
async def test_a_caller_without_the_secret_is_refused(service, stack, worker, path):
    async with calling(app_of(service, worker)) as http:
        for headers in (
            {},
            {"Authorization": SECRET},
            {"Authorization": f"Basic {SECRET}"},
            {"Authorization": f"Bearer {SECRET[:-1]}"},
            {"Authorization": f"Bearer {SECRET}x"},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {stack.anon_key}"},
            {"Authorization": f"Bearer {stack.publishable_key}"},
            {"Authorization": "Bearer ä".encode()},
            {"apikey": stack.anon_key},
            {"apikey": "x" * 20_000},
            {"Cookie": f"secret={SECRET}"},
        ):
            answer = await http.post(path, headers=headers, params={"secret": SECRET})
            assert answer.status_code == 401, headers
            assert answer.json() == {
                "success": False,
                "error": "The secret of the service is missing or wrong",
                "code": "PQ_NOT_AUTHENTICATED",
            }
        for method in ("GET", "HEAD", "PUT", "OPTIONS", "DELETE"):
            answer = await http.request(method, path, headers=HEADERS)
            assert answer.status_code == 405


async def test_the_service_key_of_the_app_is_accepted(service, stack, worker):
    async with calling(app_of(service, worker)) as http:
        for headers in (
            {"Authorization": f"Bearer {stack.service_role_key}"},
            {"apikey": stack.service_role_key},
        ):
            assert (await http.post("/process-jobs", headers=headers)).status_code == 200


async def test_a_publishable_key_of_the_app_does_not_give_access(stack):
    for key in (stack.anon_key, stack.publishable_key):
        async with AsyncPictureQueue(stack.api_url, key) as pq:
            app = create_app(pq, REPLICATE, settings=WebSettings())
            async with calling(app) as http:
                headers = {"Authorization": f"Bearer {key}"}
                assert (await http.post("/process-jobs", headers=headers)).status_code == 404


async def test_an_outage_gets_503_with_a_code(stack, queue):
    async with AsyncPictureQueue("http://127.0.0.1:9", stack.service_role_key) as pq:
        worker = Worker(pq, WorkerSettings(queues=(queue,)))
        async with calling(app_of(pq, worker, seconds=1)) as http:
            answer = await http.post("/process-jobs", headers=HEADERS)
    assert answer.status_code == 503
    assert (answer.json()["success"], answer.json()["code"]) == (False, "PQ_BUSY")
    assert "127.0.0.1" not in answer.text


@pytest.fixture
def pictures(stack: Any, service: AsyncPictureQueue) -> Starlette:
    """An app whose built-in worker makes pictures with the simulator."""
    replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
    settings = WebSettings(process_secret=SECRET)
    return create_app(service, replicate, settings=settings)


async def test_process_generation_makes_a_picture_now(service, pictures):
    async with calling(pictures) as http:
        for _ in range(2):  # the second call uses the worker again
            started = await service.generations.start("a boat", priority=10**6)
            body = {"generation_id": str(started.id)}
            answer = await http.post("/process-generation", headers=HEADERS, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json() == {
                "success": True,
                "generation_id": str(started.id),
                "job_id": str(started.job_id),
                "status": "completed",
            }
            assert len((await service.generations.get(started.id)).images) == 1


async def test_process_generation_names_the_error_of_a_cancelled_generation(service, pictures):
    started = await service.generations.start("a boat")
    await service.generations.cancel(started.id)
    async with calling(pictures) as http:
        body = {"generation_id": str(started.id)}
        answer = await http.post("/process-generation", headers=HEADERS, json=body)
    assert answer.status_code == 200
    assert (answer.json()["success"], answer.json()["status"]) == (False, "cancelled")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "PQ_INVALID_ARGUMENT"),
        (b"[]", 400, "PQ_INVALID_ARGUMENT"),
        (b'{"generation_id": 5}', 400, "PQ_INVALID_ARGUMENT"),
        (b'{"generation_id": "x"}', 400, "PQ_INVALID_ARGUMENT"),
        (
            b'{"generation_id": "00000000-0000-4000-8000-000000000000"}',
            404,
            "PQ_UNKNOWN_GENERATION",
        ),
        (b'{"x": "' + b"x" * 70_000 + b'"}', 413, "PQ_TOO_LARGE"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_process_generation_refuses_an_invalid_body(pictures, body, status, code):
    async with calling(pictures) as http:
        answer = await http.post("/process-generation", headers=HEADERS, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["success"] is False


async def test_a_worker_runs_in_the_lifespan_of_the_app(service, worker, queue, until):
    async with calling(app_of(service, BackgroundWorker(worker))) as http:
        job = await service.jobs.enqueue(f"{queue}.ok", queue=queue)
        assert await service.jobs.result(job.id, timeout=20) == "done"
        assert (await http.get("/readyz")).status_code == 200
        answer = await http.post("/process-jobs", headers=HEADERS)
        assert answer.json() == {"success": True, "processed": 0, "errors": 0}
        running = await service.jobs.enqueue(f"{queue}.wait", queue=queue)
        await until(lambda: worker._supervisor and worker._supervisor._slots.attempts)
    row = await service.jobs.get(running.id)
    assert (row.status, row.attempt) == ("pending", 0)
    await service.jobs.cancel(running.id)
    assert worker.name is None


async def test_the_app_does_not_start_if_the_project_refuses_the_key_of_its_worker(stack, queue):
    async with AsyncPictureQueue(stack.api_url, "sb_secret_wrong") as pq:
        worker = Worker(pq, WorkerSettings(queues=(queue,)))
        app = app_of(pq, BackgroundWorker(worker))
        with pytest.raises(NotAuthenticated):
            async with calling(app):
                pass


async def test_the_app_is_not_ready_until_its_worker_reaches_the_project(
    service, worker, queue, faults, until
):
    await faults(answer_503=1000, path="/rest/v1/rpc/register_worker")
    async with calling(app_of(service, BackgroundWorker(worker))) as http:
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
        await faults(answer_503=0)

        async def is_ready() -> bool:
            return (await http.get("/readyz")).status_code == 200

        await until(is_ready, timeout=30)


async def test_the_app_is_not_healthy_after_its_worker_has_ended(service, queue, until):
    end = threading.Event()
    settings = WorkerSettings(queues=(queue,), concurrency=1, stuck_after=0, shutdown_grace=0)
    worker = Worker(service, settings)

    @worker.handler(f"{queue}.stuck", timeout=0.2, max_attempts=1)
    def stuck(payload: dict[str, Any]) -> None:
        end.wait()

    try:
        async with calling(app_of(service, BackgroundWorker(worker))) as http:
            await service.jobs.enqueue(f"{queue}.stuck", queue=queue)

            async def has_failed() -> bool:
                return (await http.get("/healthz")).status_code == 503

            await until(has_failed, timeout=30)
            assert (await http.get("/healthz")).json() == {"status": "failed"}
            assert (await http.get("/readyz")).status_code == 503
    finally:
        end.set()


async def test_a_background_worker_can_be_entered_twice(
    service: AsyncPictureQueue, worker: Worker, queue: str, wait_for_job: Callable[..., Any]
) -> None:
    background = BackgroundWorker(worker)
    for _ in range(2):
        async with background:
            assert background.is_ready
            job = await service.jobs.enqueue(f"{queue}.ok", queue=queue)
            assert await service.jobs.result(job.id, timeout=20) == "done"
        assert not background.is_ready
