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

    Workers look after them, and pg_cron where it is; each tick makes one job, however many look.
    """

    def __init__(self, project: Backend) -> None:
        self._project = project

    def list(
        self, *, limit: int = 10_000, after: str | None = None
    ) -> builtins.list[Schedule]:
        """Return the schedules, by name.

        Args:
            limit: Maximum number of results, up to 10,000.
            after: The name of the last schedule of the previous page. A page ends early when it is
                larger than 8 MiB, so continue until one is empty.
        """
        return self._project.call(_rpc.list_schedules(limit, after))

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
        """Create or change a schedule; setting the same again changes nothing.

        Args:
            name: Its name.
            job_type: Which handler runs its jobs.
            payload: What the handler gets.
            cron: Minute, hour, day of month, month, day of week; or ``@daily`` and the like.
            every: Instead of ``cron``: seconds between two jobs, 1 at least.
            timezone: Where ``cron`` is the time of day, such as ``Europe/Berlin``.
            missed: What to make up for when ticks passed unseen: ``skip`` none (two minutes are
                forgiven), ``once`` the latest, ``all``.
            paused: Whether it makes no jobs; None leaves that as it is.
            **options: When, where and how its jobs run; see `JobOptions`.

        Returns:
            The schedule.

        Raises:
            InvalidCron: No such expression or time zone.
            InvalidArgument: A value is invalid; the error names the field and the value.
        """
        rhythm = {
            "cron": cron,
            "every_seconds": every,
            "timezone": timezone,
            "missed": missed,
            "paused": paused,
        }
        job = {"job_type": job_type, "payload": payload, **options}
        return self._project.call(_rpc.set_schedule(name, rhythm, job))

    def delete(self, name: str) -> bool:
        """Delete a schedule; the jobs it made stay.

        Returns:
            Whether there was such a schedule.
        """
        return self._project.call(_rpc.delete_schedule(name))

    def pause(self, name: str) -> Schedule:
        """Pause a schedule: it makes no jobs.

        Returns:
            The schedule as it is now.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        return self._project.call(_rpc.pause_schedule(name))

    def resume(self, name: str) -> Schedule:
        """Resume a schedule with its next run from now.

        Returns:
            The schedule as it is now.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        return self._project.call(_rpc.resume_schedule(name))

    def run(self, name: str) -> Enqueued:
        """Run a schedule now, paused or not; its next run stays as it is.

        Returns:
            The id of the job.

        Raises:
            ScheduleNotFound: No such schedule.
        """
        return self._project.call(_rpc.run_schedule(name))
