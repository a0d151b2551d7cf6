"""Descriptions of models, their inputs and the rules of the project."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picture_queue.records import Model


def describe_state(model: "Model") -> tuple[str, str]:
    """Return the state of a model and its style; empty texts for an enabled model."""
    if model.unavailable_reason is not None:
        return "  not offered", "yellow"
    if not model.enabled:
        return "  disabled", "yellow"
    return ("  default", "green") if model.default else ("", "")


def describe_model(model: "Model") -> list[str]:
    """Return the lines about a model above the table of its inputs."""
    lines = [f"{model.model_id}, {', '.join((model.kind, *model.also_kinds))}"]
    if model.unavailable_reason is not None:
        lines.append(f"Not offered: {model.unavailable_reason}")
    elif not model.enabled:
        lines.append("Disabled")
    lines.append(f"Provider {model.provider}: {_describe_capabilities(model)}")
    output = {"uri": "one picture", "uri[]": "a list of pictures"}.get(model.output or "")
    lines.append(f"Output: {output or 'not known'}")
    price = model.price_usd_per_image
    lines.append("Price: " + ("not known" if price is None else f"{price:g} USD a picture"))
    if model.typical_seconds is not None:
        lines.append(f"Typical run time: {model.typical_seconds:g} s")
    if not model.inputs_complete:
        lines.append("The list of inputs may be incomplete; other inputs are sent unchecked")
    return lines


def describe_rules(rules: dict[str, Any], maximum: float | None) -> str:
    """Return the rules of the project for an input in words, unless the model is stricter."""
    parts = []
    if rules.get("refuse") is True:
        parts.append("refused")
    elif rules.get("refuse"):
        parts.append("not " + ", ".join(str(value) for value in rules["refuse"]))
    if "lock" in rules:
        parts.append(f"always {_format_value(rules['lock'])}")
    if "cap" in rules and (maximum is None or rules["cap"] < maximum):
        parts.append(f"at most {_format_value(rules['cap'])}")
    if "default" in rules:
        parts.append(f"default {_format_value(rules['default'])}")
    return ", ".join(parts)


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe_capabilities(model: "Model") -> str:
    """Return a text about the capabilities that the provider of a model lacks."""
    capabilities = model.capabilities
    if capabilities is None:
        return "no worker with this provider has registered yet"
    missing = [
        text
        for is_possible, text in (
            (capabilities.webhook, "no webhooks"),
            (capabilities.cancel, "a running picture cannot be cancelled"),
            (capabilities.progress, "no progress"),
            (capabilities.recover != "id", "a worker that crashes at the start may pay twice"),
            (
                capabilities.recover != "none",
                "after a crash of the worker the picture is made again",
            ),
        )
        if not is_possible
    ]
    return "; ".join(missing) or "has all capabilities"


def describe_permitted(entry: dict[str, Any]) -> str:
    """Return the values that a model permits for an input."""
    if entry.get("enum"):
        return ", ".join(str(value) for value in entry["enum"])
    minimum, maximum = entry.get("minimum"), entry.get("maximum")
    if minimum is not None and maximum is not None:
        return f"{minimum} to {maximum}"
    if minimum is not None:
        return f"from {minimum}"
    return f"up to {maximum}" if maximum is not None else ""


def format_number(value: float | None) -> str:
    """Return a number as the text of a table cell; empty for None."""
    return "" if value is None else f"{value:g}"
