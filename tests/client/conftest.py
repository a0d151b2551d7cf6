"""Two signed-up users."""

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
