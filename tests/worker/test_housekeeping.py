"""Workers keep the database in order."""

from picture_queue.worker import housekeeper


async def test_a_worker_asks_for_maintenance(service, queue, new_worker, db, monkeypatch):
    monkeypatch.setattr(housekeeper, "INTERVAL", 0.01)
    worker = new_worker()
    await db.execute("update picture_queue.setting set maintained_at = '-infinity'")
    async with worker:
        await worker._signals.maintained.next()
    assert await db.fetchval(
        "select maintained_at > now() - interval '1 minute' from picture_queue.setting"
    )


async def test_maintenance_that_fails_is_asked_for_again(
    service, queue, new_worker, faults, monkeypatch
):
    monkeypatch.setattr(housekeeper, "INTERVAL", 0.01)
    worker = new_worker()
    await faults(answer_503=6, path="/rest/v1/rpc/maintain_jobs")
    async with worker:
        await worker._signals.maintained.next(timeout=30)
