"""Counts: depth, age, throughput and position in the queue, without scanning jobs."""

from picture_queue import NewJob, PictureQueue

QUEUE = "howto-scaling"

with PictureQueue.from_env() as pq:
    jobs = pq.jobs.enqueue_many(NewJob(job_type="resize", queue=QUEUE) for _ in range(45))

    (counts,) = [row for row in pq.queues.counts() if row.queue == QUEUE]
    print(counts.pending, "wait, the oldest for", counts.oldest_seconds, "seconds")
    assert counts.pending == 45

    assert pq.jobs.position(jobs[-1].id).position == 45

    # Ten jobs for each worker: five workers. Running jobs are included.
    wanted = pq.queues.desired_workers(QUEUE, jobs_per_worker=10, max_workers=20)
    assert wanted.desired == 5

    pq.queues.purge(QUEUE)
