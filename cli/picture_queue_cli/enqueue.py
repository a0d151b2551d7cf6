"""``picture-queue enqueue``: enqueue a job and print its id."""

from datetime import datetime
from typing import Annotated, Any

import typer

from picture_queue_cli.options import JsonFlag, with_job_options
from picture_queue_cli.parsing import expect_filled, parse_time, read_object
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, print_json, print_line

_OUTCOMES = {
    "existing": "This job exists already; it was not changed.",
    "replaced": "This job existed already; it was replaced.",
    "debounced": "This job existed already; its payload and time were changed.",
}


@with_job_options
def enqueue(
    ctx: typer.Context,
    job_type: Annotated[
        str, typer.Argument(callback=expect_filled, help="Run the handler of this job type.")
    ],
    payload: Annotated[str, typer.Argument(help="Pass a JSON object, @FILE, or - (stdin).")] = "{}",
    *,
    options: dict[str, Any],
    at: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            parser=parse_time,
            help="Start at 2030-01-31T08:00, local or with an offset.",
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", callback=expect_filled, help="Return the first job with this key."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Enqueue a job and print its id."""
    if at is not None and "delay" in options:
        raise typer.BadParameter("give either --delay or --at, not both")
    content = read_object(payload)
    with connect(ctx) as pq:
        job = pq.jobs.enqueue(
            job_type,
            content,
            scheduled_for=at,
            idempotency_key=idempotency_key,
            **options,
        )
    if as_json:
        print_json({"job_id": job.id, "outcome": job.outcome})
        return
    if job.outcome in _OUTCOMES:
        info(_OUTCOMES[job.outcome])
    print_line(str(job.id))
