"""The fixture `db`: a separate database for each test, copied from one with the schema."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from ...databases import database_url, execute
from .database import IsolationDatabase, open_database


@asynccontextmanager
async def copied_database(stack: Any, template: str) -> AsyncIterator[str]:
    admin, name = database_url(stack.superuser_url, "postgres"), f"copy_{uuid4().hex[:8]}"
    await execute(admin, f'create database {name} template "{template}" owner postgres')
    try:
        yield database_url(stack.db_url, name)
    finally:
        await execute(admin, f"drop database {name} with (force)")


@pytest.fixture
async def db(stack: Any, own_database: str) -> AsyncIterator[IsolationDatabase]:
    async with (
        copied_database(stack, own_database.rsplit("/", 1)[1]) as url,
        open_database(url) as db,
    ):
        yield db
