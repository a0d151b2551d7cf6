"""Options and questions that several commands share."""

import inspect
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from picture_queue._visible import visible
from picture_queue_cli.parsing import moment, read_object, seconds
from picture_queue_cli.render import err

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
PreviewFlag = Annotated[bool, typer.Option("--preview", help="Count the jobs, change nothing.")]


class Status(StrEnum):
    """The states, as choices of an option; the library's own would cost pydantic at each start."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Hold(StrEnum):
    """The reasons that hold a job."""

    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    WAITING = "waiting"
    PARKED = "parked"


class OnConflict(StrEnum):
    """The ways to treat a job that is the same as an unfinished one."""

    IGNORE = "ignore"
    REPLACE = "replace"
    DEBOUNCE = "debounce"


class OnParentFailure(StrEnum):
    """The ways to treat a job when one that it depends on fails."""

    CANCEL = "cancel"
    FAIL = "fail"
    RUN = "run"


def _option(kind: Any, text: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=text)]


_FILTER: dict[str, Any] = {
    "queue": _option(str | None, "Select jobs of this queue."),
    "status": _option(Status | None, "Select jobs with this status."),
    "hold": _option(Hold | None, "Select jobs held for this reason."),
    "job_type": _option(str | None, "Select jobs of this type.", "--type"),
    "tag": _option(str | None, "Select jobs with this tag."),
    "user_id": _option(UUID | None, "Select jobs of this user."),
    "tenant": _option(str | None, "Select jobs of this tenant."),
    "batch_id": _option(UUID | None, "Select jobs of this batch.", "--batch"),
    "error": _option(str | None, "Select jobs with this text in their error."),
    "reason": _option(str | None, "Select jobs that failed for a reason of `jobs reasons`."),
    "metadata": _option(str | None, "Select jobs whose metadata has this JSON object."),
    "created_before": _option(str | None, "Select jobs enqueued before 2030-01-31T08:00."),
    "created_after": _option(str | None, "Select jobs enqueued after this time."),
    "finished_before": _option(str | None, "Select jobs finished before this time."),
    "finished_after": _option(str | None, "Select jobs finished after this time."),
}
_JOB: dict[str, Any] = {
    "queue": _option(str | None, "Use this queue instead of the job type's."),
    "priority": _option(int, "Run before jobs of a lower priority."),
    "delay": _option(str | None, "Start after this delay: 90s, 10m, 2h or 1d."),
    "max_attempts": _option(int | None, "Fail after so many attempts."),
    "timeout": _option(str | None, "Stop an attempt after this time: 90s, 10m."),
    "expires_in": _option(str | None, "Do not start later than this: 10m, 2h."),
    "tag": _option(list[str], "Add a word to find the job by; repeatable."),
    "metadata": _option(str | None, "Attach a JSON object."),
    "tenant": _option(str | None, "Run it for this tenant of a shared queue."),
    "limit_key": _option(list[str], "Run it under a limit key: model:flux; repeatable."),
    "depends_on": _option(list[UUID], "Wait for this job to finish; repeatable."),
    "on_parent_failure": _option(OnParentFailure | None, "Choose what to do if such a job fails."),
    "unique": _option(bool, "Skip if an unfinished job has this payload."),
    "unique_by": _option(list[str], "Compare only this key of the payload; repeatable."),
    "on_conflict": _option(OnConflict, "Choose what to do if such a job exists."),
    "user_id": _option(UUID | None, "Let this user read, watch and cancel it."),
}
_DEFAULTS: dict[str, Any] = {"priority": 0, "unique": False, "on_conflict": OnConflict.IGNORE}


def confirm(question: str) -> None:
    """Ask a person whether to go on.

    Raises:
        typer.Abort: The answer is no.
        typer.BadParameter: Nobody can answer.
    """
    try:
        agreed = typer.confirm(visible(question), err=True)
    except typer.Abort:  # the end of the input, or Ctrl-C
        err().print()
        if sys.stdin.isatty():
            raise
        raise typer.BadParameter("nobody is here to answer", param_hint="--yes") from None
    if not agreed:
        raise typer.Abort


def filtering(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a `JobFilter`; it gets them as ``filter``."""
    return _sharing(command, "filter", _FILTER, _as_filter)


def describing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the `JobOptions`; it gets them as ``options``."""
    return _sharing(command, "options", _JOB, _as_options)


def _sharing(
    command: Callable[..., None],
    name: str,
    shared: dict[str, Any],
    value: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., None]:
    """Replace one parameter by options; typer reads them from the signature."""

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
        "metadata": None
        if given["metadata"] is None
        else read_object(given["metadata"], "metadata"),
        "unique": Unique(by=by or None, on_conflict=on_conflict.value) if wants_unique else None,
    }
    return {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in said.items()
        if name not in ("tag", "limit_key") and value not in (None, [])
    }
