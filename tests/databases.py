"""Helpers to create, drop and use databases."""

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from picture_queue.local.datadir import DataDir


def address(url: str, database: str) -> str:
    """Return the address of another database on the same server, for the same role."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def login(stack: Any, role: str, database: str = "postgres") -> str:
    """Return the address of a database of an embedded stack, for one of the stack's roles."""
    parts = urlsplit(address(stack.superuser_url, database))
    password = DataDir(stack.data_dir).read_secrets().passwords[role]
    netloc = f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc))


async def connect(dsn: str, command_timeout: float = 60) -> Any:
    """Open a connection that reads and writes jsonb as Python values. Timeouts are in seconds."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=command_timeout)
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    return connection


async def execute(dsn: str, statement: str) -> None:
    """Run a statement over a new connection."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)
