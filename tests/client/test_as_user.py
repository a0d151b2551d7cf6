"""Clients of users that share the connections of another client: `as_user`."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from supabase import AsyncClient, AsyncClientOptions

from picture_queue import AsyncPictureQueue, PictureQueue, errors
from picture_queue._rpc import Rpc
from tests.client.api import Answer, Api

CALL: Rpc[Any] = Rpc("f", {}, lambda data: data)
TOKEN = jwt.encode({"role": "authenticated", "sub": "u1"}, "s" * 32, "HS256")


@pytest.fixture
def api() -> Iterator[Api]:
    with Api().serving() as server:
        yield server


@pytest.fixture
async def tokens(stack: Any, db: Any) -> AsyncIterator[list[str]]:
    """The tokens of 50 users."""
    user_ids = [uuid4() for _ in range(50)]
    await db.executemany("insert into auth.users (id) values ($1)", [(id_,) for id_ in user_ids])
    claims = {"role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
    yield [jwt.encode({**claims, "sub": str(id_)}, stack.jwt_secret, "HS256") for id_ in user_ids]
    await db.execute("delete from auth.users where id = any ($1)", user_ids)


async def test_calls_have_the_privileges_of_the_user(service, ada, bob):
    as_ada, as_bob = service.as_user(ada.token), service.as_user(bob.token)
    started = await as_ada.generations.start("a cat")
    assert (await as_ada.generations.get(started.id)).user_id == ada.id
    assert [job.id for job in await as_ada.jobs.list()] == [started.job_id]
    for call in (as_bob.generations.get, as_bob.generations.cancel):
        with pytest.raises(errors.GenerationNotFound):
            await call(started.id)
    with pytest.raises(errors.NotAllowed):
        await as_ada.jobs.enqueue("resize")
    # The client that shares its connections keeps its own privileges.
    assert (await service.generations.get(started.id)).user_id == ada.id
    await as_ada.generations.cancel(started.id)


async def test_fifty_users_at_the_same_time_see_only_their_own_rows(service, tokens):
    async def use(token: str) -> None:
        user_id = jwt.decode(token, options={"verify_signature": False})["sub"]
        pq = service.as_user(token)
        ids = {(await pq.generations.start(f"for {user_id}")).id for _ in range(3)}
        rows = await pq.generations.list()
        assert {row.id for row in rows} == ids
        assert {(str(row.user_id), row.prompt) for row in rows} == {(user_id, f"for {user_id}")}
        await asyncio.gather(*map(pq.generations.cancel, ids))

    await asyncio.gather(*map(use, tokens))


def test_threads_with_different_users_see_only_their_own_rows(stack, tokens):
    with PictureQueue(stack.api_url, stack.service_role_key) as service:

        def use(token: str) -> None:
            user_id = jwt.decode(token, options={"verify_signature": False})["sub"]
            pq = service.as_user(token)
            started = pq.generations.start(f"for {user_id}")
            (row,) = pq.generations.list()
            assert (row.id, str(row.user_id)) == (started.id, user_id)
            pq.generations.cancel(started.id)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(use, tokens))


async def test_a_user_gets_their_events_over_realtime(service, ada, wait_until_joined):
    pq = service.as_user(ada.token)
    started = await pq.generations.start("a cat")
    events = pq.generations.watch(started.id)
    assert (await anext(events)).source == "snapshot"
    last = asyncio.create_task(anext(events))
    await wait_until_joined(pq, f"pq:user:{ada.id}")
    await pq.generations.cancel(started.id)
    assert ((await last).status, (await last).source) == ("cancelled", "socket")
    await pq.aclose()


async def test_a_user_cannot_watch_the_job_of_another_user(service, ada, bob):
    started = await service.as_user(ada.token).generations.start("a cat")
    with pytest.raises(errors.JobNotFound):
        await anext(service.as_user(bob.token).jobs.watch(started.job_id))
    await service.generations.cancel(started.id)


def test_a_sync_client_of_a_user_waits_for_a_job(stack, ada):
    with PictureQueue(stack.api_url, stack.service_role_key) as service:
        pq = service.as_user(ada.token)
        started = pq.generations.start("a cat")
        events = pq.generations.watch(started.id, timeout=20)
        assert next(events).status == "pending"
        pq.generations.cancel(started.id)
        assert [event.status for event in events][-1] == "cancelled"
        pq.close()
        assert service.generations.get(started.id).status == "cancelled"


async def test_closing_the_client_of_a_user_leaves_the_shared_connections_open(api):
    async with AsyncPictureQueue(api.url, "key") as service:
        for _ in range(3):
            async with service.as_user(TOKEN) as pq:
                await pq._backend.call(CALL)
        await service._backend.call(CALL)
    assert len(set(api.sockets)) == 1


@pytest.mark.parametrize(
    "token",
    [
        *("", " ", "Bearer a.b.c", "sb_secret_x", "a.b", "a.b.c.d", "a.b.c\n", "ä.b.c"),
        "a" * 20_000,
        None,
        7,
        b"a.b.c",
    ],
)
async def test_a_token_of_another_form_is_refused_without_showing_it(service, token):
    # Supabase uses the key of the request, here the service key, if the bearer is not a JWT.
    with pytest.raises(errors.NotAuthenticated) as raised:
        service.as_user(token)
    assert not token or str(token).strip() == "" or str(token) not in str(raised.value)


async def test_a_forged_token_is_refused_by_the_project(service):
    with pytest.raises(errors.NotAuthenticated):
        await service.as_user(TOKEN).generations.list()


async def test_as_user_is_refused_without_the_api(stack, monkeypatch):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    async with AsyncPictureQueue(database_url=stack.db_url) as pq:
        with pytest.raises(errors.SettingsError, match="Calls as a user need the project's API"):
            pq.as_user(TOKEN)


async def test_the_client_of_a_user_uses_the_api_if_the_other_uses_the_database(stack, ada):
    url, key = stack.api_url, stack.service_role_key
    async with AsyncPictureQueue(url, key, database_url=stack.db_url) as service:
        with pytest.raises(errors.NotAllowed):
            await service.as_user(ada.token).jobs.enqueue("resize")


async def test_a_request_has_one_token_also_with_a_client_of_the_caller(api):
    async with httpx.AsyncClient(timeout=10) as http:
        headers = {"authorization": "Bearer other.user.token"}
        options = AsyncClientOptions(headers=headers, httpx_client=http)
        service = AsyncPictureQueue(client=AsyncClient(api.url, "key", options))
        await service.as_user(TOKEN)._backend.call(CALL)
        assert api.authorizations == [f"Bearer {TOKEN}"]
        await service.aclose()


async def test_a_cookie_of_one_user_is_not_sent_for_another(api):
    api.answers = [Answer(headers={"set-cookie": "session=of-ada; Path=/"})]
    async with AsyncPictureQueue(api.url, "key") as service:
        await service.as_user(TOKEN)._backend.call(CALL)
        await service.as_user(TOKEN)._backend.call(CALL)
    assert "cookie" not in api.received[0]
