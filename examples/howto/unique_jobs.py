"""Unique jobs: ignore, replace or debounce a duplicate."""

from picture_queue import PictureQueue, Unique

QUEUE = "howto-unique"


def enqueue_index(pq: PictureQueue, page: int, text: str, unique: Unique) -> str:
    """Enqueue the indexing of a page and return the outcome."""
    payload = {"page": page, "text": text}
    job = pq.jobs.enqueue("index-page", payload, queue=QUEUE, delay=5, unique=unique)
    return job.outcome


with PictureQueue.from_env() as pq:
    by_page = ["page"]  # jobs for the same page are equal, whatever the text
    assert enqueue_index(pq, 1, "a", Unique(by=by_page)) == "created"
    assert enqueue_index(pq, 1, "b", Unique(by=by_page)) == "existing"
    assert enqueue_index(pq, 1, "c", Unique(by=by_page, on_conflict="replace")) == "replaced"
    # Each edit postpones the job: it runs once, five seconds after the last edit.
    assert enqueue_index(pq, 1, "d", Unique(by=by_page, on_conflict="debounce")) == "debounced"
    (job,) = pq.jobs.list(queue=QUEUE, status="pending")
    assert job.payload == {"page": 1, "text": "d"}
    pq.jobs.cancel(job.id)

    # An idempotency key makes a call repeatable: it returns the first job, finished or not.
    first = pq.jobs.enqueue("charge", {"order": 7}, queue=QUEUE, idempotency_key="order-7")
    again = pq.jobs.enqueue("charge", {"order": 7}, queue=QUEUE, idempotency_key="order-7")
    assert first.id == again.id

    # Clean up after the example.
    pq.jobs.cancel(first.id)
    pq.jobs.change("discard", queue=QUEUE)
