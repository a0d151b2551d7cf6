"""A generation is completed and paid once if its worker is killed at any step."""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest

from picture_queue import AsyncPictureQueue
from picture_queue.records import JobStatus

#: The steps of a generation, named as in crashing_worker.py.
STEPS = (
    "begin_prediction",
    "create",
    "record_prediction",
    "report_progress",
    "get",
    "download_into",
    "upload",
    "save_images",
    "finish_prediction",
    "report_jobs",
)
POINTS = [f"{when}:{step}" for step in STEPS for when in ("before", "after")]
CRASHING_WORKER = Path(__file__).with_name("crashing_worker.py")


async def start_worker(stack, point=""):
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_KEY": stack.service_role_key,
        "REPLICATE_BASE_URL": stack.replicate_url,
        "REPLICATE_API_TOKEN": stack.replicate_token,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, str(CRASHING_WORKER), *([point] if point else []), env=environment
    )


async def list_predictions_at_replicate(stack, prompt):
    address = stack.replicate_url.removesuffix("/v1") + "/_simulator/predictions"
    async with httpx.AsyncClient(headers={"apikey": stack.secret_key}, timeout=10) as http:
        listed = (await http.get(address)).raise_for_status().json()
    listed = listed.get("results", listed) if isinstance(listed, dict) else listed
    return [item for item in listed if item["input"].get("prompt") == prompt]


# In `make test`, tests/generations/test_paid_once.py raises an error at each of these steps.
@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_generation_completes_and_is_paid_once_wherever_its_worker_is_killed(stack):
    sql = await asyncpg.connect(stack.db_url, timeout=10)
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq:
        started = {}
        # The worker of this test must claim the test's own generation before all other jobs.
        await sql.execute("update job_queue set priority = 0 where status = 'pending'")
        for point in POINTS:
            prompt = f"a lighthouse {point} {uuid4()}"
            generation = await pq.generations.start(prompt, priority=1000)
            process = await start_worker(stack, point)
            try:
                code = await asyncio.wait_for(process.wait(), 30)
            finally:
                if process.returncode is None:
                    process.kill()
            assert code == -signal.SIGKILL, f"{point} was not reached"
            started[point] = (generation, prompt)
        # Let the leases of the killed workers expire now instead of in ten minutes. An extension of
        # a lease is in lease_extension.
        await sql.execute("delete from picture_queue.lease_extension")
        await sql.execute(
            "update job_queue set lease_expires_at = now() where status = 'processing'"
        )
        second_worker = await start_worker(stack)
        try:
            for point, (generation, prompt) in started.items():
                watch = pq.generations.watch(generation.id, timeout=60)
                events = [event async for event in watch]
                assert events[-1].status is JobStatus.COMPLETED, (point, events[-1])
                await check_paid_once(stack, sql, pq, point, generation, prompt)
        finally:
            second_worker.terminate()
            assert await asyncio.wait_for(second_worker.wait(), 30) == 0
    await sql.close(timeout=10)


async def check_paid_once(stack, sql, pq, point, generation, prompt):
    completed = await pq.generations.get(generation.id)
    assert [image.n for image in completed.images] == [1], point
    assert len(await pq.generations.download(completed.images[0])) > 100

    predictions = await list_predictions_at_replicate(stack, prompt)
    paid = [item for item in predictions if item["status"] not in ("canceled", "aborted")]
    assert len(paid) == 1, (point, predictions)
    rows = await sql.fetch(
        "select prediction_id, state from picture_queue.prediction where generation_id = $1",
        generation.id,
    )
    row_counts = Counter(row["prediction_id"] for row in rows if row["prediction_id"])
    assert {item["id"] for item in predictions} == row_counts.keys(), (point, rows)
    assert set(row_counts.values()) == {1}, "a prediction has several rows"
