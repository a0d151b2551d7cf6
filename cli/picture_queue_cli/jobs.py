"""``picture-queue jobs``: list, show, cancel and retry; and ``enqueue``."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from picture_queue.errors import InvalidArgument
from picture_queue_cli.project import connect
from picture_queue_cli.render import (
    ago,
    local_time,
    out,
    pairs,
    plain,
    print_json,
    print_line,
    status_text,
    table,
    talk,
)

if TYPE_CHECKING:
    from picture_queue import Job

app = typer.Typer(no_args_is_help=True, help="See and steer jobs.")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[UUID, typer.Argument(metavar="JOB_ID", help="The job's id.")]

_WIDE = 110  # characters of a screen that have room for all columns
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_DELAY = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?")


class Status(StrEnum):
    """The states, as choices of an option; the library's own would cost pydantic at each start."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


def enqueue(
    ctx: typer.Context,
    job_type: Annotated[str, typer.Argument(help="Which handler runs it.")],
    payload: Annotated[
        str, typer.Argument(help="A JSON object, @FILE to read one, or - for standard input.")
    ] = "{}",
    *,
    queue: Annotated[str | None, typer.Option(help="Which queue; the job type's own.")] = None,
    priority: Annotated[int, typer.Option(help="Higher runs first.")] = 0,
    delay: Annotated[
        str | None, typer.Option(help="Not before this time is over: 90s, 10m, 2h or 1d.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Not before: 2030-01-31T08:00, or with a zone at its end.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Attempts before it fails; the job type's own.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="With the same key the first job is returned.")
    ] = None,
    user_id: Annotated[
        UUID | None, typer.Option(help="Whose it is: that user may read, watch and cancel it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a job and print its id."""
    content = read_payload(payload)
    scheduled_for = due(delay, at)
    with connect(ctx) as pq:
        made = pq.jobs.enqueue(
            job_type,
            content,
            queue=queue,
            priority=priority,
            scheduled_for=scheduled_for,
            max_attempts=max_attempts,
            idempotency_key=idempotency_key,
            user_id=user_id,
        )
    if as_json:
        print_json({"job_id": made.id, "outcome": made.outcome})
        return
    if made.outcome == "existing":
        talk("There was a job of that key already.")
    print_line(str(made.id))


def read_payload(text: str) -> dict[str, Any]:
    """Reads a payload from the argument, from ``@FILE`` or, for ``-``, from standard input.

    Raises:
        InvalidArgument: It cannot be read, is not JSON, or is not an object.
    """
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            detail = f"{text[1:]}: {reason}"
            raise InvalidArgument("The payload cannot be read", detail=detail) from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(
            "The payload is not JSON",
            detail=str(error),
            hint="""Write it as '{"path": "a.png"}', or as @FILE""",
        ) from error
    if not isinstance(found, dict):
        raise InvalidArgument(
            "The payload is not a JSON object",
            detail=f"it is {json.dumps(found)[:60]}",
            hint="""Give its values names: '{"value": …}'""",
        )
    return found


def due(delay: str | None, at: str | None) -> datetime | None:
    """Returns when the job is due.

    Raises:
        typer.BadParameter: A time cannot be read, or both are given.
    """
    if delay and at:
        raise typer.BadParameter("give one of --delay and --at, not both")
    if delay:
        match = _DELAY.fullmatch(delay.strip())
        if not match:
            raise typer.BadParameter(
                f"{delay!r} is not a time like 90s, 10m, 2h or 1d", param_hint="--delay"
            )
        return datetime.now(UTC) + timedelta(seconds=float(match[1]) * _UNITS[match[2] or ""])
    if at:
        try:
            return datetime.fromisoformat(at)
        except ValueError as error:
            raise typer.BadParameter(
                f"{at!r} is not a time like 2030-01-31T08:00", param_hint="--at"
            ) from error
    return None


@app.command("list")
def list_jobs(
    ctx: typer.Context,
    *,
    queue: Annotated[str | None, typer.Option(help="Of this queue only.")] = None,
    status: Annotated[Status | None, typer.Option(help="In this state only.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Of this job type only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    with connect(ctx) as pq:
        found = pq.jobs.list(queue=queue, status=status, job_type=job_type, limit=limit)
    if as_json:
        print_json([plain(job) for job in found])
    elif not found:
        talk("There are no such jobs.")
    else:
        console = out()
        console.print(_overview(found, wide=console.width >= _WIDE))


def _overview(jobs: "Sequence[Job]", *, wide: bool) -> Table:
    """Returns jobs as a table; where there is room, with more about them."""
    shown = table("id", "type", *(("queue", "attempt") if wide else ()), "status", "created")
    for job in jobs:
        state = status_text(job.status, job.hold)
        if job.status == "processing":
            state.append(f" {job.progress} %")
        more = (job.queue, f"{job.attempt} of {job.max_attempts}") if wide else ()
        shown.add_row(str(job.id), job.job_type, *more, state, ago(job.created_at))
    return shown


@app.command()
def show(ctx: typer.Context, job_id: JobId, *, as_json: JsonFlag = False) -> None:
    """Show everything about a job."""
    with connect(ctx) as pq:
        job = pq.jobs.get(job_id)
    if as_json:
        print_json(plain(job))
    else:
        out().print(pairs(_details(job)))


def _details(job: "Job") -> dict[str, Any]:
    return {
        "id": job.id,
        "type": job.job_type,
        "queue": job.queue,
        "status": status_text(job.status, job.hold),
        "progress": f"{job.progress} %" + (f", {job.message}" if job.message else ""),
        "attempt": f"{job.attempt} of {job.max_attempts}",
        "priority": job.priority,
        "user": job.user_id,
        "generation": job.generation_id,
        "idempotency key": job.idempotency_key,
        "worker": job.worker,
        "due": local_time(job.scheduled_for),
        "created": local_time(job.created_at),
        "started": local_time(job.started_at),
        "finished": local_time(job.finished_at),
        "cancel asked": local_time(job.cancel_requested_at),
        "payload": json.dumps(job.payload, ensure_ascii=False),
        "result": None if job.result is None else json.dumps(job.result, ensure_ascii=False),
        "error": job.error,
    }


@app.command()
def cancel(ctx: typer.Context, job_id: JobId, *, as_json: JsonFlag = False) -> None:
    """Cancel a job: at once while it waits; a running one is asked to stop."""
    with connect(ctx) as pq:
        answer = pq.jobs.cancel(job_id)
    if as_json:
        print_json(plain(answer))
        return
    if answer.cancel_requested and not answer.status.finished:
        talk("It is running; its worker is asked to stop.")
    out().print(status_text(answer.status))


@app.command()
def retry(ctx: typer.Context, job_id: JobId, *, as_json: JsonFlag = False) -> None:
    """Make a failed or cancelled job pending again."""
    with connect(ctx) as pq:
        job = pq.jobs.retry(job_id)
    if as_json:
        print_json(plain(job))
    else:
        out().print(status_text(job.status, job.hold))
