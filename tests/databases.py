"""Databases that tests make and drop."""

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from picture_queue.local.datadir import DataDir


def address(url: str, database: str) -> str:
    """The address of another database of the same server, for the same role."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def login(stack: Any, role: str, database: str = "postgres") -> str:
    """The address of a database of an embedded stack, for one of the stack's own roles."""
    parts = urlsplit(address(stack.superuser_url, database))
    password = DataDir(stack.data_dir).secrets().passwords[role]
    netloc = f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc))


async def connect(dsn: str, command_timeout: float = 60) -> Any:
    """Open a connection that reads and writes jsonb as Python values; times are in seconds."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=command_timeout)
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    return connection


async def execute(dsn: str, statement: str) -> None:
    """Run a statement over a connection of its own."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)
