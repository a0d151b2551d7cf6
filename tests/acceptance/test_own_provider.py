"""A generation of a Python function as provider is completed by another worker after a kill."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from picture_queue import AsyncPictureQueue, JobStatus

WORKER = Path(__file__).with_name("own_provider_worker.py")
INSERT_MODEL = """
insert into picture_queue.model (model_id, provider, kind, inputs)
values ('dying/model', 'dying', 'text-to-image',
  '[{"name": "prompt", "type": "string", "required": true}]')
on conflict (model_id) do update set enabled = true
"""


async def start_worker(stack, *point: str) -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_KEY": stack.service_role_key,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, str(WORKER), *point, env=environment
    )


@pytest.mark.timeout(120)
async def test_a_function_whose_worker_is_killed_runs_again_in_another_worker(stack, db) -> None:
    await db.execute(INSERT_MODEL)
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq:
        started = {}
        for point in ("function", "stored"):
            started[point] = await pq.generations.start(f"a boat, {point}", "dying/model")
            process = await start_worker(stack, point)
            assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
        # Let the leases of both killed workers expire now instead of in ten minutes.
        await db.execute("delete from picture_queue.lease_extension")
        await db.execute(
            "update job_queue set lease_expires_at = now() where id = any ($1)",
            [generation.job_id for generation in started.values()],
        )
        surviving_worker = await start_worker(stack)
        try:
            for generation in started.values():
                watch = pq.generations.watch(generation.id, timeout=60)
                events = [event async for event in watch]
                assert events[-1].status is JobStatus.COMPLETED, events[-1]
                (image,) = (await pq.generations.get(generation.id)).images
                assert (await pq.generations.download(image)).startswith(b"\x89PNG")
                states = await db.fetchval(
                    "select array_agg(state order by created_at) from picture_queue.prediction"
                    " where generation_id = $1",
                    generation.id,
                )
                assert (states[-1], {*states[:-1]}) == ("succeeded", {"lost"})
        finally:
            surviving_worker.terminate()
            assert await asyncio.wait_for(surviving_worker.wait(), 30) == 0
    await db.execute("update picture_queue.model set enabled = false where provider = 'dying'")
