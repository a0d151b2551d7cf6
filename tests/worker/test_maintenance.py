"""Maintenance by workers: the worker with the maintenance lease does it."""


async def test_a_delayed_job_is_promoted_before_the_next_poll(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("later")
    async def later() -> None: ...

    async with worker:
        await worker._signals.idle.next()
        job = await service.jobs.enqueue("later", queue=queue, delay=0.3)
        assert await worker._signals.reported.next() == (job.id, "ok")


async def test_another_worker_gets_the_maintenance_lease_when_its_holder_stops(
    service, queue, new_worker
):
    first, second = new_worker(), new_worker()
    async with first:
        while not (await first._signals.maintained.next()).leased:
            pass  # A worker of an earlier test may still hold the lease.
        async with second:
            assert not (await second._signals.maintained.next()).leased
            await first.stop()
            while not (await second._signals.maintained.next()).leased:
                pass


async def test_failed_maintenance_is_retried(service, queue, new_worker, faults):
    worker = new_worker()
    await faults(answer_503=6, path="/rest/v1/rpc/maintain_jobs")
    async with worker:
        await worker._signals.maintained.next(timeout=30)
