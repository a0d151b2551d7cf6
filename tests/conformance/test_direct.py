"""Faults of direct connections: no server, a wrong password, a session that is ended."""

import asyncio
import time
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from tenacity import stop_after_attempt

from picture_queue import AsyncPictureQueue, PictureQueue, Worker, WorkerSettings, _rpc, errors
from picture_queue._realtime import notifications
from picture_queue._realtime.notifications import Notifications
from picture_queue._rpc import Rpc
from picture_queue._transport.base import RETRY_POLICY
from picture_queue._transport.connection import AsyncRawConnection
from picture_queue.errors import SettingsError
from picture_queue.settings import DatabaseSettings

from ..signals import watch


@pytest.fixture
async def direct(stack):
    async with AsyncPictureQueue(database_url=stack.db_url) as pq:
        yield pq


@pytest.fixture
async def sql(stack):
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    yield connection
    await connection.close(timeout=5)


def changed(url, **parts):
    """The address with another password, or port."""
    found = urlsplit(url)
    user = f"{found.username}:{parts.get('password', found.password)}"
    host = f"{user}@{found.hostname}:{parts.get('port', found.port)}"
    return urlunsplit(found._replace(netloc=host))


async def refusal(url, error):
    async with AsyncPictureQueue(database_url=url) as pq:
        with pytest.raises(error) as refused:
            await pq.health()
    return str(refused.value)


async def test_a_wrong_password_is_named_and_never_shown(stack):
    url = changed(stack.db_url, password="not-the-password")
    text = await refusal(url, errors.AuthenticationFailed)
    assert "PICTURE_QUEUE_DATABASE_URL" in text
    assert "not-the-password" not in text
    assert "not-the-password" not in repr(DatabaseSettings(url))


async def test_a_server_that_is_not_there_is_named(stack, monkeypatch):
    monkeypatch.setitem(RETRY_POLICY, "stop", stop_after_attempt(1))
    text = await refusal(changed(stack.db_url, port=9), errors.ConnectionFailed)
    assert "127.0.0.1:9" in text
    assert "\n" not in text


def test_sync_callers_are_told_the_same(stack):
    with (
        PictureQueue(database_url=changed(stack.db_url, password="no")) as pq,
        pytest.raises(errors.AuthenticationFailed),
    ):
        pq.health()


async def test_a_users_token_does_not_go_with_a_database(stack):
    with pytest.raises(SettingsError, match="token"):
        AsyncPictureQueue(stack.api_url, "key", access_token="jwt", database_url=stack.db_url)


async def test_pictures_need_the_api(direct):
    with pytest.raises(SettingsError, match="SUPABASE_URL"):
        direct._project._api()


async def test_the_environment_chooses_the_way(stack, monkeypatch):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    monkeypatch.setenv("PICTURE_QUEUE_DATABASE_URL", stack.db_url)
    async with AsyncPictureQueue.from_env() as pq:
        assert pq._project.database is not None
        assert pq._project.api is None
        assert await pq.health()


async def test_an_ended_session_is_replaced_and_the_call_made_again(direct, sql, queue):
    enqueued = await direct.jobs.enqueue("x", queue=queue)
    await sql.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'picture_queue'"
    )
    assert (await direct.jobs.get(enqueued.id)).id == enqueued.id
    assert len(await direct.jobs.list(queue=queue)) == 1


async def test_a_session_ended_in_the_middle_of_a_call_is_no_loss(direct, sql, queue):
    await direct.health()
    blocker = sql.transaction()
    await blocker.start()
    await sql.execute("lock table public.job_queue in access exclusive mode")
    calling = asyncio.create_task(direct.jobs.enqueue("x", queue=queue))
    async with asyncio.timeout(10):
        while not await sql.fetchval(  # noqa: ASYNC110 - the server tells nobody
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where application_name = 'picture_queue' and wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)
    await blocker.rollback()
    enqueued = await calling
    assert [job.id for job in await direct.jobs.list(queue=queue)] == [enqueued.id]


async def test_an_answer_that_does_not_come_is_not_waited_for(direct, sql):
    await direct.health()
    async with sql.transaction():
        await sql.execute("lock table picture_queue.setting in access exclusive mode")
        began = time.monotonic()
        with pytest.raises(errors.ConnectionFailed, match=r"0\.3 s"):
            await direct._project.call(_rpc.get_settings(), timeout=0.3)
        assert time.monotonic() - began < 25
    assert await direct.settings.get()


async def test_each_question_on_a_connection_has_its_own_bound(direct):
    await direct.health()
    connection = direct._project.database._pool._idle.pop()
    began = time.monotonic()
    await connection.execute(b"select 1", [], 0.3)
    await connection.execute(b"select pg_sleep(0.2)", [], 60)
    await connection.execute(b"select pg_sleep(0.4)", [], 60)  # past the first bound
    await connection.execute(b"select 1", [], 60)
    with pytest.raises(TimeoutError):  # and one that is nearer than that of the one before holds
        await connection.execute(b"select pg_sleep(60)", [], 0.2)
    assert time.monotonic() - began < 25
    assert not connection.is_idle
    connection.close()


def test_nor_by_sync_callers(stack):
    with PictureQueue(database_url=stack.db_url) as pq:
        pq.health()
        (connection,) = pq._project.database._pool._idle
        with pytest.raises(TimeoutError):
            connection.execute(b"select pg_sleep(10)", [], 0.2)
        assert not connection.is_idle


async def test_large_calls_and_answers_pass(direct, queue):
    jobs = [{"job_type": "x", "queue": queue, "payload": {"text": "ü" * 5000}} for _ in range(400)]
    made = await direct.jobs.enqueue_many(jobs)
    found = await direct.jobs.list(queue=queue, limit=400)
    assert {job.id for job in found} == {one.id for one in made}
    assert found[0].payload == {"text": "ü" * 5000}


async def test_calls_at_once_share_a_few_connections(direct, sql):
    await asyncio.gather(*(direct.health() for _ in range(50)))
    assert 1 <= len(direct._project.database._pool._idle) <= DatabaseSettings("").connections


async def test_no_statement_is_left_prepared(direct):
    await direct.health()
    (connection,) = direct._project.database._pool._idle
    result = await connection.execute(b"select count(*) from pg_prepared_statements", [], 10)
    assert result.get_value(0, 0) == b"0"


async def test_a_call_that_is_cancelled_leaves_nothing_half_read(direct, sql, queue):
    await direct.health()
    async with sql.transaction():
        await sql.execute("lock table public.job_queue in access exclusive mode")
        calling = asyncio.create_task(direct.jobs.list(queue=queue))
        await asyncio.sleep(0.1)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert await direct.jobs.list(queue=queue) == []


async def test_a_function_that_is_not_there_is_named(direct):
    for function in ("enqueue_job", f"missing_{uuid4().hex}"):
        with pytest.raises(errors.DatabaseTooOld, match=function):
            await direct._project.call(Rpc(function, {"nobody": 1}, lambda data: data))


# Wake-ups


class Ear:
    def __init__(self):
        self.heard = asyncio.Queue()

    def joined(self):
        self.heard.put_nowait("joined")

    def lost(self):
        self.heard.put_nowait("lost")

    def message(self, event, payload):
        self.heard.put_nowait((event, payload["reason"]))

    async def next(self):
        return await asyncio.wait_for(self.heard.get(), 15)


async def test_a_wake_up_is_heard_once_listening_is_proven(stack, sql, queue):
    ears, ear = Notifications(DatabaseSettings(stack.db_url)), Ear()
    with ears.listen(f"pq:queue:{queue}", ear):
        assert await ear.next() == "joined"
        await sql.execute("select picture_queue._wake(array[$1], 'again')", queue)
        assert await ear.next() == ("wake", "again")
    await ears.aclose()


async def test_a_notice_that_is_none_of_ours_is_passed_over(stack, sql, queue):
    ears, ear = Notifications(DatabaseSettings(stack.db_url)), Ear()
    with ears.listen(f"pq:queue:{queue}", ear):
        assert await ear.next() == "joined"
        for notice in ("", "no JSON", "[]", '{"reason": "enqueue"}', '{"queue": 7}'):
            await sql.execute("select pg_notify('picture_queue', $1)", notice)
        await sql.execute("select picture_queue._wake(array[$1], 'again')", queue)
        assert await ear.next() == ("wake", "again")
    await ears.aclose()


async def test_a_listener_that_lost_its_session_says_so_and_comes_back(stack, sql, queue):
    ears, ear = Notifications(DatabaseSettings(stack.db_url)), Ear()
    with ears.listen(f"pq:queue:{queue}", ear):
        assert await ear.next() == "joined"
        await sql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen %'"
        )
        assert await ear.next() == "lost"
        assert await ear.next() == "joined"
    await ears.aclose()


async def test_what_nobody_has_heard_is_not_trusted(stack, queue, monkeypatch):
    monkeypatch.setattr(notifications, "_TEST_TIMEOUT", 0.3)
    said = asyncio.Queue()
    monkeypatch.setattr(notifications._log, "info", said.put_nowait)
    monkeypatch.setattr(Notifications, "_dispatch", lambda self, notice, received: None)
    ears, ear = Notifications(DatabaseSettings(stack.db_url)), Ear()
    with ears.listen(f"pq:queue:{queue}", ear):
        assert "Notifications do not arrive" in await asyncio.wait_for(said.get(), 15)
    assert ear.heard.empty()
    await ears.aclose()


async def test_an_idle_worker_starts_a_job_without_polling(direct, queue):
    worker = Worker(direct, WorkerSettings(queues=(queue,), poll_interval=3600))
    watch(worker)
    started = asyncio.Event()

    @worker.handler("x")
    async def handle():
        started.set()

    async with worker:
        await worker._signals.listening.next()
        await worker._signals.idle.next()
        await direct.jobs.enqueue("x", queue=queue)
        await asyncio.wait_for(started.wait(), 15)


async def test_what_is_too_large_for_a_socket_is_written_in_pieces(direct):
    await direct.health()
    (connection,) = direct._project.database._pool._idle
    assert isinstance(connection, AsyncRawConnection)
    value = b"x" * 30_000_000
    result = await connection.execute(b"select length($1)", [value], 30)
    assert result.get_value(0, 0) == b"30000000"
