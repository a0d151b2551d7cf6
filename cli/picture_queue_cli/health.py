"""``picture-queue health``: the state of a project."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from picture_queue_cli.options import JsonFlag
from picture_queue_cli.project import connect
from picture_queue_cli.queues import queue_state
from picture_queue_cli.render import duration, one_line, out, plain, print_json, styled, table

if TYPE_CHECKING:
    from picture_queue import PictureQueue
    from picture_queue.records import Health, WorkerSeen

# Seconds without a call after which a worker counts as stopped. Workers send a heartbeat at least
# every 20 seconds.
_LATE_AFTER = 25.0
_EXPLAINED_JOBS = 100  # number of pending jobs, the newest ones, whose reasons are shown
# Reasons that need no warning, or that have their own warning.
_HIDDEN_REASONS = (
    "waiting_for_worker",
    "no_worker",
    "scheduled",
    "retry",
    "running",
    "finished",
    "unknown",
)


def health(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show queues, workers, and jobs that do not run."""
    with connect(ctx) as pq:
        project_health = pq.health()
        reasons = _count_reasons(pq)
    if as_json:
        print_json({**plain(project_health), "held": reasons})
    else:
        _show_health(project_health, reasons)


def _count_reasons(pq: "PictureQueue") -> list[dict[str, Any]]:
    """Return the reasons why pending jobs do not run, each with its number of jobs."""
    jobs = pq.jobs.list(status="pending", limit=_EXPLAINED_JOBS)
    queues = {job.id: job.queue for job in jobs}
    counts = Counter(
        (queues[explanation.job_id], explanation.reason, explanation.detail)
        for explanation in (pq.jobs.explain(list(queues)) if queues else [])
        if explanation.job_id in queues
        and (
            explanation.reason not in _HIDDEN_REASONS
            # The handler of the job has snoozed it and gave a reason.
            or (explanation.reason == "scheduled" and explanation.error)
        )
    )
    return [
        {"queue": queue, "reason": reason, "detail": detail, "jobs": count}
        for (queue, reason, detail), count in counts.most_common()
    ]


def _show_health(project_health: "Health", reasons: list[dict[str, Any]]) -> None:
    console = out()
    numbers = ("pending", "scheduled", "processing", "parked", "failed in 24 h", "workers")
    queues = table("queue", *numbers, "oldest", "", right=(*numbers, "oldest"))
    for queue in project_health.queues:
        queues.add_row(
            queue.queue,
            str(queue.pending),
            str(queue.scheduled),
            str(queue.processing),
            str(queue.parked),
            Text(str(queue.failed_last_day), style="red" if queue.failed_last_day else ""),
            str(queue.workers),
            duration(queue.oldest_pending_seconds) if queue.pending else "",
            queue_state(queue),
        )
    console.print(queues)
    if project_health.workers:
        workers = table("worker", "queues", "job types", "", "seen")
        for worker in project_health.workers:
            workers.add_row(
                worker.worker,
                ", ".join(worker.queues),
                ", ".join(worker.job_types),
                _worker_state(worker),
                f"{duration(worker.seen_seconds)} ago",
            )
        console.print()
        console.print(workers)
    for number, warning in enumerate(_warnings(project_health, reasons)):
        if number == 0:
            console.print()
        console.print(styled(one_line(f"! {warning}"), "yellow"), soft_wrap=True)


def is_late(worker: "WorkerSeen") -> bool:
    """Return whether a worker has not reported to the database for too long."""
    return worker.seen_seconds > _LATE_AFTER


def _worker_state(worker: "WorkerSeen") -> Text:
    if is_late(worker):
        running = f", holds {_jobs(worker.running)}" if worker.running else ""
        return Text(f"no contact for {worker.seen_seconds:.0f} s{running}", style="red")
    if worker.running:
        return Text(f"busy with {_jobs(worker.running)}", style="yellow")
    return Text("idle", style="green")


def _warnings(project_health: "Health", reasons: list[dict[str, Any]]) -> list[str]:
    warnings = [
        f"{_jobs(waiting.pending)} of type {waiting.job_type} in queue {waiting.queue}: "
        "no running worker has a handler for this type."
        for waiting in project_health.job_types_without_worker
    ]
    warnings += [
        f"{_jobs(group['jobs'])} in queue {group['queue']}, of the newest {_EXPLAINED_JOBS} "
        f"pending: {group['detail']}"
        for group in reasons
    ]
    if project_health.stuck:
        warnings.append(
            f"{_jobs(project_health.stuck)} processing for too long. See the view stuck_jobs."
        )
    if all(is_late(worker) for worker in project_health.workers):
        warnings.append("No worker is running. Start one: picture-queue worker")
    return warnings


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
