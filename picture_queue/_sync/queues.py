# Written by scripts/unasync.py from picture_queue/_async/queues.py: edit that file.

"""Queues."""

import builtins
from datetime import datetime
from typing import Unpack

from picture_queue._rpc import queues as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.options import QueueChanges
from picture_queue.records import Changed, DesiredWorkers, Queue, QueueCounts


class Queues:
    """The queues of a project. Every method needs a service key."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Queue]:
        """Return the queues with their policies and the counts of their jobs.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The name of the last queue of the previous page.
        """
        return self._backend.call(_rpc.list_queues(limit, after))

    def set(self, queue: str, **changes: Unpack[QueueChanges]) -> Queue:
        """Change the policy of a queue; create the queue if it does not exist.

        Args:
            queue: The name of the queue: letters, digits and ``_ . -``.
            **changes: The fields to change; see `QueueChanges`.

        Returns:
            The queue as it is now.

        Raises:
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        return self._backend.call(_rpc.set_queue(queue, changes))

    def pause(
        self, queue: str, *, resume_at: datetime | None = None, reason: str | None = None
    ) -> Queue:
        """Pause a queue; its running jobs continue.

        Args:
            queue: The name of the queue.
            resume_at: The time at which the pause ends; None: only `resume` ends it.
            reason: A text for operators, shown with the queue.

        Returns:
            The queue as it is now.

        Raises:
            QueueNotFound: No such queue.
            InvalidArgument: ``resume_at`` is in the past.
        """
        return self._backend.call(_rpc.pause_queue(queue, resume_at, reason))

    def resume(self, queue: str) -> Queue:
        """Resume a paused or draining queue.

        Returns:
            The queue as it is now.

        Raises:
            QueueNotFound: No such queue.
        """
        return self._backend.call(_rpc.resume_queue(queue))

    def drain(self, queue: str) -> Queue:
        """Drain a queue: refuse new jobs, and run the existing jobs.

        Returns:
            The queue as it is now.

        Raises:
            QueueNotFound: No such queue.
        """
        return self._backend.call(_rpc.drain_queue(queue))

    def purge(self, queue: str, *, preview: bool = False) -> Changed:
        """Cancel the pending jobs of a queue, up to 10,000 in a call.

        Args:
            queue: The name of the queue.
            preview: Whether to count the jobs without changing them.

        Returns:
            The number of jobs that matched, and the number that were cancelled.

        Raises:
            QueueNotFound: No such queue.
        """
        return self._backend.call(_rpc.purge_queue(queue, preview))

    def counts(
        self, *, limit: int = 10_000, after: str | None = None
    ) -> builtins.list[QueueCounts]:
        """Return the number of jobs of each queue in each state.

        The numbers come from stored counters; the call does not scan the jobs.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The name of the last queue of the previous page.
        """
        return self._backend.call(_rpc.queue_counts(limit, after))

    def desired_workers(
        self,
        queue: str | None = None,
        *,
        jobs_per_worker: int = 10,
        min_workers: int = 0,
        max_workers: int = 100,
    ) -> DesiredWorkers:
        """Return the recommended number of workers.

        Args:
            queue: The queue whose jobs count; None: all queues.
            jobs_per_worker: Number of jobs that one worker runs at once.
            min_workers: Lower bound of the result.
            max_workers: Upper bound of the result.

        Returns:
            The number of workers that the running and the ready jobs need.

        Raises:
            QueueNotFound: No such queue.
        """
        rpc = _rpc.desired_workers(queue, jobs_per_worker, min_workers, max_workers)
        return self._backend.call(rpc)
