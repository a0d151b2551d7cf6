"""Deadlocks: two transactions make the same calls in opposite order, and one fails as busy."""

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.databases import connect

EVERY = {"every_seconds": 60, "job_type": "t"}
IMAGE = {"n": 1, "path": "a.png", "mime_type": "image/png", "width": 1, "height": 1, "bytes": 1}

#: For each pair of objects a statement that locks one of them, and its arguments.
CALLS = {
    "set_schedule": ("set_schedule($1, $2)", lambda it: (it["name"], {**EVERY, "missed": "all"})),
    "pause_schedule": ("pause_schedule($1)", lambda it: (it["name"],)),
    "delete_schedule": ("delete_schedule($1)", lambda it: (it["name"],)),
    "register_worker": (
        "register_worker($1, '{default}', $2)",
        lambda it: (it["name"], {it["name"]: {"max_attempts": 7}}),
    ),
    "begin_prediction": ("begin_prediction($1, $2)", lambda it: it["lease"]),
    "record_prediction": (
        "record_prediction($1, $2, $3, $4)",
        lambda it: (*it["lease"], it["prediction"], it["name"]),
    ),
    "finish_prediction": (
        "finish_prediction($1, $2, $3, 'failed')",
        lambda it: (*it["lease"], it["prediction"]),
    ),
    "save_images": ("save_images($1, $2, $3)", lambda it: (*it["lease"], [IMAGE])),
}


@pytest.fixture
async def two(own_database):
    one, two = await connect(own_database), await connect(own_database)
    yield one, two
    for connection in (one, two):
        await connection.close(timeout=5)


async def make(connection):
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
async def test_a_deadlock_is_reported_as_busy(two, name):
    call, arguments = CALLS[name]
    objects = [await make(two[0]) for _ in range(2)]

    async def turn(connection, first, second, barrier):
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
        turn(two[0], objects[0], objects[1], barrier), turn(two[1], objects[1], objects[0], barrier)
    )
    # Two calls that wait only for a bounded time may both give up.
    assert set(answers) <= {None, ("PT429", "PQ_BUSY")}
    assert ("PT429", "PQ_BUSY") in answers
