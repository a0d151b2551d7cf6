"""Clients of the stack: the service, two signed-up users, and what anybody can do."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from picture_queue import AsyncPictureQueue


@dataclass(frozen=True)
class Person:
    """A signed-up user with a plain supabase client and one of ours."""

    id: UUID
    token: str
    supabase: AsyncClient
    pq: AsyncPictureQueue


@pytest.fixture
async def service(stack: Any) -> AsyncIterator[AsyncPictureQueue]:
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq:
        yield pq


@pytest.fixture
def queue() -> str:
    """A queue of the test's own."""
    return f"q-{uuid4().hex[:12]}"


async def _sign_up(stack: Any) -> AsyncIterator[Person]:
    async with httpx.AsyncClient(timeout=30) as http:
        options = AsyncClientOptions(
            auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        client = await acreate_client(stack.api_url, stack.anon_key, options=options)
        answer = await client.auth.sign_up(
            {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
        )
        assert answer.session and answer.user
        token = answer.session.access_token
        async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=token) as pq:
            yield Person(UUID(answer.user.id), token, client, pq)
        await client.realtime.close()


@pytest.fixture
async def ada(stack: Any) -> AsyncIterator[Person]:
    async for person in _sign_up(stack):
        yield person


@pytest.fixture
async def bob(stack: Any) -> AsyncIterator[Person]:
    async for person in _sign_up(stack):
        yield person


class Faults:
    """The gateway's switches, put right again after the test."""

    def __init__(self, stack: Any) -> None:
        self._stack = stack

    async def __call__(self, **switches: Any) -> None:
        await self._ask("POST", switches)

    async def clear(self) -> None:
        await self._ask("DELETE")

    async def _ask(self, method: str, body: dict[str, Any] | None = None) -> None:
        headers = {"apikey": self._stack.service_role_key}
        async with httpx.AsyncClient(timeout=10) as http:
            url = f"{self._stack.api_url}/_faults"
            (await http.request(method, url, json=body, headers=headers)).raise_for_status()


@pytest.fixture
async def faults(stack: Any) -> AsyncIterator[Faults]:
    switches = Faults(stack)
    yield switches
    await switches.clear()
