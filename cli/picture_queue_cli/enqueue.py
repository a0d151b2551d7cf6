"""``picture-queue enqueue``."""

from datetime import datetime
from typing import Annotated, Any

import typer

from picture_queue_cli.options import JsonFlag, with_job_options
from picture_queue_cli.parsing import expect_filled, moment, read_object
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, print_json, print_line

_TALK = {
    "existing": "There was such a job already.",
    "replaced": "There was such a job already; it has what this one said.",
    "debounced": "There was such a job already; it has this payload and time.",
}


@with_job_options
def enqueue(
    ctx: typer.Context,
    job_type: Annotated[
        str, typer.Argument(callback=expect_filled, help="Name the handler that runs it.")
    ],
    payload: Annotated[
        str, typer.Argument(help="Pass a JSON object, @FILE, or - for standard input.")
    ] = "{}",
    *,
    options: dict[str, Any],
    at: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME", parser=moment, help="Start at 2030-01-31T08:00, local or with a zone."
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
        raise typer.BadParameter("give one of --delay and --at, not both")
    content = read_object(payload)
    with connect(ctx) as pq:
        made = pq.jobs.enqueue(
            job_type,
            content,
            scheduled_for=at,
            idempotency_key=idempotency_key,
            **options,
        )
    if as_json:
        print_json({"job_id": made.id, "outcome": made.outcome})
        return
    if made.outcome in _TALK:
        info(_TALK[made.outcome])
    print_line(str(made.id))
