"""Calls under REPEATABLE READ or SERIALIZABLE that write a row changed since their snapshot."""

import asyncpg
import pytest

from tests.databases import connect

EVERY = '{"every_seconds": 60, "job_type": "t", "missed": "%s"}'
#: Two calls that change the same row. The snapshot of the second call is older than the first call.
PAIRS = {
    "set_setting": ("set_setting('{\"max_attempts\": 4}')", "set_setting('{\"max_attempts\": 5}')"),
    "set_queue": (
        "set_queue('q', '{\"max_attempts\": 4}')",
        "set_queue('q', '{\"max_attempts\": 5}')",
    ),
    "set_queue new": ("set_queue('new')", "set_queue('new', '{\"max_attempts\": 5}')"),
    "pause_queue": ("pause_queue('q')", "pause_queue('q')"),
    "resume_queue": ("pause_queue('q')", "resume_queue('q')"),
    "drain_queue": ("pause_queue('q')", "drain_queue('q')"),
    "purge_queue": ("enqueue_job('t', queue => 'q')", "purge_queue('q')"),
    "set_limit": ("set_limit('k', 1)", "set_limit('k', 2)"),
    "delete_limit": ("set_limit('l', 2)", "delete_limit('l')"),
    "pause_key": ("pause_key('k')", "pause_key('k')"),
    "resume_key": ("pause_key('k')", "resume_key('k')"),
    "set_tenant": ("set_tenant('t', 2)", "set_tenant('t', 3)"),
    "set_schedule": (
        f"set_schedule('s', '{EVERY % 'all'}')",
        f"set_schedule('s', '{EVERY % 'skip'}')",
    ),
    "pause_schedule": (f"set_schedule('s', '{EVERY % 'all'}')", "pause_schedule('s')"),
    "resume_schedule": ("pause_schedule('s')", "resume_schedule('s')"),
    "delete_schedule": (f"set_schedule('s', '{EVERY % 'all'}')", "delete_schedule('s')"),
    "run_schedule": (
        "run_schedule('s', '00000000-0000-4000-8000-000000000001')",
        "run_schedule('s', '00000000-0000-4000-8000-000000000001')",
    ),
    "register_worker": (
        "register_worker('w', '{q}', '{\"t\": {\"max_attempts\": 2}}')",
        "register_worker('w', '{q}', '{\"t\": {\"max_attempts\": 3}}')",
    ),
    "unregister_worker": ("register_worker('w', '{q,r}', '{}')", "unregister_worker('w')"),
    "enqueue_batch": (
        "enqueue_batch('[]', batch_id => '00000000-0000-4000-8000-000000000001')",
        "enqueue_batch('[]', batch_id => '00000000-0000-4000-8000-000000000001')",
    ),
    "start_generation": (
        "start_generation('a', options => '{\"idempotency_key\": \"k\"}')",
        "start_generation('a', options => '{\"idempotency_key\": \"k\"}')",
    ),
    "start_generations": (
        'start_generations(\'[{"prompt": "a"}]\', '
        '\'{"batch_id": "00000000-0000-4000-8000-000000000001"}\')',
        'start_generations(\'[{"prompt": "a"}]\', '
        '\'{"batch_id": "00000000-0000-4000-8000-000000000001"}\')',
    ),
    "send_event": ("send_event('e')", "send_event('e')"),
}


@pytest.fixture
async def connections(own_database):
    """Two connections to a database with the rows that the calls change."""
    pair = await connect(own_database), await connect(own_database)
    await pair[0].execute(
        "delete from generations; delete from job_queue; delete from picture_queue.batch"
    )
    for call in (
        *("set_queue('q')", "set_limit('l', 1)", "set_limit('k', 1)", "pause_key('k')"),
        *("set_tenant('t', 1)", f"set_schedule('s', '{EVERY % 'once'}')"),
        "register_worker('w', '{q}', '{\"t\": {}}')",
    ):
        await pair[0].fetchval(f"select {call}")
    yield pair
    for connection in pair:
        await connection.close(timeout=5)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("name", list(PAIRS))
async def test_a_change_with_an_older_snapshot_is_refused(connections, level, name):
    first, second = PAIRS[name]
    await connections[1].execute(f"begin isolation level {level}")
    await connections[1].fetchval("select count(*) from job_queue")
    await connections[0].fetchval(f"select {first}")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await connections[1].fetchval(f"select {second}")
    assert refused.value.sqlstate == "PT400", refused.value
    assert refused.value.detail == f"the transaction isolation level is {level}"
