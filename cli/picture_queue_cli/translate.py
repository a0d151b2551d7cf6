"""Errors in the words of the command line.

The project and the library name parameters and functions of SQL, as ``options.timeout_seconds`` and
``list_queues()``. People type ``--timeout`` and ``picture-queue queues list``.
"""

import re
from collections.abc import Iterable
from typing import Any

from picture_queue import errors

_FUNCTION = re.compile(r"\b([a-z]+(?:_[a-z]+)+)\(\)")
# The command for each SQL function that a hint may name.
COMMANDS = {
    "cancel_job": "jobs cancel",
    "change_jobs": "jobs retry",
    "claim_jobs": "worker",
    "delete_limit": "limits delete",
    "desired_workers": "queues workers",
    "drain_queue": "queues drain",
    "enqueue_batch": "batches enqueue",
    "enqueue_job": "enqueue",
    "get_job": "jobs show",
    "get_settings": "settings show",
    "list_jobs": "jobs list",
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
    "set_limit": "limits set",
    "set_queue": "queues set",
    "set_setting": "settings set",
    "set_tenant": "tenants set",
    "start_generation": "generate",
}
# "jobs[3]: options.timeout_seconds" before "is 0", "has 300 characters", "are both given".
_FIELD = re.compile(
    r"(?:jobs\[(?P<item>\d+)\]: )?(?:(?P<part>callback): )?"
    r"(?P<path>[a-z_]+(?:\.[a-z_]+)*) (?=is\b|has\b|are\b)"
)
_PREFIXES = ("options.", "filter.", "unique.")
# What a parameter of SQL is called here, where the names differ.
_PARAMETERS = {
    "batch_id": ("batch_id",),
    "by": ("unique_by",),
    "delay_seconds": ("delay",),
    "every_seconds": ("every",),
    "expires_in_seconds": ("expires_in",),
    "job_id": ("job_id", "job_ids", "some_id"),
    "generation_id": ("some_id",),
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
}
_NAME = "Use letters, digits and _ . -"


def label(parameter: Any) -> str:
    """Return a parameter as its user types it: ``--timeout``, or ``JOB_ID`` for an argument."""
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
        error.message = "The project's answer is not of the form that this version reads"
        error.detail, error.hint = None, "See: picture-queue doctor"
    elif isinstance(error, errors.VersionMismatch):
        error.detail = None  # the text of the API, which names functions
    elif isinstance(error, errors.SettingsError):
        error.message = _with_option(error.message, ctx)
    else:
        _translate_fields(error, ctx)
    given = _addresses(ctx)
    error.message = _replace(error.message, given)
    error.detail = _replace(error.detail, given) if error.detail else None
    error.hint = _replace(_with_commands(error.hint), given) if error.hint else None


def _translate_fields(error: errors.PictureQueueError, ctx: Any) -> None:
    detail = error.detail or ""
    found = _FIELD.match(detail)
    if found is None or found["path"] == "it":
        return
    named = _named(found["path"], ctx.command.params, found["part"])
    place = f"Item {int(found['item']) + 1} of the list: " if _is_batch(ctx, found) else ""
    error.detail = f"{place}{named} {detail[found.end() :]}"
    if error.code in ("PQ_INVALID_ARGUMENT", "PQ_INVALID_INPUT"):
        error.hint = _hint(error.detail, error.hint, found["path"])
        if named.isalpha() and named.islower():  # a setting; it would get a capital letter
            error.message = "Refused"
        else:
            error.message, error.detail = error.detail, None


def _is_batch(ctx: Any, found: re.Match[str]) -> bool:
    return found["item"] is not None and any(p.name == "jobs" for p in ctx.command.params)


def _named(path: str, parameters: Iterable[Any], part: str | None) -> str:
    """Return how the command line names a field."""
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


def _hint(detail: str, hint: str | None, path: str) -> str | None:
    """Return the hint, unless it is the one for everything and the detail says what is right."""
    text = (hint or "").lower()
    if text.startswith("names are "):
        if re.search(r' (is|has) "[^"]*"$', detail):
            return f"{_NAME} :" if path == "job_type" else _NAME
        return None
    if text.startswith("known are "):
        return hint if "is not known" in detail else None
    if text.startswith("inputs of ") and not path.startswith("input."):
        return None
    return None if text.startswith("docs/") else hint


def _with_commands(text: str) -> str:
    return _FUNCTION.sub(
        lambda found: f"`picture-queue {COMMANDS[found[1]]}`" if found[1] in COMMANDS else found[0],
        text,
    )


def _with_option(text: str, ctx: Any) -> str:
    """Replace the name of a setting at the begin of a message, such as "`lease` is 0"."""
    name, verb, rest = text.partition(" is ")
    name = name.strip("`")
    known = {parameter.name: parameter for parameter in ctx.command.params}
    return f"{label(known[name])}{verb}{rest}" if name in known else text


def _addresses(ctx: Any) -> dict[str, str]:
    """Return the options that were given in the place of variables."""
    root = ctx.find_root()
    options = {"db_url": ctx.params.get("db_url"), "url": root.params.get("url")}
    sources = {"db_url": ctx, "url": root}
    typed = {
        name
        for name, value in options.items()
        if value and getattr(sources[name].get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    found = {}
    if "db_url" in typed:
        found["PICTURE_QUEUE_DATABASE_URL (or --db-url)"] = "--db-url"
        found["PICTURE_QUEUE_DATABASE_URL"] = "--db-url"
    if "url" in typed:
        found["SUPABASE_URL"] = "--url"
    return found


def _replace(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text
