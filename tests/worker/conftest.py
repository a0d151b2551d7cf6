"""Workers on the real stack, each on a queue of its own."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from picture_queue import AsyncPictureQueue, Job, JobEvent, Worker, WorkerSettings


@pytest.fixture
def new_worker(service: AsyncPictureQueue, queue: str) -> Callable[..., Worker]:
    """Makes a worker of the test's queue. By default nothing but a wake-up makes it look."""

    def make(**settings: Any) -> Worker:
        chosen = {"queues": (queue,), "poll_interval": 30.0, "shutdown_grace": 0.0} | settings
        worker = Worker(service, WorkerSettings(**chosen))
        worker._signals.watch()
        return worker

    return make


@pytest.fixture
def reached(service: AsyncPictureQueue) -> Callable[..., Any]:
    """Waits for a state of a job, and returns its row."""

    async def wait(job_id: UUID, condition: Callable[[JobEvent], bool], timeout: float = 15) -> Job:
        async with aclosing(service.jobs.watch(job_id, timeout=timeout)) as events:
            async for event in events:
                if condition(event):
                    return await service.jobs.get(job_id)
        raise AssertionError(f"it ended otherwise: {event}")

    return wait


@pytest.fixture
async def db(stack: Any) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    yield connection
    await connection.close(timeout=5)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits for something that has no signal."""

    async def wait(condition: Callable[[], Any], timeout: float = 15) -> None:
        async with asyncio.timeout(timeout):
            while True:
                found = condition()
                if await found if inspect.isawaitable(found) else found:
                    return
                await asyncio.sleep(0.01)

    return wait
