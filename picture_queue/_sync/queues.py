# Written by scripts/unasync.py from picture_queue/_async/queues.py: edit that file.

"""Queues, the limits of keys, and the weights of tenants. All of it needs a service key."""

import builtins
from datetime import datetime
from typing import Unpack

from picture_queue import _rpc_operate
from picture_queue._transport.backend_sync import Backend
from picture_queue.arguments import QueueChanges
from picture_queue.records import Changed
from picture_queue.records_operate import (
    DesiredWorkers,
    Limit,
    PausedKey,
    Queue,
    QueueCounts,
    Tenant,
)


class Queues:
    """The queues of a project."""

    def __init__(self, project: Backend) -> None:
        self._project = project

    def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Queue]:
        """Return the queues with their policies and how many jobs each has.

        Args:
            limit: At most so many, 10,000 at most.
            after: The name of the last queue of the page before.
        """
        return self._project.call(_rpc_operate.list_queues(limit, after))

    def set(self, queue: str, **changes: Unpack[QueueChanges]) -> Queue:
        """Change the policy of a queue, and make the queue if it does not exist.

        Args:
            queue: Its name: letters, digits and ``_ . -``.
            **changes: What to change; see `QueueChanges`.

        Returns:
            The queue as it is now.

        Raises:
            InvalidArgument: Naming the field and the value.
        """
        return self._project.call(_rpc_operate.set_queue(queue, changes))

    def pause(
        self, queue: str, *, resume_at: datetime | None = None, reason: str | None = None
    ) -> Queue:
        """Pause a queue; its running jobs continue.

        Args:
            queue: Its name.
            resume_at: Until then; None: until it is resumed.
            reason: For people, shown with the queue.

        Returns:
            The queue as it is now.

        Raises:
            QueueNotFound: No such queue.
            InvalidArgument: ``resume_at`` is past.
        """
        return self._project.call(_rpc_operate.pause_queue(queue, resume_at, reason))

    def resume(self, queue: str) -> Queue:
        """Resume a paused or draining queue.

        Returns:
            The queue as it is now.

        Raises:
            QueueNotFound: No such queue.
        """
        return self._project.call(_rpc_operate.resume_queue(queue))

    def drain(self, queue: str) -> Queue:
        """Drain a queue: refuse new jobs, and run those it has.

        Returns:
            The queue as it is now.

        Raises:
            QueueNotFound: No such queue.
        """
        return self._project.call(_rpc_operate.drain_queue(queue))

    def purge(self, queue: str, *, preview: bool = False) -> Changed:
        """Cancel the pending jobs of a queue, up to 10,000 in a call.

        Args:
            queue: Its name.
            preview: Change nothing, only count.

        Returns:
            How many jobs matched, and how many were cancelled.

        Raises:
            QueueNotFound: No such queue.
        """
        return self._project.call(_rpc_operate.purge_queue(queue, preview))

    def counts(
        self, *, limit: int = 10_000, after: str | None = None
    ) -> builtins.list[QueueCounts]:
        """Return how many jobs each queue has in each state, from counters that are kept.

        Args:
            limit: At most so many, 10,000 at most.
            after: The name of the last queue of the page before.
        """
        return self._project.call(_rpc_operate.queue_counts(limit, after))

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
            queue: Of this queue; None: of all.
            jobs_per_worker: How many jobs one worker runs at once.
            min_workers: Never fewer than these.
            max_workers: Never more than these.

        Returns:
            The number for the jobs that run and those that could run.

        Raises:
            QueueNotFound: No such queue.
        """
        rpc = _rpc_operate.desired_workers(queue, jobs_per_worker, min_workers, max_workers)
        return self._project.call(rpc)


class Limits:
    """Limits on how many jobs of a key run at once, or start in a period.

    A job runs under the keys ``global``, ``queue:<name>``, ``type:<job type>``, ``user:<id>`` and
    those it was enqueued with.
    """

    def __init__(self, project: Backend) -> None:
        self._project = project

    def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Limit]:
        """Return the limits, and the keys that are paused or that jobs wait for.

        Args:
            limit: At most so many, 10,000 at most.
            after: The key of the last limit of the page before.
        """
        return self._project.call(_rpc_operate.list_limits(limit, after))

    def set(
        self,
        key: str,
        *,
        max_running: int | None = None,
        rate: int | None = None,
        period: float | None = None,
    ) -> Limit:
        """Set the limit of a key. It applies at once, and running jobs count.

        Args:
            key: The key, or ``user:*`` for each key of that kind.
            max_running: So many of its jobs run at once.
            rate: So many start in any ``period``.
            period: Seconds.

        Returns:
            The limit.

        Raises:
            InvalidArgument: Naming the field and the value.
        """
        return self._project.call(_rpc_operate.set_limit(key, max_running, rate, period))

    def delete(self, key: str) -> None:
        """Delete the limit of a key.

        Raises:
            LimitNotFound: It has none.
        """
        self._project.call(_rpc_operate.delete_limit(key))

    def pause(self, key: str, resume_at: datetime | None = None) -> PausedKey:
        """Pause a key: none of its jobs start.

        Args:
            key: The key.
            resume_at: Until then; None: until it is resumed.

        Returns:
            The key as it is now.

        Raises:
            InvalidArgument: ``resume_at`` is past.
        """
        return self._project.call(_rpc_operate.pause_key(key, resume_at))

    def resume(self, key: str) -> PausedKey:
        """Resume a paused key.

        Returns:
            The key as it is now.
        """
        return self._project.call(_rpc_operate.resume_key(key))


class Tenants:
    """The weights of tenants in queues that share fairly."""

    def __init__(self, project: Backend) -> None:
        self._project = project

    def list(self, *, limit: int = 10_000, after: str | None = None) -> builtins.list[Tenant]:
        """Return the tenants that have a weight of their own; the others have 1.

        Args:
            limit: At most so many, 10,000 at most.
            after: The name of the last tenant of the page before.
        """
        return self._project.call(_rpc_operate.list_tenants(limit, after))

    def set(self, tenant: str, weight: float) -> Tenant:
        """Set the weight of a tenant: with 3 it gets three turns where one with 1 gets one.

        Args:
            tenant: As its jobs name it, or the id of the owner.
            weight: 0.001 to 1000.

        Returns:
            The tenant.

        Raises:
            InvalidArgument: Naming the value.
        """
        return self._project.call(_rpc_operate.set_tenant(tenant, weight))
