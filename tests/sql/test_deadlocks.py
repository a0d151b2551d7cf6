"""Deadlocks: two transactions lock the same objects in opposite order; one call gets PQ_BUSY."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.databases import connect

EVERY = {"every_seconds": 60, "job_type": "t"}
IMAGE = {"n": 1, "path": "a.png", "mime_type": "image/png", "width": 1, "height": 1, "bytes": 1}

#: Calls that lock a row, each with a function that takes its arguments from the created objects.
CALLS = {
    "set_schedule": (
        "set_schedule($1, $2)",
        lambda objects: (objects["name"], {**EVERY, "missed": "all"}),
    ),
    "pause_schedule": ("pause_schedule($1)", lambda objects: (objects["name"],)),
    "delete_schedule": ("delete_schedule($1)", lambda objects: (objects["name"],)),
    "register_worker": (
        "register_worker($1, '{default}', $2)",
        lambda objects: (objects["name"], {objects["name"]: {"max_attempts": 7}}),
    ),
    "begin_prediction": ("begin_prediction($1, $2)", lambda objects: objects["lease"]),
    "record_prediction": (
        "record_prediction($1, $2, $3, $4)",
        lambda objects: (*objects["lease"], objects["prediction"], objects["name"]),
    ),
    "finish_prediction": (
        "finish_prediction($1, $2, $3, 'failed')",
        lambda objects: (*objects["lease"], objects["prediction"]),
    ),
    "receive_prediction": (
        "receive_prediction($1, $2, 'succeeded')",
        lambda objects: (objects["prediction"], objects["name"]),
    ),
    "save_images": ("save_images($1, $2, $3)", lambda objects: (*objects["lease"], [IMAGE])),
}


@pytest.fixture
async def connections(own_database):
    pair = await connect(own_database), await connect(own_database)
    yield pair
    for connection in pair:
        await connection.close(timeout=5)


async def create_objects(connection):
    """Create a schedule, and a running job of a generation with its prediction."""
    name = f"s-{uuid4().hex}"
    await connection.fetchval("select set_schedule($1, $2)", name, EVERY)
    await connection.fetchval("select start_generation('a boat')")
    claim = "select claim_jobs('w', '{default}', '{generate-image}', 1, 300)"
    (job,) = await connection.fetchval(claim)
    lease = (UUID(job["id"]), UUID(job["lease_id"]))
    begun = await connection.fetchval("select begin_prediction($1, $2)", *lease)
    return {"name": name, "lease": lease, "prediction": UUID(begun["prediction"]["id"])}


@pytest.mark.parametrize("name", list(CALLS))
async def test_a_deadlock_is_reported_as_busy(connections, name):
    call, arguments = CALLS[name]
    objects = [await create_objects(connections[0]) for _ in range(2)]

    async def call_in_order(connection, first, second, barrier):
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.fetchval(f"select {call}", *arguments(first))
            await barrier.wait()
            await connection.fetchval(f"select {call}", *arguments(second))
        except asyncpg.PostgresError as error:
            return error.sqlstate, error.message.split(":")[0]
        else:
            return None
        finally:
            await transaction.rollback()

    barrier = asyncio.Barrier(2)
    answers = await asyncio.gather(
        call_in_order(connections[0], objects[0], objects[1], barrier),
        call_in_order(connections[1], objects[1], objects[0], barrier),
    )
    # Two calls with a lock timeout may both fail.
    assert set(answers) <= {None, ("PT429", "PQ_BUSY")}
    assert ("PT429", "PQ_BUSY") in answers
