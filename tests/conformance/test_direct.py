"""Direct connections: errors, timeouts, the connection pool, and notifications."""

import asyncio
import time
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

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


def replace_parts(url, **parts):
    """Return the URL with another password or port."""
    old = urlsplit(url)
    user = f"{old.username}:{parts.get('password', old.password)}"
    host = f"{user}@{old.hostname}:{parts.get('port', old.port)}"
    return urlunsplit(old._replace(netloc=host))


async def connection_error_text(url, error):
    """Return the message of the error that a call over this URL raises."""
    async with AsyncPictureQueue(database_url=url) as pq:
        with pytest.raises(error) as raised:
            await pq.health()
    return str(raised.value)


async def test_a_wrong_password_raises_an_error_without_the_password(stack):
    url = replace_parts(stack.db_url, password="not-the-password")
    text = await connection_error_text(url, errors.AuthenticationFailed)
    assert "PICTURE_QUEUE_DATABASE_URL" in text
    assert "not-the-password" not in text
    assert "not-the-password" not in repr(DatabaseSettings(url))


async def test_the_error_names_an_unreachable_server(stack, monkeypatch):
    monkeypatch.setitem(RETRY_POLICY, "stop", stop_after_attempt(1))
    closed_port = replace_parts(stack.db_url, port=9)
    text = await connection_error_text(closed_port, errors.ConnectionFailed)
    assert "127.0.0.1:9" in text
    assert "\n" not in text


def test_a_wrong_password_raises_the_same_error_for_sync_callers(stack):
    with (
        PictureQueue(database_url=replace_parts(stack.db_url, password="no")) as pq,
        pytest.raises(errors.AuthenticationFailed),
    ):
        pq.health()


async def test_a_user_token_with_a_database_url_is_refused(stack):
    with pytest.raises(SettingsError, match="token"):
        AsyncPictureQueue(stack.api_url, "key", access_token="jwt", database_url=stack.db_url)


async def test_images_need_the_api(direct):
    with pytest.raises(SettingsError, match="SUPABASE_URL"):
        direct._backend._api()


async def test_the_environment_selects_the_transport(stack, monkeypatch):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    monkeypatch.setenv("PICTURE_QUEUE_DATABASE_URL", stack.db_url)
    async with AsyncPictureQueue.from_env() as pq:
        assert pq._backend.database is not None
        assert pq._backend.api is None
        assert await pq.health()


async def test_a_terminated_session_is_replaced_and_the_call_retried(direct, db, queue):
    enqueued = await direct.jobs.enqueue("x", queue=queue)
    await db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'picture_queue'"
    )
    assert (await direct.jobs.get(enqueued.id)).id == enqueued.id
    assert len(await direct.jobs.list(queue=queue)) == 1


async def test_a_session_terminated_during_a_call_loses_nothing(direct, db, queue):
    await direct.health()
    locking_transaction = db.transaction()
    await locking_transaction.start()
    await db.execute("lock table public.job_queue in access exclusive mode")
    call = asyncio.create_task(direct.jobs.enqueue("x", queue=queue))
    async with asyncio.timeout(10):
        while not await db.fetchval(  # noqa: ASYNC110 - the server sends no event
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where application_name = 'picture_queue' and wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.01)
    await locking_transaction.rollback()
    enqueued = await call
    assert [job.id for job in await direct.jobs.list(queue=queue)] == [enqueued.id]


async def test_a_call_without_an_answer_is_abandoned_at_the_timeout(direct, db):
    await direct.health()
    async with db.transaction():
        await db.execute("lock table picture_queue.setting in access exclusive mode")
        began = time.monotonic()
        with pytest.raises(errors.ConnectionFailed, match=r"0\.3 s"):
            await direct._backend.call(_rpc.get_settings(), timeout=0.3)
        assert time.monotonic() - began < 25  # Below the default timeout of a call.
    assert await direct.settings.get()


async def test_each_query_of_a_connection_has_its_own_timeout(direct):
    await direct.health()
    connection = direct._backend.database._pool._idle.pop()
    began = time.monotonic()
    await connection.execute(b"select 1", [], 0.3)
    await connection.execute(b"select pg_sleep(0.2)", [], 60)
    # The timeout of the first query, 0.3 s, no longer applies.
    await connection.execute(b"select pg_sleep(0.4)", [], 60)
    await connection.execute(b"select 1", [], 60)
    # A timeout that is shorter than the previous timeout applies too.
    with pytest.raises(TimeoutError):
        await connection.execute(b"select pg_sleep(60)", [], 0.2)
    assert time.monotonic() - began < 25
    assert not connection.is_idle
    connection.close()


def test_a_sync_query_without_an_answer_is_abandoned_at_the_timeout(stack):
    with PictureQueue(database_url=stack.db_url) as pq:
        pq.health()
        (connection,) = pq._backend.database._pool._idle
        with pytest.raises(TimeoutError):
            connection.execute(b"select pg_sleep(10)", [], 0.2)
        assert not connection.is_idle


async def test_large_requests_and_answers_are_transferred(direct, queue):
    jobs = [{"job_type": "x", "queue": queue, "payload": {"text": "ü" * 5000}} for _ in range(400)]
    enqueued = await direct.jobs.enqueue_many(jobs)
    listed = await direct.jobs.list(queue=queue, limit=400)
    assert {job.id for job in listed} == {job.id for job in enqueued}
    assert listed[0].payload == {"text": "ü" * 5000}


async def test_concurrent_calls_share_a_few_connections(direct, db):
    await asyncio.gather(*(direct.health() for _ in range(50)))
    assert 1 <= len(direct._backend.database._pool._idle) <= DatabaseSettings("").connections


async def test_a_call_leaves_no_prepared_statement(direct):
    await direct.health()
    (connection,) = direct._backend.database._pool._idle
    result = await connection.execute(b"select count(*) from pg_prepared_statements", [], 10)
    assert result.get_value(0, 0) == b"0"


async def test_a_cancelled_call_leaves_a_usable_pool(direct, db, queue):
    await direct.health()
    async with db.transaction():
        await db.execute("lock table public.job_queue in access exclusive mode")
        call = asyncio.create_task(direct.jobs.list(queue=queue))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await direct.jobs.list(queue=queue) == []


async def test_the_error_names_a_missing_function(direct):
    for function in ("enqueue_job", f"missing_{uuid4().hex}"):
        with pytest.raises(errors.DatabaseTooOld, match=function):
            await direct._backend.call(Rpc(function, {"unknown": 1}, lambda data: data))


# --- Wake-ups ---


class Listener:
    """A listener that records its calls."""

    def __init__(self):
        self.calls = asyncio.Queue()

    def joined(self):
        self.calls.put_nowait("joined")

    def lost(self):
        self.calls.put_nowait("lost")

    def message(self, event, payload):
        self.calls.put_nowait((event, payload["reason"]))

    async def next(self):
        return await asyncio.wait_for(self.calls.get(), 15)


async def test_a_wake_up_arrives_after_the_join(stack, db, queue):
    source, listener = Notifications(DatabaseSettings(stack.db_url)), Listener()
    with source.listen(f"pq:queue:{queue}", listener):
        assert await listener.next() == "joined"
        await db.execute("select picture_queue._wake_workers(array[$1], 'again')", queue)
        assert await listener.next() == ("wake", "again")
    await source.aclose()


async def test_notifications_that_are_not_wake_ups_are_ignored(stack, db, queue):
    source, listener = Notifications(DatabaseSettings(stack.db_url)), Listener()
    with source.listen(f"pq:queue:{queue}", listener):
        assert await listener.next() == "joined"
        for payload in ("", "no JSON", "[]", '{"reason": "enqueue"}', '{"queue": 7}'):
            await db.execute("select pg_notify('picture_queue', $1)", payload)
        await db.execute("select picture_queue._wake_workers(array[$1], 'again')", queue)
        assert await listener.next() == ("wake", "again")
    await source.aclose()


async def test_a_listener_reports_a_lost_session_and_joins_again(stack, db, queue):
    source, listener = Notifications(DatabaseSettings(stack.db_url)), Listener()
    with source.listen(f"pq:queue:{queue}", listener):
        assert await listener.next() == "joined"
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen %'"
        )
        assert await listener.next() == "lost"
        assert await listener.next() == "joined"
    await source.aclose()


async def test_listen_is_not_used_if_its_test_notification_does_not_arrive(
    stack, queue, monkeypatch
):
    monkeypatch.setattr(notifications, "_TEST_TIMEOUT", 0.3)
    log_messages = asyncio.Queue()
    monkeypatch.setattr(notifications._log, "info", log_messages.put_nowait)
    monkeypatch.setattr(Notifications, "_dispatch", lambda self, notice, received: None)
    source, listener = Notifications(DatabaseSettings(stack.db_url)), Listener()
    with source.listen(f"pq:queue:{queue}", listener):
        assert "Notifications do not arrive" in await asyncio.wait_for(log_messages.get(), 15)
    assert listener.calls.empty()
    await source.aclose()


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


async def test_a_value_larger_than_the_socket_buffer_is_written_in_parts(direct):
    await direct.health()
    (connection,) = direct._backend.database._pool._idle
    assert isinstance(connection, AsyncRawConnection)
    value = b"x" * 30_000_000
    result = await connection.execute(b"select length($1)", [value], 30)
    assert result.get_value(0, 0) == b"30000000"
