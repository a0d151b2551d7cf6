"""A watch ends with the state of the job's row, even if events are lost, late or repeated."""

import asyncio
import contextlib
import time
from uuid import UUID, uuid4

import asyncpg
import jwt
import pytest
from realtime import AsyncRealtimeChannel

from picture_queue import AsyncPictureQueue, _rpc, errors
from picture_queue._realtime import follow
from picture_queue.records import JobStatus


@pytest.fixture
async def sql(stack):
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    yield connection
    await connection.close(timeout=10)


class WatchTask:
    """A task that watches a job and collects the events."""

    def __init__(self, pq, job_id, timeout=30):
        self.events = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._collect(pq.jobs.watch(job_id, timeout=timeout)))

    async def _collect(self, events):
        async for event in events:
            self.events.append(event)
            self._changed.set()

    async def wait_for_event(self, condition):
        async with asyncio.timeout(20):
            while not any(condition(event) for event in self.events):
                self._changed.clear()
                await self._changed.wait()

    async def finish(self):
        async with asyncio.timeout(20):
            await self._task
        versions = [event.version for event in self.events if event.explanation is None]
        assert versions == sorted(set(versions)), "the versions do not increase strictly"
        return self.events


async def claim(pq, queue):
    request = _rpc.Claim("test", (queue,), ("resize",), 1, 30.0, uuid4())
    return (await pq._backend.call(_rpc.claim_jobs(request)))[0]


async def finish(pq, job):
    item = {"job_id": str(job.id), "lease_id": str(job.lease_id), "outcome": "completed"}
    await pq._backend.call(_rpc.report_jobs([item]))


async def test_all_states_arrive_over_the_socket(service, queue, wait_until_joined):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await wait_until_joined(service, f"pq:job:{job_id}")
    job = await claim(service, queue)
    await service._backend.call(_rpc.report_progress(job.id, job.lease_id, 40, "downloading"))
    await watch.wait_for_event(lambda event: event.progress == 40)
    await finish(service, job)
    events = await watch.finish()
    assert [event.status for event in events] == [
        JobStatus.PENDING,
        JobStatus.PROCESSING,
        JobStatus.PROCESSING,
        JobStatus.COMPLETED,
    ]
    assert [event.source for event in events] == ["snapshot", "socket", "socket", "socket"]
    assert events[2].message == "downloading"


async def test_a_finished_job_is_reported_at_once(service, queue):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    await service.jobs.cancel(job_id)
    (event,) = await WatchTask(service, job_id).finish()
    assert (event.status, event.source) == (JobStatus.CANCELLED, "snapshot")


async def test_the_watch_of_a_user_uses_the_topic_of_the_user(ada, wait_until_joined):
    started = await ada.pq.generations.start("a cat")
    watch = WatchTask(ada.pq, started.job_id)
    await wait_until_joined(ada.pq, f"pq:user:{ada.id}")
    await ada.pq.generations.cancel(started.id)
    assert (await watch.finish())[-1].source == "socket"


async def test_two_watches_share_one_topic(ada, wait_until_joined):
    first, second = [await ada.pq.generations.start("a cat") for _ in range(2)]
    watches = [WatchTask(ada.pq, started.job_id) for started in (first, second)]
    await wait_until_joined(ada.pq, f"pq:user:{ada.id}")
    for started, watch in zip((first, second), watches, strict=True):
        await ada.pq.generations.cancel(started.id)
        events = await watch.finish()
        assert {event.job_id for event in events} == {started.job_id}


async def test_a_watch_without_a_socket_ends_by_polling(service, queue, faults):
    await faults(network_cut=True)
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await watch.wait_for_event(lambda event: True)
    await finish(service, await claim(service, queue))
    assert (await watch.finish())[-1].source == "poll"


async def test_lost_events_are_replaced_by_reading_the_row(
    service, queue, faults, monkeypatch, wait_until_joined
):
    monkeypatch.setattr(follow, "CONNECTED_POLL_INTERVAL", 0.3)
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await wait_until_joined(service, f"pq:job:{job_id}")
    await faults(drop_messages=100)
    await finish(service, await claim(service, queue))
    assert (await watch.finish())[-1].status is JobStatus.COMPLETED


async def test_a_change_before_the_join_is_found_by_reading_the_row(service, queue, monkeypatch):
    monkeypatch.setattr(follow, "POLL_INTERVAL", 60.0)
    join_started, may_join = asyncio.Event(), asyncio.Event()
    subscribe = AsyncRealtimeChannel.subscribe

    async def wait_and_subscribe(channel, callback):
        join_started.set()
        await may_join.wait()
        return await subscribe(channel, callback)

    monkeypatch.setattr(AsyncRealtimeChannel, "subscribe", wait_and_subscribe)
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await asyncio.wait_for(join_started.wait(), 15)
    await service.jobs.cancel(job_id)
    may_join.set()
    last = (await watch.finish())[-1]
    assert (last.status, last.source) == (JobStatus.CANCELLED, "snapshot")


async def test_late_and_repeated_events_are_ignored(service, queue, faults, wait_until_joined):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await wait_until_joined(service, f"pq:job:{job_id}")
    await faults(delay_messages=1, delay_seconds=0.2, duplicate_messages=5)
    await finish(service, await claim(service, queue))
    assert (await watch.finish())[-1].status is JobStatus.COMPLETED


async def test_a_cut_socket_is_reconnected_and_the_row_is_read(
    service, queue, faults, wait_until_joined
):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    topic = f"pq:job:{job_id}"
    watch = WatchTask(service, job_id)
    probe = await wait_until_joined(service, topic)
    await faults(network_cut=True)
    await probe.until_lost()
    job = await claim(service, queue)
    await watch.wait_for_event(lambda event: event.status is JobStatus.PROCESSING)
    assert watch.events[-1].source == "poll"
    await faults(network_cut=False)
    await probe.until_joined()
    await finish(service, job)
    assert (await watch.finish())[-1].source == "socket"


async def test_a_channel_closed_by_the_server_is_joined_again(
    service, queue, faults, wait_until_joined
):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    topic = f"pq:job:{job_id}"
    watch = WatchTask(service, job_id)
    probe = await wait_until_joined(service, topic)
    await faults(close_channels=topic)
    await probe.until_lost()
    await probe.until_joined()
    await service.jobs.cancel(job_id)
    assert (await watch.finish())[-1].source == "socket"


async def test_a_watch_continues_with_a_refreshed_token(stack, ada, service, wait_until_joined):
    """The server closes the channel when the token expires; the watch joins with the new token."""
    claims = jwt.decode(ada.token, options={"verify_signature": False})
    expires_soon = jwt.encode({**claims, "exp": int(time.time()) + 2}, stack.jwt_secret, "HS256")
    started = await service.generations.start("a cat", user_id=ada.id)
    async with AsyncPictureQueue(stack.api_url, stack.anon_key, access_token=expires_soon) as pq:
        topic = f"pq:user:{ada.id}"
        watch = WatchTask(pq, started.job_id)
        probe = await wait_until_joined(pq, topic)
        client = await pq._backend._api().client()
        client.options.headers["Authorization"] = f"Bearer {ada.token}"
        client._postgrest = None  # supabase-py makes both changes when it refreshes the session.
        await probe.until_lost()
        await probe.until_joined()
        await service.generations.cancel(started.id)
        assert (await watch.finish())[-1].source == "socket"


async def test_a_temporary_outage_of_the_project_does_not_end_the_watch(service, queue, faults):
    await faults(network_cut=True)
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await watch.wait_for_event(lambda event: True)
    await faults(answer_503=4, path="/rest/v1/rpc/get_job")
    await service.jobs.cancel(job_id)
    assert (await watch.finish())[-1].status is JobStatus.CANCELLED


async def test_an_unknown_event_leads_to_reading_the_row(service, queue, sql, wait_until_joined):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = WatchTask(service, job_id)
    await wait_until_joined(service, f"pq:job:{job_id}")
    job = await claim(service, queue)
    await watch.wait_for_event(lambda event: event.status is JobStatus.PROCESSING)
    await sql.execute(
        "update job_queue set version = version + 1, message = 'x' where id = $1", job.id
    )
    # A later version of the schema may send events with other fields.
    payload = f'{{"job_id": "{job.id}", "unknown_field": 1}}'
    await sql.execute(
        "select realtime.send($1::text::jsonb, 'job', $2, true)", payload, f"pq:job:{job_id}"
    )
    await watch.wait_for_event(lambda event: event.message == "x")
    assert watch.events[-1].source == "snapshot"
    await finish(service, job)
    await watch.finish()


async def test_a_watch_of_an_unknown_job_raises_not_found(service):
    with pytest.raises(errors.JobNotFound):
        await WatchTask(service, UUID(int=0)).finish()


async def test_ending_a_watch_leaves_its_topic(service, queue):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    events = service.jobs.watch(job_id)
    await anext(events)
    # The timeout cancels the watch while it waits for its second event.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(anext(events), 0.1)
    # The task of the socket ends, because no topic has a listener.
    await asyncio.wait_for(service._watcher.subscriptions._task, 15)


async def test_closing_the_client_ends_its_watches(stack, service, queue):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    pq = AsyncPictureQueue(stack.api_url, stack.service_role_key)
    watch = WatchTask(pq, job_id)
    await watch.wait_for_event(lambda event: True)
    await pq.aclose()
    with pytest.raises(errors.ConnectionFailed, match="The client was closed"):
        await watch.finish()
    assert (await anext(pq.jobs.watch(job_id, timeout=20))).status is JobStatus.PENDING
    await pq.aclose()
