"""The same cases over both ways to a project: its HTTP API, and its database."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue


def connection(stack: Any, way: str) -> dict[str, str]:
    """The arguments of a client."""
    if way == "http":
        return {"url": stack.api_url, "key": stack.service_role_key}
    return {"database_url": stack.db_url}


@pytest.fixture(params=["http", "direct"])
def way(request: pytest.FixtureRequest) -> str:
    """The transport of calls."""
    return str(request.param)


@pytest.fixture
async def service(stack: Any, way: str) -> AsyncIterator[AsyncPictureQueue]:
    """Our client with the rights of the service."""
    async with AsyncPictureQueue(**connection(stack, way)) as pq:
        yield pq


@pytest.fixture
def sync_service(stack: Any, way: str) -> Any:
    """The same for sync callers."""
    return PictureQueue(**connection(stack, way))
