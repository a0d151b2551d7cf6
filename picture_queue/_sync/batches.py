# Written by scripts/unasync.py from picture_queue/_async/batches.py: edit that file.

"""Batches of jobs."""

from collections.abc import Iterable, Mapping
from uuid import UUID

from pydantic import JsonValue

from picture_queue._rpc import batches as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.options import NewJob
from picture_queue.records import Batch, EnqueuedBatch


class Batches:
    """The batches of a project. Every method needs a service key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def enqueue(
        self,
        jobs: Iterable[NewJob],
        *,
        callback: NewJob | None = None,
        batch_id: UUID | str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> EnqueuedBatch:
        """Enqueue jobs as a batch: all of them or none.

        Args:
            jobs: The jobs, each with its type, payload and options.
            callback: A job that is enqueued when all jobs have finished, successfully or not; its
                payload gets ``batch_id``, ``total``, ``completed``, ``failed`` and ``cancelled``.
            batch_id: An id that you generate. A repeated call with it returns the existing batch.
            metadata: A JSON object for your own use.

        Returns:
            The batch and its jobs.

        Raises:
            PictureQueueError: For the same reasons as in `Jobs.enqueue_many`.
        """
        rpc = _rpc.enqueue_batch(jobs, callback, batch_id, metadata)
        return self._backend.call(rpc)

    def get(self, batch_id: UUID | str) -> Batch:
        """Return a batch with its progress.

        Raises:
            BatchNotFound: No such batch.
        """
        return self._backend.call(_rpc.get_batch(batch_id))
