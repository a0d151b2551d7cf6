"""``picture-queue generations batches``: batches and chains of generations."""

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import EXAMPLE_ID, parse_uuid
from picture_queue_cli.project import connect, connect_async, run
from picture_queue_cli.render import (
    info,
    out,
    pairs,
    plain,
    print_json,
    status_text,
    styled,
    table,
)
from picture_queue_cli.watch import Timeout

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue
    from picture_queue.records import GenerationBatch

app = Commands(
    help="Show and cancel batches of generations.",
    example=f"generations batches show {EXAMPLE_ID}",
)

BatchId = Annotated[
    UUID, typer.Argument(metavar="BATCH_ID", parser=parse_uuid, help="Name the batch.")
]


@app.command(example=f"generations batches show {EXAMPLE_ID}")
def show(
    ctx: typer.Context,
    batch_id: BatchId,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the batch to its end.")] = False,
    timeout: Timeout = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the progress of a batch of generations."""
    run(_show(ctx, batch_id, watch, timeout, as_json))


async def _show(
    ctx: typer.Context, batch_id: UUID, watch: bool, timeout: float | None, as_json: bool
) -> None:
    from picture_queue_cli.generate_batch import follow_batch

    async with connect_async(ctx) as pq:
        if watch:
            found = await follow_batch(pq, batch_id, timeout)
        else:
            found = await pq.generations.get_batch(batch_id)
        if as_json:
            print_json(found.model_dump(mode="json", exclude={"explanation"}))
        else:
            _print(found)
        if watch:
            await expect_batch_completed(pq, found)


def _print(batch: "GenerationBatch") -> None:
    rows: dict[str, Any] = {
        "id": batch.id,
        "status": status_text(batch.status),
        "progress": f"{batch.progress} %",
        "generations": batch.total,
        "completed": batch.completed,
        "failed": batch.failed or None,
        "cancelled": batch.cancelled or None,
        "cost": None if batch.cost_usd is None else f"${batch.cost_usd:g}",
        "user": batch.user_id,
    }
    out().print(pairs(rows))
    shown = table("id", "kind", "status", "progress", "error", right=("progress",))
    for entry in batch.generations:
        shown.add_row(
            str(entry.id),
            f"{'  ' * entry.step}{entry.kind}",
            status_text(entry.status, entry.hold),
            f"{entry.progress} %",
            styled(entry.error or ""),
        )
    out().print(shown)


@app.command(example=f"generations batches cancel {EXAMPLE_ID}")
def cancel(ctx: typer.Context, batch_id: BatchId, *, as_json: JsonFlag = False) -> None:
    """Cancel the generations of a batch that have not ended."""
    with connect(ctx) as pq:
        counts = pq.generations.cancel_batch(batch_id)
    if as_json:
        print_json(plain(counts))
        return
    running = f", {counts.cancel_requested} asked to stop" if counts.cancel_requested else ""
    info(f"{counts.cancelled} of {counts.total} cancelled{running}.")


async def expect_batch_completed(pq: "AsyncPictureQueue", batch: "GenerationBatch") -> None:
    """Check that all generations of a batch completed.

    Raises:
        JobFailed: A generation failed; the message is the error of its job.
        JobCancelled: None failed, but some were cancelled.
    """
    from picture_queue import JobCancelled, JobFailed

    for status, error in (("failed", JobFailed), ("cancelled", JobCancelled)):
        for entry in batch.generations:
            if entry.status == status:
                raise error(await pq.jobs.get(entry.job_id))
