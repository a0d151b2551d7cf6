"""A separate database for each test, copied from a template with the schema installed."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from ...databases import address, execute
from .world import World, open_world

OpenWorld = Callable[[], AbstractAsyncContextManager[World]]


@asynccontextmanager
async def copied_database(stack: Any, template: str) -> AsyncIterator[str]:
    admin, name = address(stack.superuser_url, "postgres"), f"copy_{uuid4().hex[:8]}"
    await execute(admin, f'create database {name} template "{template}" owner postgres')
    try:
        yield address(stack.db_url, name)
    finally:
        await execute(admin, f"drop database {name} with (force)")


@pytest.fixture
async def world(stack: Any, own_database: str) -> AsyncIterator[World]:
    async with (
        copied_database(stack, own_database.rsplit("/", 1)[1]) as url,
        open_world(url) as world,
    ):
        yield world
