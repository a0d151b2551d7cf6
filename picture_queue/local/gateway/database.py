"""The connections of the gateway to the database of the project."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from picture_queue.local.gateway.credentials import Caller

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

COMMAND_TIMEOUT = 30.0  # seconds
_ACQUIRE_TIMEOUT = 10.0  # seconds
_MAX_CONNECTIONS = 8  # of each service


class Database:
    """A connection pool of one service. `act_as` gives a transaction the caller's role.

    The service's role is not a superuser and owns the tables of the service. Triggers, policies and
    column defaults that users define run in these sessions. This code can reset the role that
    `act_as` set, but then it has only the privileges of the service's role.

    Connections are opened when needed and closed after five idle minutes.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        """Open the pool with one connection.

        Raises:
            OSError: The database cannot be reached.
            asyncpg.PostgresError: Postgres refuses the connection.
        """
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=_MAX_CONNECTIONS,
            command_timeout=COMMAND_TIMEOUT,
            init=_register_json,
            server_settings={"application_name": "picture-queue gateway"},
        )

    async def close(self) -> None:
        """Close every connection; a second call does nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection with the role of the service, outside a transaction."""
        if self._pool is None:
            raise ConnectionError("the gateway's database pool is closed")
        async with self._pool.acquire(timeout=_ACQUIRE_TIMEOUT) as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection in a transaction with the role of the service."""
        async with self.connection() as connection, connection.transaction():
            yield connection


async def act_as(
    connection: Connection, caller: Caller, extra: Mapping[str, str] | None = None
) -> None:
    """Set the caller's role and claims, which policies read, for the rest of a transaction.

    Args:
        connection: A connection inside a transaction.
        caller: The caller.
        extra: Further settings by name. The role is set last.
    """
    settings = {
        **(extra or {}),
        "request.jwt.claims": json.dumps(dict(caller.claims)),
        "request.jwt.claim.role": caller.role,
        "request.jwt.claim.sub": caller.subject or "",
        "role": caller.role,
    }
    await connection.execute(
        "select set_config(name, value, true)"
        " from unnest($1::text[], $2::text[]) with ordinality as setting (name, value, position)"
        " order by position",
        list(settings),
        list(settings.values()),
    )


async def fetch_one(connection: Connection, query: str, *values: object) -> asyncpg.Record:
    """Return the only row of a statement.

    Raises:
        LookupError: The statement returned no row.
    """
    row = await connection.fetchrow(query, *values)
    if row is None:
        raise LookupError(f"no row from: {query}")
    return row


async def _register_json(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )
