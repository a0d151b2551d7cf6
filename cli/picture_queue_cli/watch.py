"""``picture-queue watch``: follow a job or a generation to its end."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from picture_queue_cli.parsing import uuid, wait
from picture_queue_cli.project import connect_async, run
from picture_queue_cli.render import info, plain, print_json, print_line, reason_lines

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, JobEvent

Timeout = Annotated[
    float | None,
    typer.Option(metavar="DURATION", parser=wait, help="Stop waiting after 90s, 5m or 2h."),
]


def watch(
    ctx: typer.Context,
    some_id: Annotated[
        UUID, typer.Argument(metavar="ID", parser=uuid, help="Follow this job or generation.")
    ],
    *,
    timeout: Timeout = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each state as one line of JSON.")
    ] = False,
) -> None:
    """Follow a job to its end.

    The exit code is 0 if it completed and 1 if it failed or was cancelled.
    """
    run(_watch(ctx, some_id, timeout, as_json))


async def _watch(ctx: typer.Context, some_id: UUID, timeout: float | None, as_json: bool) -> None:
    from picture_queue_cli.progress_bar import event_line

    def show(event: "JobEvent") -> None:
        if as_json:
            print_json(plain(event), indent=None)
        elif not sys.stdout.isatty():
            print_line(event_line(event))

    async with connect_async(ctx) as pq:
        job_id = await _job_of(pq, some_id)
        await expect_completed(pq, await follow(pq, job_id, some_id, timeout, show))


async def _job_of(pq: "AsyncPictureQueue", some_id: UUID) -> UUID:
    from picture_queue.errors import GenerationNotFound, JobNotFound

    try:
        return (await pq.jobs.get(some_id)).id
    except JobNotFound as unknown:
        try:
            return (await pq.generations.get(some_id)).job_id
        except GenerationNotFound:
            raise unknown from None


async def follow(
    pq: "AsyncPictureQueue",
    job_id: UUID,
    some_id: UUID,
    timeout: float | None,
    show: "Callable[[JobEvent], None] | None" = None,
) -> "JobEvent | None":
    """Follow a job with a progress bar, and say why it does not move while it waits.

    Args:
        pq: The project.
        job_id: The job.
        some_id: The id to come back with: the job's or its generation's.
        timeout: Longest wait for the end, seconds; None: no limit.
        show: Called with each state.

    Returns:
        The last state.

    Raises:
        WaitTimeout: It did not finish in time.
    """
    from picture_queue_cli.progress_bar import Bar

    last = None
    with _hint_on_interrupt(some_id), Bar() as bar:
        async for last in pq.jobs.watch(job_id, timeout=timeout):
            if last.explanation is not None:
                info(reason_lines(last.explanation) or "")
                continue
            bar.show(last)
            if show is not None:
                show(last)
    return last


@contextmanager
def _hint_on_interrupt(some_id: UUID) -> Iterator[None]:
    """Say how to come back when the person who watches leaves."""
    from asyncio import CancelledError

    try:
        yield
    except CancelledError:
        info(f"The job goes on. Come back to it: picture-queue watch {some_id}")
        raise


async def expect_completed(pq: "AsyncPictureQueue", last: "JobEvent | None") -> None:
    """Return if the last state of a watch is completed.

    Raises:
        JobFailed: It failed; its message is the job's.
        JobCancelled: It was cancelled.
    """
    from picture_queue import JobCancelled, JobFailed

    if last is not None and last.status != "completed":
        job = await pq.jobs.get(last.job_id)
        raise (JobFailed if last.status == "failed" else JobCancelled)(job)
