"""``picture-queue models``: the models of a project and their inputs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled
from picture_queue_cli.project import connect
from picture_queue_cli.render import info, one_line, out, plain, print_json, styled, table

if TYPE_CHECKING:
    from picture_queue.records import Model


def models(
    ctx: typer.Context,
    model_id: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", callback=expect_filled, help="Show the inputs of this model."
        ),
    ] = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """List the models, or the inputs of one."""
    with connect(ctx) as pq:
        found = pq.models.list()
    if model_id is not None:
        _show_model(_find_model(found, model_id), as_json)
    elif as_json:
        print_json([plain(model) for model in found])
    else:
        shown = table("model", "kind", "seconds", "USD", right=("seconds", "USD"))
        for model in found:
            name = styled(one_line(model.model_id))
            if model.default:
                name.append("  default", style="green")
            shown.add_row(
                name, model.kind, _number(model.typical_seconds), _number(model.price_usd_per_image)
            )
        out().print(shown)


def _find_model(found: "list[Model]", model_id: str) -> "Model":
    from picture_queue.errors import UnknownModel

    for model in found:
        if model.model_id == model_id:
            return model
    raise UnknownModel(
        "This project does not offer that model",
        detail=f"MODEL is {model_id!r}",
        hint="See: picture-queue models",
    )


def _show_model(model: "Model", as_json: bool) -> None:
    if as_json:
        print_json(plain(model))
        return
    info(one_line(f"{model.model_id}, {model.kind}"))
    info(one_line(f"provider {model.provider}: {_describe_capabilities(model)}"))
    shown = table("input", "type", "default", "permitted")
    for rule in model.inputs:
        shown.add_row(
            rule["name"] + (" *" if rule.get("required") else ""),
            str(rule["type"]),
            "" if rule.get("default") is None else str(rule["default"]),
            _permitted(rule),
        )
    out().print(shown)


def _describe_capabilities(model: "Model") -> str:
    """Return what the provider of a model cannot promise."""
    found = model.capabilities
    if found is None:
        return "no worker with it has registered yet"
    missing = [
        text
        for is_possible, text in (
            (found.webhook, "no webhooks"),
            (found.cancel, "a running picture cannot be cancelled"),
            (found.progress, "no progress"),
            (found.recover != "id", "a worker that crashes at the start may pay twice"),
            (found.recover != "none", "after a crash of the worker the picture is made again"),
        )
        if not is_possible
    ]
    return "; ".join(missing) or "all that a provider can do"


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
