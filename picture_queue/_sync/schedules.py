# Written by scripts/unasync.py from picture_queue/_async/schedules.py: edit that file.

"""Schedules of recurring jobs."""

import builtins
from collections.abc import Mapping
from typing import Literal, Unpack

from pydantic import JsonValue

from picture_queue._rpc import schedules as _rpc
from picture_queue._transport.backend_sync import Backend
from picture_queue.options import JobOptions
from picture_queue.records import Enqueued, Schedule


class Schedules:
    """The schedules of a project. Every method needs a service key.

    Workers, and pg_cron if it is installed, enqueue the jobs that are due. Each tick enqueues one
    job, even with many workers.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def list(
        self, *, limit: int = 10_000, after: str | None = None
    ) -> builtins.list[Schedule]:
        """Return the schedules, sorted by name.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The name of the last schedule of the previous page. A page of more than 8 MiB
                ends early, so continue until a page is empty.
        """
        return self._backend.call(_rpc.list_schedules(limit, after))

    def set(
        self,
        name: str,
        job_type: str,
        payload: Mapping[str, JsonValue] | None = None,
        *,
        cron: str | None = None,
        every: float | None = None,
        timezone: str = "UTC",
        missed: Literal["skip", "once", "all"] = "once",
        paused: bool | None = None,
        **options: Unpack[JobOptions],
    ) -> Schedule:
        """Create or replace a schedule; the call is idempotent.

        Args:
            name: The name of the schedule.
            job_type: The job type of its jobs.
            payload: The payload of its jobs.
            cron: A cron expression (minute, hour, day of month, month, day of week), or a name such
                as ``@daily``.
            every: Seconds between two jobs, at least 1, instead of ``cron``.
            timezone: The time zone of ``cron``, such as ``Europe/Berlin``.
            missed: The missed ticks to run late. ``once``: only the latest. ``all``: each of them.
                ``skip``: only the latest, and only if it is less than two minutes late.
            paused: Whether the schedule is paused; None: a new schedule is not paused, and an
                existing schedule keeps its state.
            **options: Options of its jobs; see `JobOptions`.

        Returns:
            The schedule.

        Raises:
            InvalidCron: The expression or the time zone is invalid.
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        timing = {
            "cron": cron,
            "every_seconds": every,
            "timezone": timezone,
            "missed": missed,
            "paused": paused,
        }
        job = {"job_type": job_type, "payload": payload, **options}
        return self._backend.call(_rpc.set_schedule(name, timing, job))

    def delete(self, name: str) -> bool:
        """Delete a schedule, but not the jobs that it enqueued.

        Returns:
            True if the schedule existed.
        """
        return self._backend.call(_rpc.delete_schedule(name))

    def pause(self, name: str) -> Schedule:
        """Pause a schedule: it enqueues no jobs until it is resumed.

        Returns:
            The schedule as it is now.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        return self._backend.call(_rpc.pause_schedule(name))

    def resume(self, name: str) -> Schedule:
        """Resume a schedule; the ticks during the pause do not count as missed.

        Returns:
            The schedule as it is now.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        return self._backend.call(_rpc.resume_schedule(name))

    def run(self, name: str) -> Enqueued:
        """Enqueue the job of a schedule now, even if the schedule is paused.

        The time of the next tick does not change.

        Returns:
            The id of the job, and the outcome of the enqueue.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        return self._backend.call(_rpc.run_schedule(name))
