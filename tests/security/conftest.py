"""A stack on Debian's Postgres 15, which has the extension the Supabase CLI lints with."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from picture_queue.local.stack import LocalSupabase

DEBIAN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def debian() -> Iterator[LocalSupabase]:
    """A stack on it, with plpgsql_check installed as the platform lets `postgres` do."""
    control = Path("/usr/share/postgresql/15/extension/plpgsql_check.control")
    if not (DEBIAN / "initdb").exists() or not control.exists():
        pytest.fail("plpgsql_check is missing: apt-get install postgresql-15-plpgsql-check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PICTURE_QUEUE_POSTGRES_BIN", str(DEBIAN))
        with LocalSupabase() as stack:
            admin = stack.db_url.replace("//postgres:", "//supabase_admin:", 1)
            asyncio.run(_execute(admin, "create extension plpgsql_check with schema extensions"))
            yield stack


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)
