"""Helpers to create, drop and use databases."""

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from picture_queue.local.datadir import DataDir


def database_url(url: str, database: str) -> str:
    """Return the URL of another database on the same server, for the same role."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def role_url(stack: Any, role: str, database: str = "postgres") -> str:
    """Return the URL by which one of an embedded stack's roles connects to a database."""
    parts = urlsplit(database_url(stack.superuser_url, database))
    password = DataDir(stack.data_dir).read_secrets().passwords[role]
    netloc = f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=netloc))


async def connect(url: str, command_timeout: float = 60) -> Any:
    """Open a connection that converts between jsonb and Python values."""
    connection = await asyncpg.connect(url, timeout=10, command_timeout=command_timeout)
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    return connection


async def execute(url: str, statement: str) -> None:
    """Run a statement over a new connection."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)
