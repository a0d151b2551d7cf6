"""``picture-queue health`` and ``picture-queue models``: what a project has to offer."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from picture_queue_cli.project import connect
from picture_queue_cli.render import ago, duration, out, plain, print_json, table, talk
from picture_queue_cli.sharing import JsonFlag

if TYPE_CHECKING:
    from picture_queue import Health, Model


def health(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show queues, workers, and jobs that nobody will run."""
    with connect(ctx) as pq:
        found = pq.health()
    if as_json:
        print_json(plain(found))
    else:
        _show_health(found)


def _show_health(found: "Health") -> None:
    console = out()
    numbers = ("pending", "scheduled", "processing", "parked", "failed today", "workers")
    queues = table("queue", *numbers, "oldest", right=(*numbers, "oldest"))
    for row in found.queues:
        queues.add_row(
            row.queue,
            str(row.pending),
            str(row.scheduled),
            str(row.processing),
            str(row.parked),
            Text(str(row.failed_last_day), style="red" if row.failed_last_day else ""),
            str(row.workers),
            duration(row.oldest_pending_seconds) if row.pending else "",
        )
    console.print(queues)
    if found.workers:
        workers = table("worker", "queues", "job types", "", "seen")
        for worker in found.workers:
            workers.add_row(
                worker.worker,
                ", ".join(worker.queues),
                ", ".join(worker.job_types),
                Text("idle", style="green") if worker.idle else Text("busy", style="yellow"),
                ago(worker.seen_at),
            )
        console.print()
        console.print(workers)
    for number, warning in enumerate(_warnings(found)):
        if number == 0:
            console.print()
        console.print(Text(f"! {warning}", style="yellow"), soft_wrap=True)


def _warnings(found: "Health") -> list[str]:
    warnings = [
        f"{_jobs(waiting.pending)} of type {waiting.job_type} in queue {waiting.queue}: "
        "no running worker knows that type."
        for waiting in found.job_types_without_worker
    ]
    if found.stuck:
        warnings.append(
            f"{_jobs(found.stuck)} processing for too long; the view stuck_jobs has them."
        )
    if not found.workers:
        warnings.append("No worker is running. Start one: picture-queue worker")
    return warnings


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def models(
    ctx: typer.Context,
    model_id: Annotated[str | None, typer.Argument(help="Show the inputs of this model.")] = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """List the models on offer, or the inputs of one."""
    with connect(ctx) as pq:
        found = pq.models.list()
    if model_id is not None:
        _one_model(_named(found, model_id), as_json)
    elif as_json:
        print_json([plain(model) for model in found])
    else:
        shown = table("model", "kind", "seconds", "USD", right=("seconds", "USD"))
        for model in found:
            name = Text(model.model_id)
            if model.default:
                name.append("  default", style="green")
            shown.add_row(
                name, model.kind, _number(model.typical_seconds), _number(model.price_usd_per_image)
            )
        out().print(shown)


def _named(found: "list[Model]", model_id: str) -> "Model":
    from picture_queue import UnknownModel

    for model in found:
        if model.model_id == model_id:
            return model
    raise UnknownModel(
        "This project does not offer that model",
        detail=model_id,
        hint="See those it offers: picture-queue models",
    )


def _one_model(model: "Model", as_json: bool) -> None:
    if as_json:
        print_json(plain(model))
        return
    talk(f"{model.model_id}, {model.kind}")
    shown = table("input", "type", "default", "permitted")
    for rule in model.inputs:
        shown.add_row(
            rule["name"] + (" *" if rule.get("required") else ""),
            str(rule["type"]),
            "" if rule.get("default") is None else str(rule["default"]),
            _permitted(rule),
        )
    out().print(shown)


def _permitted(rule: dict[str, Any]) -> str:
    if rule.get("enum"):
        return ", ".join(str(value) for value in rule["enum"])
    low, high = rule.get("minimum"), rule.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"from {low}"
    return f"up to {high}" if high is not None else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
