"""Waits for a job end at their timeout, even if the network hangs; invalid timeouts are refused."""

import asyncio
import math

import pytest

from picture_queue import AsyncPictureQueue, PictureQueue, errors
from picture_queue._realtime import follow
from picture_queue.records import JobStatus

#: In seconds. Without a timeout, a call over a hanging network would fail only after minutes.
TEST_TIMEOUT = 15
UNKNOWN_ID = "0190f4c1-0000-7000-8000-000000000000"


@pytest.fixture(params=["api", "database"])
async def hanging_network(request, stack, start_proxy):
    """A proxy that can stop forwarding, and the arguments of a client that connects through it."""
    if request.param == "api":
        proxy, url = await start_proxy(stack.api_url)
        return proxy, {"url": url, "key": stack.service_role_key}
    proxy, url = await start_proxy(stack.db_url)
    return proxy, {"database_url": url}


async def test_result_ends_in_time_if_the_network_hangs(
    hanging_network, service, queue, monkeypatch
):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    proxy, arguments = hanging_network
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    async with asyncio.timeout(TEST_TIMEOUT), AsyncPictureQueue(**arguments) as pq:
        assert (await pq.jobs.get(job_id)).status is JobStatus.PENDING
        waiting = asyncio.create_task(pq.jobs.result(job_id, timeout=1.5))
        await asyncio.sleep(0.5)
        proxy.stop_forwarding()
        with pytest.raises(errors.WaitTimeout, match=r"1\.5 s: The project does not answer"):
            await waiting


async def test_result_ends_in_time_if_the_server_never_responds(
    hanging_network, service, queue, monkeypatch
):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    proxy, arguments = hanging_network
    proxy.stop_forwarding()
    async with asyncio.timeout(TEST_TIMEOUT), AsyncPictureQueue(**arguments) as pq:
        with pytest.raises(errors.WaitTimeout, match="was not read within 1 s"):
            await pq.jobs.result(UNKNOWN_ID, timeout=1)
        with pytest.raises(errors.WaitTimeout, match="was not read within 1 s"):
            await anext(pq.generations.watch(UNKNOWN_ID, timeout=1))


async def test_sync_waits_end_in_time_if_the_network_hangs(
    hanging_network, service, queue, monkeypatch
):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    proxy, arguments = hanging_network
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    loop = asyncio.get_running_loop()

    def wait():
        with PictureQueue(**arguments) as pq:
            watch = pq.jobs.watch(job_id, timeout=1)
            assert next(watch).status is JobStatus.PENDING
            loop.call_soon_threadsafe(proxy.stop_forwarding)
            with pytest.raises(errors.WaitTimeout):
                next(watch)
            with pytest.raises(errors.WaitTimeout):
                pq.jobs.result(job_id, timeout=1)

    await asyncio.wait_for(asyncio.to_thread(wait), TEST_TIMEOUT)


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf, "5"])
async def test_an_invalid_timeout_is_refused_without_a_request(service, timeout):
    with pytest.raises(errors.InvalidArgument, match=r"`timeout` is .*Pass seconds"):
        service.jobs.watch(UNKNOWN_ID, timeout=timeout)
    with pytest.raises(errors.InvalidArgument, match="`timeout` is "):
        service.generations.watch(UNKNOWN_ID, timeout=timeout)
    with pytest.raises(errors.InvalidArgument, match="`timeout` is "):
        await service.jobs.result(UNKNOWN_ID, timeout=timeout)


def test_an_invalid_timeout_is_refused_by_the_sync_client(stack):
    with PictureQueue(stack.api_url, stack.service_role_key) as pq:
        with pytest.raises(errors.InvalidArgument, match="`timeout` is -1"):
            pq.jobs.watch(UNKNOWN_ID, timeout=-1)
        with pytest.raises(errors.InvalidArgument, match="`timeout` is nan"):
            pq.jobs.result(UNKNOWN_ID, timeout=math.nan)


async def test_a_timeout_of_zero_reads_the_row_once(service, queue):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = service.jobs.watch(job_id, timeout=0)
    assert (await anext(watch)).status is JobStatus.PENDING
    with pytest.raises(errors.WaitTimeout, match="within 0 s"):
        await anext(watch)
    await service.jobs.cancel(job_id)
    events = [event async for event in service.jobs.watch(job_id, timeout=0)]
    assert [event.status for event in events] == [JobStatus.CANCELLED]


async def test_an_infinite_timeout_is_accepted(service, queue):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    await service.jobs.cancel(job_id)
    with pytest.raises(errors.JobCancelled):
        await service.jobs.result(job_id, timeout=math.inf)
    with pytest.raises(errors.JobCancelled):
        await service.jobs.result(job_id, timeout=10**400)


async def test_a_watch_without_events_reads_the_row_again_at_its_deadline(
    service, queue, faults, monkeypatch
):
    monkeypatch.setattr(follow, "POLL_INTERVAL", 60.0)
    await faults(network_cut=True)
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = service.jobs.watch(job_id, timeout=1)
    assert (await anext(watch)).status is JobStatus.PENDING
    await service.jobs.cancel(job_id)
    assert (await anext(watch)).status is JobStatus.CANCELLED


async def test_deleting_a_job_ends_its_watch(service, queue, db, monkeypatch):
    monkeypatch.setattr(follow, "CONNECTED_POLL_INTERVAL", 0.2)
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watch = service.jobs.watch(job_id, timeout=TEST_TIMEOUT)
    await anext(watch)
    await db.execute("delete from public.job_queue where id = $1", job_id)
    with pytest.raises(errors.JobNotFound):
        await anext(watch)


async def test_two_watches_of_one_job_both_see_its_end(service, queue):
    job_id = (await service.jobs.enqueue("resize", queue=queue)).id
    watches = [service.jobs.watch(job_id, timeout=TEST_TIMEOUT) for _ in range(2)]
    for watch in watches:
        await anext(watch)
    await service.jobs.cancel(job_id)
    for watch in watches:
        assert [event.status async for event in watch][-1] is JobStatus.CANCELLED
