"""Queues: set policies, pause, drain and purge while workers run."""

from datetime import UTC, datetime, timedelta

from picture_queue import PictureQueue
from picture_queue.errors import QueueDraining

QUEUE = "howto-queues"

with PictureQueue.from_env() as pq:
    # Five failures of one kind in a row pause the queue for a minute (60 seconds).
    pq.queues.set(QUEUE, max_attempts=3, breaker_failures=5, breaker_seconds=60)
    pq.jobs.enqueue("resize", {"path": "a.png"}, queue=QUEUE)

    in_ten_minutes = datetime.now(UTC) + timedelta(minutes=10)
    queue = pq.queues.pause(QUEUE, resume_at=in_ten_minutes, reason="the disk is full")
    assert queue.paused
    pq.queues.resume(QUEUE)

    pq.queues.drain(QUEUE)  # accepts no new jobs, runs the existing ones
    try:
        pq.jobs.enqueue("resize", {"path": "b.png"}, queue=QUEUE)
    except QueueDraining as error:
        print(error)

    assert pq.queues.purge(QUEUE, preview=True).matched == 1  # only counts
    assert pq.queues.purge(QUEUE).changed == 1
    pq.queues.resume(QUEUE)  # ends the drain
