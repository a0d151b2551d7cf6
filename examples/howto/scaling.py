"""Counts: depth, age, throughput and position in the queue, without scanning jobs."""

from picture_queue import NewJob, PictureQueue

QUEUE = "howto-scaling"

with PictureQueue.from_env() as pq:
    jobs = pq.jobs.enqueue_many(NewJob(job_type="resize", queue=QUEUE) for _ in range(45))

    (counts,) = [row for row in pq.queues.counts() if row.queue == QUEUE]
    print(counts.pending, "jobs are pending, the oldest for", counts.oldest_seconds, "seconds")
    assert counts.pending == 45

    assert pq.jobs.position(jobs[-1].id).position == 45

    # With ten jobs for each worker, 45 jobs need five workers.
    workers = pq.queues.desired_workers(QUEUE, jobs_per_worker=10, max_workers=20)
    assert workers.desired == 5

    pq.queues.purge(QUEUE)
