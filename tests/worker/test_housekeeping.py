"""Workers do the maintenance of the project, one of them at a time."""


async def test_a_delayed_job_starts_although_nobody_polls(service, queue, new_worker):
    worker = new_worker()

    @worker.handler("later")
    async def later() -> None: ...

    async with worker:
        await worker._signals.idle.next()
        job = await service.jobs.enqueue("later", queue=queue, delay=0.3)
        assert await worker._signals.reported.next() == (job.id, "ok")


async def test_another_worker_takes_over_when_the_holder_stops(service, queue, new_worker):
    one, two = new_worker(), new_worker()
    async with one:
        while not (await one._signals.maintained.next()).leased:
            pass  # a worker of another test held the lease
        async with two:
            assert not (await two._signals.maintained.next()).leased
            await one.stop()
            while not (await two._signals.maintained.next()).leased:
                pass


async def test_maintenance_that_fails_is_tried_again(service, queue, new_worker, faults):
    worker = new_worker()
    await faults(answer_503=6, path="/rest/v1/rpc/maintain_jobs")
    async with worker:
        await worker._signals.maintained.next(timeout=30)
