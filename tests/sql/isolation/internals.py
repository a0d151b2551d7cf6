"""Access to internal tables and functions; no other file of these tests depends on them."""

from typing import Any, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[Any]"

BAD_QUEUE_NAME = "bad name!"


async def set_clock(connection: Connection, now: str) -> None:
    """Stop the clock of all functions at this time, so that no test depends on its speed."""
    await connection.execute(
        f"""create or replace function picture_queue._now() returns timestamptz
        language plpgsql stable set search_path = pg_catalog, pg_temp
        as $$ begin return timestamptz '{now}'; end $$"""
    )


async def corrupt_callbacks(
    connection: Connection, batches: list[str], callback: dict[str, Any]
) -> None:
    """Give batches a callback that the validator would refuse."""
    await connection.execute(
        "update picture_queue.batch set callback = $2 where id::text = any($1)", batches, callback
    )


async def corrupt_policy(connection: Connection, job_type: str) -> None:
    """Give a job type a policy with an impossible queue."""
    await connection.execute(
        "insert into picture_queue.job_type (name, queue) values ($1, $2)", job_type, BAD_QUEUE_NAME
    )


async def corrupt_payloads(connection: Connection, job_type: str, payload: str) -> None:
    """Give jobs a payload (an SQL expression) that the validator would refuse."""
    await connection.execute(
        f"update public.job_queue set payload = {payload} where job_type = $1", job_type
    )


async def corrupt_schedule(connection: Connection, name: str) -> None:
    """Give a schedule a job that cannot be enqueued."""
    await connection.execute(
        "update picture_queue.schedule set job = job || $2 where name = $1",
        name,
        {"user_id": "nobody"},
    )


async def insert_generation(connection: Connection, job_id: str, prompt: str) -> str:
    """Insert a generation for this job."""
    return await connection.fetchval(
        "insert into public.generations (job_id, model_id, prompt) "
        "values ($1::text::uuid, 'any', $2) returning id::text",
        job_id, prompt,
    )  # fmt: skip


async def lock_rows(connection: Connection, table: str, where: str, *args: Any) -> int:
    """Lock rows of one of our tables until the transaction ends; return their number."""
    rows = await connection.fetch(
        f"select from picture_queue.{table} where {where} for update", *args
    )
    return len(rows)


async def lock_key(connection: Connection, key: str) -> int:
    """Lock the rows of a limit key in all tables with a column `key`."""
    tables = await connection.fetch(
        """select c.table_name from information_schema.columns c
        join information_schema.tables t using (table_schema, table_name)
        where c.table_schema = 'picture_queue' and c.column_name = 'key'
        and t.table_type = 'BASE TABLE'
        order by 1"""
    )
    return sum([await lock_rows(connection, row[0], "key = $1", key) for row in tables])


async def failed_steps(connection: Connection) -> list[dict[str, Any]]:
    """Return the steps of maintenance that failed and are retried later."""
    if await connection.fetchval("select to_regclass('picture_queue.failed_step') is null"):
        return []
    return [dict(row) for row in await connection.fetch("select * from picture_queue.failed_step")]


async def function_text(connection: Connection, name: str) -> str:
    """Return the definition of one of our functions."""
    return await connection.fetchval(
        "select pg_get_functiondef(p.oid) from pg_proc p "
        "where p.pronamespace in ('picture_queue'::regnamespace, 'public'::regnamespace) "
        "and p.proname = $1",
        name,
    )


async def leave_dead_dependencies(connection: Connection, count: int) -> None:
    """Insert and delete dependencies, as happens when parents end."""
    await connection.execute(
        "insert into picture_queue.dependency (child_id, parent_id) select j.id, gen_random_uuid() "
        f"from (select id from public.job_queue limit 1) j, generate_series(1, {count})"
    )
    await connection.execute("delete from picture_queue.dependency")


async def leave_dead_workers(connection: Connection, count: int) -> None:
    """Update the row of a worker many times, as the calls of the worker do."""
    await connection.execute(
        f"""do $$ begin
          for i in 1..{count} loop
            update picture_queue.worker set seen_at = clock_timestamp(), idle = i % 2 = 0;
          end loop;
        end $$"""
    )


async def plan_started_key(connection: Connection, key: str) -> None:
    """Plan the next check of a limit key that has a start but no row in `limit_key`."""
    await connection.execute(
        "insert into picture_queue.start (key, at) values ($1, picture_queue._now())", key
    )
    await connection.execute("select picture_queue._plan_unblocking($1)", [key])
