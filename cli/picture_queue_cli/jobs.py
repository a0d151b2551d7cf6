"""``picture-queue jobs``: show jobs, and change one or many."""

import json
from collections.abc import Callable, Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from uuid import UUID

import typer
from rich.table import Table

from picture_queue.errors import Conflict, JobRunning, NotFound, PictureQueueError
from picture_queue_cli.commands import Commands
from picture_queue_cli.filters import (
    describe_missing,
    describe_no_match,
    expect_failures,
    expect_known,
    expect_possible,
)
from picture_queue_cli.options import JsonFlag, PreviewFlag, YesFlag, confirm, with_filter_options
from picture_queue_cli.parsing import EXAMPLE_ID, parse_uuid, whole_number
from picture_queue_cli.project import connect
from picture_queue_cli.render import (
    err,
    format_age,
    info,
    local_time,
    out,
    pairs,
    plain,
    print_json,
    reason_lines,
    status_text,
    styled,
    table,
)

if TYPE_CHECKING:
    from picture_queue import Job, PictureQueue
    from picture_queue.records import JobExplanation, JobHistory, Record

T = TypeVar("T")

app = Commands(help="Show and change jobs.", example="jobs list --status failed")

JobId = Annotated[UUID, typer.Argument(metavar="JOB_ID", parser=parse_uuid, help="Show this job.")]
JobIds = Annotated[
    list[UUID] | None,
    typer.Argument(
        metavar="JOB_ID",
        parser=parse_uuid,
        help="Change the jobs with these ids.",
    ),
]

_WIDE = 110  # characters; a wider terminal shows all columns of a list


@app.command("list", example="jobs list --queue mail --status failed")
@with_filter_options
def list_jobs(
    ctx: typer.Context,
    *,
    filter: dict[str, Any],
    limit: Annotated[
        int,
        typer.Option(
            metavar="NUMBER", parser=whole_number(1, 1000), help="List at most this many jobs."
        ),
    ] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    with connect(ctx) as pq:
        jobs = pq.jobs.list(limit=limit, **filter)
        missing = "" if jobs or as_json else describe_missing(pq, filter)
    if as_json:
        print_json([plain(job) for job in jobs])
    elif not jobs:
        info(describe_no_match(filter) + missing)
    else:
        console = out()
        console.print(_job_table(jobs, wide=console.width >= _WIDE))


def _job_table(jobs: "Sequence[Job]", *, wide: bool) -> Table:
    """Return jobs as a table; a wide table also has the queue and the attempt."""
    listing = table("id", "type", *(("queue", "attempt") if wide else ()), "status", "created")
    for job in jobs:
        state = status_text(job.status, job.hold)
        if job.status == "processing":
            state.append(f" {job.progress} %")
        wide_cells = (job.queue, f"{job.attempt} of {job.max_attempts}") if wide else ()
        listing.add_row(str(job.id), job.job_type, *wide_cells, state, format_age(job.created_at))
    return listing


@app.command(example=f"jobs show {EXAMPLE_ID}")
def show(ctx: typer.Context, job_id: JobId, *, as_json: JsonFlag = False) -> None:
    """Show everything about a job."""
    with connect(ctx) as pq:
        job = pq.jobs.get(job_id)
        explanation = pq.jobs.explain(job_id)
    if as_json:
        print_json({**plain(job), "why": explanation.model_dump(mode="json", exclude_unset=True)})
    else:
        out().print(pairs(_details(job, explanation)))


def _details(job: "Job", explanation: "JobExplanation") -> dict[str, Any]:
    return {
        "id": job.id,
        "type": job.job_type,
        "queue": job.queue,
        "status": status_text(job.status, job.hold),
        "why": reason_lines(explanation),
        "progress": f"{job.progress} %" + (f", {job.message}" if job.message else ""),
        "attempt": f"{job.attempt} of {job.max_attempts}",
        "priority": job.priority,
        "user": job.user_id,
        "generation": job.generation_id,
        "tenant": job.tenant or None,
        "batch": job.batch_id,
        "tags": ", ".join(job.tags) if job.tags else None,
        "limit keys": ", ".join(job.limit_keys) if job.limit_keys else None,
        "waits for key": job.blocked_on if job.hold == "blocked" else None,
        "waits for event": job.parked_on if job.hold == "parked" else None,
        "idempotency key": job.idempotency_key,
        "worker": job.worker,
        "due": local_time(job.scheduled_for),
        "expires": local_time(job.expires_at),
        "created": local_time(job.created_at),
        "started": local_time(job.started_at),
        "finished": local_time(job.finished_at),
        "cancel requested": local_time(job.cancel_requested_at),
        "metadata": json.dumps(job.metadata, ensure_ascii=False) if job.metadata else None,
        "payload": json.dumps(job.payload, ensure_ascii=False),
        "result": None if job.result is None else json.dumps(job.result, ensure_ascii=False),
        "error": job.error,
    }


@app.command(example=f"jobs history {EXAMPLE_ID}")
def history(ctx: typer.Context, job_id: JobId, *, as_json: JsonFlag = False) -> None:
    """Show a job's position, states, log and tracebacks."""
    with connect(ctx) as pq:
        job_history = pq.jobs.history(job_id)
        position = pq.jobs.position(job_id)
    if as_json:
        print_json({**plain(job_history), "position": plain(position)})
        return
    if position.position is not None:
        more = " or later" if position.at_least else ""
        info(f"Position {position.position}{more} in its queue.")
    _show_history(job_history)


def _show_history(job_history: "JobHistory") -> None:
    steps = table("when", "", "status", "attempt", "worker", "error", right=("attempt",))
    for step in job_history.timeline:
        steps.add_row(
            local_time(step.at),
            step.action,
            status_text(step.status, step.hold),
            str(step.attempt),
            step.worker or "",
            styled(step.error or "", "red"),
        )
    out().print(steps)
    if job_history.log:
        lines = table("when", "level", "message")
        for line in job_history.log:
            lines.add_row(local_time(line.at), line.level, line.message)
        out().print()
        out().print(lines)
    last_detail = None
    for attempt in job_history.attempts:
        if attempt.detail and attempt.detail != last_detail:  # print equal tracebacks once
            last_detail = attempt.detail
            out().print()
            out().print(f"Attempt {attempt.attempt}, {local_time(attempt.ended_at)}:", style="dim")
            # Indented, so that no line of a traceback looks like a line of this program.
            out().print(indent(last_detail, "  "), soft_wrap=True)


@app.command(example="jobs reasons --queue mail")
@with_filter_options
def reasons(ctx: typer.Context, *, filter: dict[str, Any], as_json: JsonFlag = False) -> None:
    """Group failed jobs by reason, the most frequent first."""
    expect_failures(filter)
    with connect(ctx) as pq:
        groups = pq.jobs.failure_reasons(**filter)
        missing = "" if groups or as_json else describe_missing(pq, filter)
    if as_json:
        print_json([plain(reason) for reason in groups])
        return
    if not groups:
        info(describe_no_match(filter, "retry") + missing)
        return
    listing = table("jobs", "reason", "types", "last", right=("jobs",))
    for reason in groups:
        last = format_age(reason.last_at)
        listing.add_row(str(reason.count), reason.reason, ", ".join(reason.job_types), last)
    out().print(listing)


@app.command(example="jobs cancel --queue mail --status pending")
@with_filter_options
def cancel(
    ctx: typer.Context,
    job_ids: JobIds = None,
    *,
    filter: dict[str, Any],
    preview: PreviewFlag = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Cancel jobs; ask running jobs to stop."""
    if not job_ids:
        _change(ctx, "cancel", filter, preview=preview, yes=yes, as_json=as_json)
        return
    _expect_no_filter(filter)
    with connect(ctx) as pq:
        answers, first_error = _change_each(job_ids, pq.jobs.cancel)
    if as_json:
        _print_records(answers)
    else:
        for answer in answers:
            if answer.cancel_requested and not answer.status.finished:
                info("The job is running; its worker was asked to stop it.")
            out().print(status_text(answer.status))
    if first_error is not None:
        raise first_error


@app.command(example="jobs retry --type resize --preview")
@with_filter_options
def retry(
    ctx: typer.Context,
    job_ids: JobIds = None,
    *,
    filter: dict[str, Any],
    preview: PreviewFlag = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Retry failed or cancelled jobs."""
    if not job_ids:
        _change(ctx, "retry", filter, preview=preview, yes=yes, as_json=as_json)
        return
    _expect_no_filter(filter)
    with connect(ctx) as pq:
        jobs, first_error = _change_each(job_ids, pq.jobs.retry)
    if as_json:
        _print_records(jobs)
    else:
        for job in jobs:
            out().print(status_text(job.status, job.hold))
    if first_error is not None:
        raise first_error


@app.command(example="jobs discard --finished-before 2030-01-31")
@with_filter_options
def discard(
    ctx: typer.Context,
    job_ids: JobIds = None,
    *,
    filter: dict[str, Any],
    preview: PreviewFlag = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Delete finished jobs with their history."""
    if job_ids:
        _expect_no_filter(filter)
        with connect(ctx) as pq:
            _expect_finished([pq.jobs.get(job_id) for job_id in job_ids])
        filter = {"job_ids": job_ids}
    _change(ctx, "discard", filter, preview=preview, yes=yes, as_json=as_json)


def _change_each(
    job_ids: list[UUID], change: Callable[[UUID], T]
) -> tuple[list[T], PictureQueueError | None]:
    """Change each job; return the answers, and the first error if there is one."""
    answers: list[T] = []
    first_error: PictureQueueError | None = None
    for job_id in job_ids:
        try:
            answers.append(change(job_id))
        except (NotFound, Conflict) as error:
            first_error = first_error or error
    return answers, first_error


def _print_records(records: "Sequence[Record]") -> None:
    values = [plain(record) for record in records]
    if values:
        print_json(values if len(values) > 1 else values[0])


def _expect_finished(jobs: "list[Job]") -> None:
    for job in jobs:
        if not job.status.finished:
            raise JobRunning(
                f"Job {job.id} is {job.status}, and only finished jobs can be discarded",
                hint=f"Cancel it first: picture-queue jobs cancel {job.id}",
            )


def _expect_no_filter(filter: dict[str, Any]) -> None:
    if filter:
        raise typer.BadParameter("give job ids or options that select jobs, not both")


def _change(
    ctx: typer.Context,
    action: Literal["retry", "cancel", "discard"],
    filter: dict[str, Any],
    *,
    preview: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Count the jobs that match a filter, ask for confirmation, and change all of them."""
    if not filter:
        raise typer.BadParameter(
            "select jobs by their ids, or by options such as --queue and --status"
        )
    expect_possible(action, filter)
    with connect(ctx) as pq:
        matched = pq.jobs.change(action, preview=True, **filter).matched
        if not matched:
            expect_known(pq, filter)
        changed = 0
        if matched and not preview:
            if not yes:
                jobs = "1 job" if matched == 1 else f"{matched} jobs"
                confirm(f"{action.capitalize()} {jobs}?")
            changed = _change_all(pq, action, filter, matched)
    if as_json:
        print_json({"matched": matched, "changed": changed})
    elif not matched:
        info(describe_no_match(filter, action))
    elif preview:
        out().print(f"{matched} would be changed")
    else:
        out().print(f"{changed} changed")


def _change_all(
    pq: "PictureQueue",
    action: Literal["retry", "cancel", "discard"],
    filter: dict[str, Any],
    matched: int,
) -> int:
    from rich.progress import Progress

    changed = idle_calls = 0
    with Progress(console=err(), transient=True) as progress:
        task = progress.add_task(action, total=matched)
        # A call that changes nothing has recorded failures; the next call takes other jobs.
        while idle_calls < 20:
            result = pq.jobs.change(action, limit=2000, **filter)
            changed += result.changed
            progress.update(task, completed=changed)
            if not result.more:
                break
            idle_calls = 0 if result.changed else idle_calls + 1
    return changed
