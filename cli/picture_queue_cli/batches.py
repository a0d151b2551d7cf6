"""``picture-queue batches``: batches of jobs."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from picture_queue.errors import InvalidArgument
from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import (
    EXAMPLE_ID,
    describe_syntax,
    expect_object,
    file_hint,
    parse_json,
    parse_uuid,
    read_object,
    read_text,
)
from picture_queue_cli.project import connect
from picture_queue_cli.render import err, info, out, pairs, plain, print_json, print_line

if TYPE_CHECKING:
    from picture_queue.records import Batch

app = Commands(help="Enqueue and follow batches of jobs.", example="batches enqueue @jobs.jsonl")

_POLL_INTERVAL = 0.5  # seconds
_JOB_HINT = """Write a job as '{"job_type": "resize", "payload": {…}}'"""


@app.command(example="batches enqueue @jobs.jsonl")
def enqueue(
    ctx: typer.Context,
    jobs: Annotated[
        str,
        typer.Argument(help="Pass a JSON list or JSON lines, @FILE, or - (stdin)."),
    ],
    *,
    callback: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Enqueue this job when all jobs have finished."),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="JSON", help="Attach a JSON object.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Enqueue jobs as a batch and print its id."""
    items = _parse_jobs(jobs)
    callback_job: Any = read_object(callback, "--callback") if callback is not None else None
    metadata_object = read_object(metadata, "--metadata") if metadata is not None else None
    with connect(ctx) as pq:
        batch = pq.batches.enqueue(items, callback=callback_job, metadata=metadata_object)
    if as_json:
        print_json(plain(batch))
        return
    info("1 job" if len(batch.jobs) == 1 else f"{len(batch.jobs)} jobs")
    print_line(str(batch.id))


def _parse_jobs(text: str) -> Any:
    content = read_text(text, "JOBS").strip()
    if content.startswith("["):
        jobs = [(f"Item {n}", job) for n, job in enumerate(_parse_json(content), 1)]
    else:
        lines = enumerate(content.split("\n"), 1)
        jobs = [(f"Line {n}", _parse_json(line, n)) for n, line in lines if line.strip()]
    return [expect_object(job, f"{position} of the list", _JOB_HINT) for position, job in jobs]


def _parse_json(text: str, line: int | None = None) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        position = "" if line is None else f"line {line}: "
        raise InvalidArgument(
            "JOBS is not JSON",
            detail=f"{position}{describe_syntax(error)}",
            hint=file_hint(text) or _JOB_HINT,
        ) from error


@app.command(example=f"batches show {EXAMPLE_ID}")
def show(
    ctx: typer.Context,
    batch_id: Annotated[
        UUID,
        typer.Argument(metavar="BATCH_ID", parser=parse_uuid, help="Show this batch."),
    ],
    *,
    watch: Annotated[bool, typer.Option(help="Follow the batch to its end.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the progress of a batch."""
    with connect(ctx) as pq:
        batch = pq.batches.get(batch_id)
        if watch and batch.open:
            from rich.progress import Progress

            with Progress(console=err(), transient=True) as progress:
                task = progress.add_task("jobs", total=batch.total)
                while batch.open:
                    progress.update(task, completed=batch.total - batch.open, total=batch.total)
                    time.sleep(_POLL_INTERVAL)
                    batch = pq.batches.get(batch_id)
    if as_json:
        print_json(plain(batch))
    else:
        out().print(pairs(_details(batch)))


def _details(batch: "Batch") -> dict[str, Any]:
    return {
        "id": batch.id,
        "progress": f"{batch.progress} %",
        "jobs": batch.total,
        "open": batch.open,
        "completed": batch.completed,
        "failed": batch.failed or None,
        "cancelled": batch.cancelled or None,
        "callback job": batch.callback_job_id,
        "callback refused": batch.callback_error,
        "metadata": json.dumps(batch.metadata) if batch.metadata else None,
    }
