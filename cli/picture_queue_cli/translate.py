"""Replace names of SQL in errors by names of the command line.

Errors of the project and the library name parameters and functions of SQL, such as
``options.timeout_seconds`` and ``list_queues()``. Users type ``--timeout`` and
``picture-queue queues list``.
"""

import re
from collections.abc import Iterable
from typing import Any

from picture_queue import errors

_FUNCTION = re.compile(r"\b([a-z]+(?:_[a-z]+)+)\(\)")
# The command for each SQL function that a hint may name.
COMMANDS = {
    "cancel_generation": "jobs cancel",
    "cancel_generation_batch": "generations batches cancel",
    "cancel_job": "jobs cancel",
    "change_jobs": "jobs retry",
    "claim_jobs": "worker",
    "delete_generation": "generations delete",
    "delete_budget": "budgets delete",
    "delete_input_rule": "rules delete",
    "delete_limit": "limits delete",
    "desired_workers": "queues workers",
    "drain_queue": "queues drain",
    "enqueue_batch": "batches enqueue",
    "enqueue_job": "enqueue",
    "get_account": "accounts show",
    "get_job": "jobs show",
    "get_settings": "settings show",
    "list_generations": "generations list",
    "list_input_rules": "rules list",
    "grant_credits": "accounts grant",
    "list_accounts": "accounts list",
    "list_budgets": "budgets list",
    "list_jobs": "jobs list",
    "list_ledger": "accounts ledger",
    "list_limits": "limits list",
    "list_models": "models",
    "list_queues": "queues list",
    "list_schedules": "schedules list",
    "list_tenants": "tenants list",
    "maintain_jobs": "maintain",
    "pause_key": "limits pause",
    "pause_queue": "queues pause",
    "queue_counts": "queues list",
    "queue_doctor": "doctor",
    "queue_status": "health",
    "resume_key": "limits resume",
    "resume_queue": "queues resume",
    "retry_job": "jobs retry",
    "set_favourite": "generations favourite",
    "set_account": "accounts set",
    "set_budget": "budgets set",
    "set_input_rule": "rules set",
    "set_limit": "limits set",
    "set_model": "models add",
    "set_queue": "queues set",
    "set_setting": "settings set",
    "set_tenant": "tenants set",
    "start_generation": "generate",
    "start_generations": "generate",
}
# The field at the start of an error detail: "jobs[3]: options.timeout_seconds" in
# "jobs[3]: options.timeout_seconds is 0".
_FIELD = re.compile(
    r"(?:jobs\[(?P<item>\d+)\]: )?(?:(?P<part>callback): )?"
    r"(?P<path>[a-z_]+(?:\.[a-z_]+)*) (?=is\b|has\b|are\b)"
)
# The request and the step of a batch of generations, at the start of an error detail.
_REQUEST = re.compile(
    r"(?:requests\[(?P<item>\d+)\](?:\.|: )?)?(?:(?:options\.)?then\[(?P<step>\d+)\](?:\.|: )?)?"
)
_PREFIXES = ("options.", "filter.", "unique.")
# For each parameter of SQL, the Python names that its command-line parameter can have.
_PARAMETERS = {
    "batch_id": ("batch_id",),
    "by": ("unique_by",),
    "delay_seconds": ("delay",),
    "every_seconds": ("every",),
    "expires_in_seconds": ("expires_in",),
    "favourite": ("favourites",),
    "job_id": ("job_id", "job_ids", "target_id"),
    "generation_id": ("target_id", "generation_id"),
    "lease_seconds": ("lease",),
    "limit_keys": ("limit_key",),
    "max_workers": ("max_workers",),
    "min_workers": ("min_workers",),
    "model_id": ("model",),
    "period_seconds": ("rate",),
    "queues": ("queues",),
    "resume_at": ("at",),
    "scheduled_for": ("at",),
    "tags": ("tag",),
    "timeout_seconds": ("timeout",),
    "worker": ("name",),
}
_NAME = "Begin with a letter or digit; use at most {} letters, digits and {}"
# The hint for each field whose error names the value, but not the rule.
_NAME_HINTS = {
    "job_type": _NAME.format(128, "_ . - :"),
    "key": "Use 1 to 200 characters without control characters",
    "name": _NAME.format(128, "_ . - :"),
    "queue": _NAME.format(63, "_ . -"),
    "queues": _NAME.format(63, "_ . -"),
}
# A detail that ends with the value; the database truncates a long value.
_VALUE_ONLY = re.compile(
    r""" (?:is|has) (?:"(?:[^"\\]|\\.)*(?:\\|")?|'(?:[^']|'')*'?)$""", re.DOTALL
)


def label(parameter: Any) -> str:
    """Return the name of a parameter in the help: ``--timeout``, or ``JOB_ID`` for an argument."""
    name = str(max(parameter.opts, key=len))
    if name.startswith("-"):
        return name
    return str(parameter.metavar or parameter.name).upper()


def translate_error(error: errors.PictureQueueError, ctx: Any) -> None:
    """Replace names of SQL in an error by options, arguments and commands.

    Args:
        error: The error; it is changed.
        ctx: The context of the command that raised it.
    """
    if isinstance(error, errors.UnreadableAnswer):
        error.message = "This version cannot read the project's answer"
        error.detail, error.hint = None, "See: picture-queue doctor"
    elif isinstance(error, errors.VersionMismatch):
        error.detail = None  # a text of the API, with names of SQL functions
    elif isinstance(error, errors.SettingsError):
        error.message = _replace_setting(error.message, ctx)
    else:
        _translate_fields(error, ctx)
    names = _typed_addresses(ctx)
    error.message = _replace(error.message, names)
    error.detail = _replace(error.detail, names) if error.detail else None
    error.hint = _replace(_replace_functions(error.hint), names) if error.hint else None


def name_typed_options(text: str, ctx: Any) -> str:
    """Return a text with the options that the user typed, instead of their environment variables.

    Args:
        text: The text.
        ctx: The context of the command.
    """
    return _replace(text, _typed_addresses(ctx))


def _translate_fields(error: errors.PictureQueueError, ctx: Any) -> None:
    request, detail = _split_request(error.detail or "", ctx.params)
    if request:
        error.detail = request + detail
    match = _FIELD.match(detail)
    if match is None or match["path"] == "it":
        return
    field = _translate_field(match["path"], ctx.command.params, match["part"])
    position = f"Item {int(match['item']) + 1} of the list: " if _is_batch(ctx, match) else ""
    error.detail = f"{request}{position}{field} {detail[match.end() :]}"
    if error.code in ("PQ_INVALID_ARGUMENT", "PQ_INVALID_INPUT"):
        error.hint = _specific_hint(error.detail, error.hint, match["path"])
        # The first letter of a message is printed as a capital. A lowercase name of a setting must
        # keep its case, so it stays in the detail.
        if field.isalpha() and field.islower():
            error.message = "Refused"
        else:
            error.message, error.detail = error.detail, None


def _split_request(detail: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Return the prompt and the step that a detail of ``generate`` names, and its rest."""
    match = _REQUEST.match(detail)
    if match is None or "prompts" not in arguments:
        return "", detail
    steps = arguments.get("then")
    request = ""
    if match["item"] is not None and arguments.get("prompts"):
        # The requests of a prompt differ only in their seeds.
        request = f"Prompt {int(match['item']) // arguments.get('count', 1) + 1}: "
    if match["step"] is not None and steps:
        request += f"--then {steps[int(match['step'])]}: "
    return request, detail[match.end() :]


def _is_batch(ctx: Any, match: re.Match[str]) -> bool:
    """Return whether a field belongs to a job of the argument JOBS, whose items have numbers."""
    has_jobs = any(parameter.name == "jobs" for parameter in ctx.command.params)
    return match["item"] is not None and has_jobs


def _translate_field(path: str, parameters: Iterable[Any], part: str | None) -> str:
    """Return the name of a field on the command line."""
    if part is not None:
        return f"--{part}: {path}"
    if path.startswith("input."):
        return f"--input {path.removeprefix('input.')}"
    known = {parameter.name: parameter for parameter in parameters}
    name = path
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for option in _PARAMETERS.get(name, (name,)):
        if option in known:
            return label(known[option])
    return path


def _specific_hint(detail: str, hint: str | None, path: str) -> str | None:
    """Return the hint for a field; None if the hint is about another field or repeats the detail.

    The database has one hint for all faults of some functions.
    """
    text = (hint or "").lower()
    if path in _NAME_HINTS and _VALUE_ONLY.search(detail) and "event_id" not in text:
        return _NAME_HINTS[path]
    if text.startswith(("names consist of ", "pass cron ")):
        return None
    if text.startswith("pause_key() "):
        return hint if " or more" in detail else None
    if text.startswith("known fields are "):
        return hint if "is not known" in detail else None
    if text.startswith("inputs of ") and not path.startswith("input."):
        return None
    return None if text.startswith("docs/") else hint


def _replace_functions(text: str) -> str:
    return _FUNCTION.sub(
        lambda match: f"`picture-queue {COMMANDS[match[1]]}`" if match[1] in COMMANDS else match[0],
        text,
    )


def _replace_setting(text: str, ctx: Any) -> str:
    """Replace the setting at the start of a message, such as "`lease` is 0", by its option."""
    name, verb, rest = text.partition(" is ")
    name = name.strip("`")
    known = {parameter.name: parameter for parameter in ctx.command.params}
    return f"{label(known[name])}{verb}{rest}" if name in known else text


def _typed_addresses(ctx: Any) -> dict[str, str]:
    """Return the option for each environment variable in error texts, if the user typed it."""
    root = ctx.find_root()
    options = {"db_url": ctx.params.get("db_url"), "url": root.params.get("url")}
    sources = {"db_url": ctx, "url": root}
    typed = {
        name
        for name, value in options.items()
        if value and getattr(sources[name].get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    names = {}
    if "db_url" in typed:
        names["PICTURE_QUEUE_DATABASE_URL (or --db-url)"] = "--db-url"
        names["PICTURE_QUEUE_DATABASE_URL"] = "--db-url"
    if "url" in typed:
        names["SUPABASE_URL"] = "--url"
    return names


def _replace(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
