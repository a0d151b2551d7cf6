"""Jobs that should not be there twice: ignored, replaced, or put off until it is quiet."""

from picture_queue import PictureQueue, Unique

QUEUE = "howto-unique"


def index(pq: PictureQueue, page: int, text: str, unique: Unique) -> str:
    """Asks for a page to be indexed and returns what became of that."""
    payload = {"page": page, "text": text}
    job = pq.jobs.enqueue("index-page", payload, queue=QUEUE, delay=5, unique=unique)
    return job.outcome


with PictureQueue.from_env() as pq:
    by_page = ["page"]  # the same page is the same job, whatever the text
    assert index(pq, 1, "a", Unique(by=by_page)) == "created"
    assert index(pq, 1, "b", Unique(by=by_page)) == "existing"
    assert index(pq, 1, "c", Unique(by=by_page, on_conflict="replace")) == "replaced"
    # Each edit pushes the time on: the job runs once, five seconds after the last of them.
    assert index(pq, 1, "d", Unique(by=by_page, on_conflict="debounce")) == "debounced"
    (job,) = pq.jobs.list(queue=QUEUE, status="pending")
    assert job.payload == {"page": 1, "text": "d"}
    pq.jobs.cancel(job.id)

    # An idempotency key makes one call repeatable: the first job is found, finished or not.
    first = pq.jobs.enqueue("charge", {"order": 7}, queue=QUEUE, idempotency_key="order-7")
    again = pq.jobs.enqueue("charge", {"order": 7}, queue=QUEUE, idempotency_key="order-7")
    assert first.id == again.id

    # Clean up after the example.
    pq.jobs.cancel(first.id)
    pq.jobs.change("discard", queue=QUEUE)
