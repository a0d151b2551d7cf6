"""Options that several commands have in common, written once."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from picture_queue_cli.reading import moment, read_object, seconds

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PreviewFlag = Annotated[bool, typer.Option("--preview", help="Change nothing, only count.")]


class Status(StrEnum):
    """The states, as choices of an option; the library's own would cost pydantic at each start."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Hold(StrEnum):
    """What can hold a job."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    WAITING = "waiting"
    PARKED = "parked"


class OnConflict(StrEnum):
    """What becomes of a job that is the same as one that is there."""

    IGNORE = "ignore"
    REPLACE = "replace"
    DEBOUNCE = "debounce"


class OnParentFailure(StrEnum):
    """What becomes of a job when one it waits for fails."""

    CANCEL = "cancel"
    FAIL = "fail"
    RUN = "run"


def _option(kind: Any, text: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=text)]


_FILTER: dict[str, Any] = {
    "queue": _option(str | None, "Of this queue only."),
    "status": _option(Status | None, "In this state only."),
    "hold": _option(Hold | None, "Held for this reason only."),
    "job_type": _option(str | None, "Of this job type only.", "--type"),
    "tag": _option(str | None, "With this tag."),
    "user_id": _option(UUID | None, "Of this user."),
    "tenant": _option(str | None, "On this tenant's account."),
    "batch_id": _option(UUID | None, "In this batch.", "--batch"),
    "error": _option(str | None, "With this text in the error."),
    "reason": _option(str | None, "Failed for this reason, as `jobs reasons` shows it."),
    "metadata": _option(str | None, "With this JSON object in the metadata."),
    "created_before": _option(str | None, "Enqueued before: 2030-01-31T08:00."),
    "created_after": _option(str | None, "Enqueued after."),
    "finished_before": _option(str | None, "Finished before."),
    "finished_after": _option(str | None, "Finished after."),
}
_JOB: dict[str, Any] = {
    "queue": _option(str | None, "Which queue; the job type's own."),
    "priority": _option(int, "Higher runs first."),
    "delay": _option(str | None, "Not before this time is over: 90s, 10m, 2h or 1d."),
    "max_attempts": _option(int | None, "Attempts before it fails; the job type's own."),
    "timeout": _option(str | None, "Longest run of one attempt: 90s, 10m."),
    "expires_in": _option(str | None, "Not to be started after: 10m, 2h."),
    "tag": _option(list[str], "A word to find it by; may be repeated."),
    "metadata": _option(str | None, "A JSON object that comes with it."),
    "tenant": _option(str | None, "On whose account it runs where tenants share a queue."),
    "limit_key": _option(list[str], "A key it runs under, such as model:flux; may be repeated."),
    "depends_on": _option(list[UUID], "A job that has to finish first; may be repeated."),
    "on_parent_failure": _option(
        OnParentFailure | None, "What becomes of it when one of those fails."
    ),
    "unique": _option(bool, "Not if there is an unfinished one with this payload."),
    "unique_by": _option(list[str], "Compare only this key of the payload; may be repeated."),
    "on_conflict": _option(OnConflict, "What becomes of one that is not unique."),
    "user_id": _option(UUID | None, "Whose it is: that user may read, watch and cancel it."),
}
_DEFAULTS: dict[str, Any] = {"priority": 0, "unique": False, "on_conflict": OnConflict.IGNORE}


def filtering(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of a `JobFilter`; it gets them as ``filter``."""
    return _sharing(command, "filter", _FILTER, _as_filter)


def describing(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the `JobOptions`; it gets them as ``options``."""
    return _sharing(command, "options", _JOB, _as_options)


def _sharing(
    command: Callable[..., None],
    name: str,
    shared: dict[str, Any],
    value: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., None]:
    """Puts options in the place of one parameter; typer reads them off the signature."""

    def outer(**given: Any) -> None:
        command(**{name: value({key: given.pop(key) for key in shared})}, **given)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != name]
    options = [
        inspect.Parameter(
            key,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=kind,
            default=[] if kind.__origin__ in (list[str], list[UUID]) else _DEFAULTS.get(key),
        )
        for key, kind in shared.items()
    ]
    first = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    last = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    made = inspect.Signature([*first, *options, *last])
    outer.__dict__["__signature__"] = made
    outer.__annotations__ = {p.name: p.annotation for p in made.parameters.values()}
    outer.__name__, outer.__doc__ = command.__name__, command.__doc__
    return outer


def _as_filter(given: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in given.items() if value is not None}
    for name in ("created_before", "created_after", "finished_before", "finished_after"):
        if name in said:
            said[name] = moment(said[name], "--" + name.replace("_", "-"))
    if "metadata" in said:
        said["metadata"] = read_object(said["metadata"], "metadata")
    return {k: v.value if isinstance(v, StrEnum) else v for k, v in said.items()}


def _as_options(given: dict[str, Any]) -> dict[str, Any]:
    from picture_queue import Unique

    by, on_conflict = given.pop("unique_by"), given.pop("on_conflict")
    wants_unique = given.pop("unique") or by or on_conflict is not OnConflict.IGNORE
    said = {
        **given,
        "delay": seconds(given["delay"], "--delay"),
        "timeout": seconds(given["timeout"], "--timeout"),
        "expires_in": seconds(given["expires_in"], "--expires-in"),
        "tags": given.pop("tag"),
        "limit_keys": given.pop("limit_key"),
        "metadata": read_object(given["metadata"], "metadata") if given["metadata"] else None,
        "unique": Unique(by=by or None, on_conflict=on_conflict.value) if wants_unique else None,
    }
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in said.items()
        if name not in ("tag", "limit_key") and value not in (None, [])
    }
