"""``picture-queue watch``: follow a job or a generation to its end."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from picture_queue_cli.parsing import parse_uuid, parse_wait
from picture_queue_cli.project import connect_async, run
from picture_queue_cli.render import info, plain, print_json, print_line, reason_lines

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, JobEvent

Timeout = Annotated[
    float | None,
    typer.Option(metavar="DURATION", parser=parse_wait, help="Stop waiting after 90s, 5m or 2h."),
]


def watch(
    ctx: typer.Context,
    target_id: Annotated[
        UUID, typer.Argument(metavar="ID", parser=parse_uuid, help="Follow this job or generation.")
    ],
    *,
    timeout: Timeout = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each state as one line of JSON.")
    ] = False,
) -> None:
    """Follow a job or a generation to its end.

    The exit code is 0 if it completed and 1 if it failed or was cancelled.
    """
    run(_watch(ctx, target_id, timeout, as_json))


async def _watch(ctx: typer.Context, target_id: UUID, timeout: float | None, as_json: bool) -> None:
    from picture_queue_cli.progress_bar import event_line

    def show(event: "JobEvent") -> None:
        if as_json:
            print_json(plain(event), indent=None)
        elif not sys.stdout.isatty():
            print_line(event_line(event))

    async with connect_async(ctx) as pq:
        job_id = await _find_job_id(pq, target_id)
        await expect_completed(pq, await follow(pq, job_id, target_id, timeout, show))


async def _find_job_id(pq: "AsyncPictureQueue", target_id: UUID) -> UUID:
    from picture_queue.errors import GenerationNotFound, JobNotFound

    try:
        return (await pq.jobs.get(target_id)).id
    except JobNotFound as error:
        try:
            return (await pq.generations.get(target_id)).job_id
        except GenerationNotFound:
            raise error from None


async def follow(
    pq: "AsyncPictureQueue",
    job_id: UUID,
    target_id: UUID,
    timeout: float | None,
    show: "Callable[[JobEvent], None] | None" = None,
) -> "JobEvent | None":
    """Follow a job with a progress bar; while it waits, print the reason.

    Args:
        pq: The client.
        job_id: The job.
        target_id: The id that the user gave: the id of the job, or of its generation.
        timeout: Seconds to wait for the end; None: no limit.
        show: Called with each state.

    Returns:
        The last state.

    Raises:
        WaitTimeout: The job did not finish in time.
    """
    from picture_queue_cli.progress_bar import ProgressBar

    last = None
    with hint_on_interrupt(f"watch {target_id}"), ProgressBar() as bar:
        async for last in pq.jobs.watch(job_id, timeout=timeout):
            if last.explanation is not None:
                info(reason_lines(last.explanation) or "")
                continue
            bar.show(last)
            if show is not None:
                show(last)
    return last


@contextmanager
def hint_on_interrupt(command: str, subject: str = "job") -> Iterator[None]:
    """Print how to follow the job or batch again when the user interrupts the command."""
    from asyncio import CancelledError

    try:
        yield
    except CancelledError:
        info(f"The {subject} continues. Follow it again: picture-queue {command}")
        raise


async def expect_completed(pq: "AsyncPictureQueue", last: "JobEvent | None") -> None:
    """Check that the last state of a watch is completed.

    Raises:
        JobFailed: The job failed; the message is the error of the job.
        JobCancelled: The job was cancelled.
    """
    from picture_queue import JobCancelled, JobFailed

    if last is not None and last.status != "completed":
        job = await pq.jobs.get(last.job_id)
        raise (JobFailed if last.status == "failed" else JobCancelled)(job)
