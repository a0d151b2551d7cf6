"""Enqueue many jobs in one call, and one job with priority, delay, expiry and tags."""

from picture_queue import NewJob, PictureQueue

with PictureQueue.from_env() as pq:
    # One round trip for up to 100,000 jobs: all are created, or none.
    thumbnails = [
        NewJob(job_type="thumbnail", payload={"path": f"{n}.png"}, queue="howto-enqueue")
        for n in range(1000)
    ]
    created = pq.jobs.enqueue_many(thumbnails)
    assert {job.outcome for job in created} == {"created"}

    job = pq.jobs.enqueue(
        "report",
        {"month": "2030-01"},
        queue="howto-enqueue",
        priority=5,  # before jobs of priority 0
        delay=3600,  # starts after an hour
        expires_in=7200,  # fails if it has not started after two hours
        max_attempts=5,
        timeout=120,
        tags=["monthly"],
        metadata={"asked_by": "ada"},
    )
    (found,) = pq.jobs.list(queue="howto-enqueue", tag="monthly", status="pending", limit=1)
    assert (found.id, found.hold, found.metadata) == (job.id, "scheduled", {"asked_by": "ada"})

    print(pq.queues.purge("howto-enqueue").changed, "jobs cancelled")
