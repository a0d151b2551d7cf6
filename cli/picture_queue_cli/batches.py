"""``picture-queue batches`` and ``picture-queue events``."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from picture_queue.errors import InvalidArgument
from picture_queue_cli.project import connect
from picture_queue_cli.reading import read_json, read_object, read_text
from picture_queue_cli.render import err, out, pairs, plain, print_json, print_line, talk
from picture_queue_cli.sharing import JsonFlag

if TYPE_CHECKING:
    from picture_queue import Batch

app = typer.Typer(no_args_is_help=True, help="Jobs that belong together.")
events = typer.Typer(no_args_is_help=True, help="Tell of what happens outside.")

_LOOK = 0.5  # seconds between two looks at a batch


@app.command()
def enqueue(
    ctx: typer.Context,
    jobs: Annotated[
        str,
        typer.Argument(help="A JSON list of jobs, or one a line: @FILE, or - for standard input."),
    ],
    *,
    callback: Annotated[
        str | None, typer.Option(help="A job, as JSON, for when all have finished.")
    ] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object that comes with it.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write jobs that belong together, and print the batch's id."""
    items = _jobs(jobs)
    then: Any = read_object(callback, "callback") if callback else None
    about = read_object(metadata, "metadata") if metadata else None
    with connect(ctx) as pq:
        made = pq.batches.enqueue(items, callback=then, metadata=about)
    if as_json:
        print_json(plain(made))
        return
    talk(f"{len(made.jobs)} jobs")
    print_line(str(made.id))


def _jobs(text: str) -> Any:
    content = read_text(text, "list of jobs").strip()
    if content.startswith("["):
        return read_json(content, "list of jobs")
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise InvalidArgument(
                "The list of jobs is not JSON",
                detail=f"line {number}: {error}",
                hint="""A job is '{"job_type": "resize", "payload": {…}}'""",
            ) from error
    return found


@app.command()
def show(
    ctx: typer.Context,
    batch_id: Annotated[UUID, typer.Argument(metavar="BATCH_ID", help="The batch's id.")],
    *,
    watch: Annotated[bool, typer.Option(help="Follow it to its end.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show how far a batch is."""
    with connect(ctx) as pq:
        batch = pq.batches.get(batch_id)
        if watch and batch.open:
            from rich.progress import Progress

            with Progress(console=err(), transient=True) as progress:
                task = progress.add_task("jobs", total=batch.total)
                while batch.open:
                    progress.update(task, completed=batch.total - batch.open, total=batch.total)
                    time.sleep(_LOOK)
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


@events.command()
def send(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What jobs parked on; a job's id by default.")],
    payload: Annotated[
        str, typer.Argument(help="What they get: JSON, @FILE, or - for standard input.")
    ] = "null",
    *,
    as_json: JsonFlag = False,
) -> None:
    """Wake the jobs that wait for an event; it is kept for a day if none does."""
    content = read_json(payload, "payload")
    with connect(ctx) as pq:
        woken = pq.events.send(name, content)
    if as_json:
        print_json({"woken": woken})
    else:
        out().print("1 job woke" if woken == 1 else f"{woken} jobs woke")
