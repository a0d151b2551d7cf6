"""Fixtures of the tests of generations."""

from collections.abc import AsyncIterator

import pytest

from .world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """The simulator, the database and the client of one test."""
    world = World()
    async with world.http:
        yield world
