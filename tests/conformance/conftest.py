"""Fixtures for tests that run over both transports: the HTTP API and the database."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue


def client_arguments(stack: Any, transport: str) -> dict[str, str]:
    """Return the arguments of a client that uses this transport."""
    if transport == "http":
        return {"url": stack.api_url, "key": stack.service_role_key}
    return {"database_url": stack.db_url}


@pytest.fixture(params=["http", "direct"])
def transport(request: pytest.FixtureRequest) -> str:
    """The transport of the clients `service` and `sync_service`."""
    return str(request.param)


@pytest.fixture
async def service(stack: Any, transport: str) -> AsyncIterator[AsyncPictureQueue]:
    """An async client with the service key."""
    async with AsyncPictureQueue(**client_arguments(stack, transport)) as pq:
        yield pq


@pytest.fixture
def sync_service(stack: Any, transport: str) -> Any:
    """A sync client with the service key."""
    return PictureQueue(**client_arguments(stack, transport))
