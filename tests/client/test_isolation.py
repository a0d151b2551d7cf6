"""What a second user and a stranger can do with somebody's things: nothing. Tested by trying."""

import asyncio
import itertools
from uuid import UUID, uuid4

import httpx
import pytest
from realtime import RealtimeSubscribeStates
from storage3.exceptions import StorageApiError
from supabase import AsyncClient, AsyncClientOptions, PostgrestAPIError, acreate_client

from picture_queue import errors
from tests.sql.test_contract import FUNCTIONS

PRIVATE = {"config": {"broadcast": {"ack": False, "self": False}, "presence": {"key": "", "enabled": False}, "private": True}}  # fmt: skip  # noqa: E501


@pytest.fixture
async def anon(stack):
    async with httpx.AsyncClient(timeout=30) as http:
        options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False)
        client = await acreate_client(stack.api_url, stack.anon_key, options=options)
        yield client
        await client.realtime.close()


@pytest.fixture
async def adas(ada, service):
    """A generation of Ada's with an image row and its file."""
    started = await ada.pq.generations.start("a secret cat")
    path = f"{ada.id}/{started.id}/1.png"
    storage = (await service._project.client()).storage.from_("pictures")
    await storage.upload(path, b"\x89PNG", {"content-type": "image/png"})
    return started, path


async def readable(client: AsyncClient, table: str) -> list:
    return (await client.table(table).select("*").execute()).data


async def test_the_owner_reads_what_is_theirs(ada, adas):
    started, path = adas
    assert [row["id"] for row in await readable(ada.supabase, "generations")] == [str(started.id)]
    assert [row["id"] for row in await readable(ada.supabase, "job_queue")] == [str(started.job_id)]
    assert await ada.supabase.storage.from_("pictures").download(path) == b"\x89PNG"


async def test_another_user_sees_no_row(adas, bob):
    for table in ("job_queue", "generations", "images"):
        assert await readable(bob.supabase, table) == []
    assert await bob.pq.jobs.list() == []
    assert await bob.pq.generations.list() == []


async def test_a_foreign_id_and_a_missing_one_are_answered_alike(adas, bob):
    started, _ = adas
    pq = bob.pq
    for foreign, missing, calls in (
        (started.job_id, uuid4(), (pq.jobs.get, pq.jobs.cancel)),
        (started.id, uuid4(), (pq.generations.get, pq.generations.cancel)),
    ):
        for call in calls:
            answers = []
            for asked in (foreign, missing):
                with pytest.raises(errors.NotFound) as refused:
                    await call(asked)
                answers.append(str(refused.value).replace(str(asked), "<id>"))
            assert answers[0] == answers[1]


@pytest.mark.parametrize("table", ["job_queue", "generations", "images"])
async def test_nobody_writes_a_table(ada, bob, anon, service, adas, table):
    started, _ = adas
    service_client = await service._project.client()
    for client in (ada.supabase, bob.supabase, anon, service_client):
        for write in (
            client.table(table).update({"status": "completed"}).eq("id", str(started.id)),
            client.table(table).delete().eq("id", str(started.id)),
            client.table(table).insert({"user_id": str(ada.id)}),
        ):
            with pytest.raises(PostgrestAPIError) as refused:
                await write.execute()
            assert refused.value.code in ("42501", "PGRST204")


async def test_anon_reads_and_calls_nothing(anon):
    for table in ("job_queue", "generations", "images", "queue_health"):
        with pytest.raises(PostgrestAPIError) as refused:
            await readable(anon, table)
        assert refused.value.code == "42501"
    for name, (params, _) in FUNCTIONS.items():
        with pytest.raises(PostgrestAPIError) as refused:
            await anon.rpc(name, arguments(params)).execute()
        assert refused.value.code == "42501", name


async def test_a_user_calls_no_function_of_the_service(ada):
    for name, (params, who) in FUNCTIONS.items():
        if who == "service":
            with pytest.raises(PostgrestAPIError) as refused:
                await ada.supabase.rpc(name, arguments(params)).execute()
            assert refused.value.code == "42501", name


async def test_nothing_private_is_reachable_through_the_api(ada, service):
    for client in (ada.supabase, await service._project.client()):
        for call in (
            client.schema("picture_queue").table("setting").select("*"),
            client.schema("picture_queue").rpc("start_generation", {}),
            client.rpc("_enqueue", {"p_jobs": []}),
        ):
            with pytest.raises(PostgrestAPIError) as refused:
                await call.execute()
            assert refused.value.code in ("PGRST106", "PGRST202")


async def test_storage_gives_nothing_to_another_and_takes_nothing(ada, bob, anon, adas):
    _, path = adas
    for client in (bob.supabase, anon):
        bucket = client.storage.from_("pictures")
        with pytest.raises(StorageApiError):
            await bucket.download(path)
        with pytest.raises(StorageApiError):
            await bucket.create_signed_url(path, 60)
        with pytest.raises(StorageApiError):
            await bucket.upload(f"{ada.id}/x.png", b"x", {"content-type": "image/png"})
        with pytest.raises(StorageApiError):
            await bucket.upload(path, b"x", {"content-type": "image/png", "upsert": "true"})
        assert await bucket.list(f"{ada.id}") == []
        assert await bucket.remove([path]) == []
    with pytest.raises(StorageApiError):  # not even the owner writes: pictures come from workers
        await ada.supabase.storage.from_("pictures").upload(
            f"{ada.id}/own.png", b"x", {"content-type": "image/png"}
        )
    async with httpx.AsyncClient() as http:
        public = await ada.supabase.storage.from_("pictures").get_public_url(path)
        assert (await http.get(public)).status_code == 400


async def subscribed(client: AsyncClient, topic: str) -> RealtimeSubscribeStates:
    answer: asyncio.Future = asyncio.get_running_loop().create_future()
    channel = client.channel(topic, PRIVATE)

    def on_state(state, error):
        if not answer.done():
            answer.set_result(state)

    await channel.subscribe(on_state)
    state = await asyncio.wait_for(answer, 15)
    await client.remove_channel(channel)
    return state


async def test_realtime_lets_only_the_owner_in(ada, bob, anon, adas):
    started, _ = adas
    topics = (f"pq:user:{ada.id}", f"pq:job:{started.job_id}", "pq:queue:default")
    for person in (ada, bob):
        await person.supabase.realtime.set_auth(person.token)
    assert await subscribed(ada.supabase, topics[0]) is RealtimeSubscribeStates.SUBSCRIBED
    refused = [*itertools.product((bob.supabase, anon), topics), (ada.supabase, topics[2])]
    for client, topic in refused:
        state = await subscribed(client, topic)
        assert state is RealtimeSubscribeStates.CHANNEL_ERROR, topic


async def test_a_public_channel_of_the_same_name_hears_nothing(ada, bob):
    topic = f"pq:user:{ada.id}"
    heard: list = []
    channel = bob.supabase.channel(topic)
    channel.on_broadcast("*", heard.append)
    await channel.subscribe()
    started = await ada.pq.generations.start("a cat")
    watch = ada.pq.generations.watch(started.id, timeout=10)
    await ada.pq.generations.cancel(started.id)
    assert [event async for event in watch][-1].finished
    # Bob's own public message comes after all that was sent before it.
    echo = asyncio.Event()
    echoing = bob.supabase.channel(
        "echo",
        {
            "config": {
                **PRIVATE["config"],
                "private": False,
                "broadcast": {"self": True, "ack": False},
            }
        },
    )
    echoing.on_broadcast("ping", lambda _: echo.set())
    await echoing.subscribe()
    await echoing.send_broadcast("ping", {})
    await asyncio.wait_for(echo.wait(), 10)
    assert heard == []


def arguments(params: str) -> dict:
    """A value for every required parameter, of a type PostgREST can convert."""
    values = {
        "max_jobs": 1, "progress": 1, "queues": ["a"], "job_types": {}, "jobs": [], "leases": [],
        "outcomes": [], "images": [], "state": "failed", "prompt": "x", "worker": "w",
        "job_type": "a", "prediction_id": "p",
    }  # fmt: skip
    names = [name for name in params.split(", ") if name and not name.endswith("=")]
    return {name: values.get(name, str(UUID(int=1))) for name in names}
