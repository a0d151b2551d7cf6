"""Options that several commands share, and the confirmation prompt."""

import inspect
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from picture_queue._visible import escape_invisible
from picture_queue_cli.parsing import (
    choice,
    expect_filled,
    parse_duration,
    parse_time,
    parse_uuid,
    read_object,
    whole_number,
)
from picture_queue_cli.render import err

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
PreviewFlag = Annotated[bool, typer.Option("--preview", help="Count the jobs, change nothing.")]


# Copies of the library's enumerations, whose import would also import pydantic and slow down the
# start of every command.
STATUSES = ("pending", "processing", "completed", "failed", "cancelled")
HOLDS = ("scheduled", "blocked", "waiting", "parked")

# The largest value of Postgres's type `integer`.
MAX_INTEGER = 2_147_483_647


def _option(
    type_: Any, help_text: str, *names: str, metavar: str | None = None, **settings: Any
) -> Any:
    """Return the annotation of a parameter that is an option."""
    return Annotated[type_, typer.Option(*names, help=help_text, metavar=metavar, **settings)]


def text_option(help_text: str, *names: str, type_: Any = str | None, metavar: str = "TEXT") -> Any:
    """Return an option that takes text that is not blank; with ``list[str]`` it is repeatable."""
    return _option(type_, help_text, *names, metavar=metavar, callback=expect_filled)


def id_option(help_text: str, *names: str, type_: Any = UUID | None) -> Any:
    """Return an option that takes an id; with ``list[UUID]`` it is repeatable."""
    return _option(type_, help_text, *names, metavar="ID", parser=parse_uuid)


def duration_option(help_text: str, *names: str) -> Any:
    """Return an option that takes a duration such as 90s or 10m."""
    return _option(float | None, help_text, *names, metavar="DURATION", parser=parse_duration)


def time_option(help_text: str, *names: str) -> Any:
    """Return an option that takes a time such as 2030-01-31T08:00."""
    return _option(datetime | None, help_text, *names, metavar="TIME", parser=parse_time)


def number_option(help_text: str, *names: str, minimum: int, maximum: int, type_: Any = int) -> Any:
    """Return an option that takes a whole number within bounds."""
    parser = whole_number(minimum, maximum)
    return _option(type_, help_text, *names, metavar="NUMBER", parser=parser)


def choice_option(
    help_text: str, *names: str, values: Sequence[str], type_: Any = str | None
) -> Any:
    """Return an option that takes one of several values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return _option(
        type_,
        help_text,
        *names,
        metavar="|".join(values),
        parser=choice(*values),
        autocompletion=complete,
    )


_FILTER_OPTIONS: dict[str, Any] = {
    "queue": text_option("Select jobs of this queue.", metavar="QUEUE"),
    "status": choice_option("Select jobs with this status.", values=STATUSES),
    "hold": choice_option("Select jobs held for this reason.", values=HOLDS),
    "job_type": text_option("Select jobs of this type.", "--type"),
    "tag": text_option("Select jobs with this tag."),
    "user_id": id_option("Select jobs of this user."),
    "tenant": text_option("Select jobs of this tenant."),
    "batch_id": id_option("Select jobs of this batch.", "--batch"),
    "error": text_option("Select jobs with this text in their error."),
    "reason": text_option("Select jobs with this reason from `jobs reasons`."),
    "metadata": _option(
        str | None, "Select jobs whose metadata has this JSON object.", metavar="JSON"
    ),
    "created_before": time_option("Select jobs enqueued before 2030-01-31T08:00."),
    "created_after": time_option("Select jobs enqueued after this time."),
    "finished_before": time_option("Select jobs finished before this time."),
    "finished_after": time_option("Select jobs finished after this time."),
}
_JOB_OPTIONS: dict[str, Any] = {
    "queue": text_option("Use this queue instead of the job type's.", metavar="QUEUE"),
    "priority": number_option(
        "Run before jobs of a lower priority.", minimum=-1_000_000_000, maximum=1_000_000_000
    ),
    "delay": duration_option("Start after this delay: 90s, 10m, 2h or 1d."),
    "max_attempts": number_option(
        "Fail after this many attempts.", minimum=1, maximum=1000, type_=int | None
    ),
    "timeout": duration_option("Stop an attempt after this time: 90s, 10m."),
    "expires_in": duration_option("Fail if not started within this time: 10m, 2h."),
    "tag": text_option("Add a tag to find the job by; repeatable.", type_=list[str]),
    "metadata": _option(str | None, "Attach a JSON object.", metavar="JSON"),
    "tenant": text_option("Set the tenant of the job for fair sharing."),
    "limit_key": text_option(
        "Apply the limit of this key: model:flux; repeatable.", type_=list[str], metavar="KEY"
    ),
    "depends_on": id_option("Wait for this job to finish; repeatable.", type_=list[UUID]),
    "on_parent_failure": choice_option(
        "Choose what to do if a parent job fails.", values=("cancel", "fail", "run")
    ),
    "unique": _option(bool, "Enqueue nothing if an equal job has not finished."),
    "unique_by": text_option(
        "Compare only this key of the payload; repeatable.", type_=list[str], metavar="KEY"
    ),
    "on_conflict": choice_option(
        "Choose what to do if an equal job exists.",
        values=("ignore", "replace", "debounce"),
        type_=str,
    ),
    "user_id": id_option("Make this user the owner of the job."),
}
_DEFAULTS: dict[str, Any] = {"priority": 0, "unique": False, "on_conflict": "ignore"}


def expect_terminal(action: str) -> None:
    """Check that standard input is a terminal, on which a question can be answered.

    Raises:
        typer.BadParameter: Standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            f"{action} needs a terminal; pass --yes to confirm", param_hint="--yes"
        )


def confirm(question: str) -> None:
    """Ask the user to confirm.

    Raises:
        typer.Abort: The answer is no.
        typer.BadParameter: The input is not a terminal and has ended.
    """
    try:
        agreed = typer.confirm(escape_invisible(question), err=True)
    except typer.Abort:  # raised at the end of the input and by Ctrl-C
        err().print()
        expect_terminal("the question")
        raise
    if not agreed:
        raise typer.Abort


def with_filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a `JobFilter` to a command, which receives them as ``filter``."""
    return _with_options(command, "filter", _FILTER_OPTIONS, _build_filter)


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a new job to a command, which receives them as ``options``."""
    return _with_options(command, "options", _JOB_OPTIONS, _build_job_options)


def with_schedule_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the jobs of a schedule to a command, which receives them as ``options``.

    Parents are left out: the database refuses them in a schedule.
    """
    options = {
        option: annotation
        for option, annotation in _JOB_OPTIONS.items()
        if option not in ("depends_on", "on_parent_failure")
    }
    return _with_options(command, "options", options, _build_job_options)


def _with_options(
    command: Callable[..., None],
    name: str,
    options: dict[str, Any],
    build: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[..., None]:
    """Return a command that has several options in place of one parameter.

    Typer reads the options from the signature of a function, so the returned function gets a
    signature with them.

    Args:
        command: The command.
        name: The name of the parameter.
        options: The annotation of each option.
        build: Function that converts the values of the options into the value of the parameter.
    """

    def wrapper(**values: Any) -> None:
        command(**{name: build({option: values.pop(option) for option in options})}, **values)

    parameters = [p for p in inspect.signature(command).parameters.values() if p.name != name]
    added = [
        inspect.Parameter(
            option,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=annotation,
            default=[]
            if annotation.__origin__ in (list[str], list[UUID])
            else _DEFAULTS.get(option),
        )
        for option, annotation in options.items()
    ]
    positional = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keyword_only = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    signature = inspect.Signature([*positional, *added, *keyword_only])
    wrapper.__dict__["__signature__"] = signature
    wrapper.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    return wrapper


def _build_filter(values: dict[str, Any]) -> dict[str, Any]:
    filter = {name: value for name, value in values.items() if value is not None}
    if "metadata" in filter:
        filter["metadata"] = read_object(filter["metadata"], "--metadata")
    return filter


def _build_job_options(values: dict[str, Any]) -> dict[str, Any]:
    from picture_queue import Unique

    by, on_conflict = values.pop("unique_by"), values.pop("on_conflict")
    wants_unique = values.pop("unique") or by or on_conflict != "ignore"
    metadata = values.pop("metadata")
    options = {
        **values,
        "tags": values.pop("tag"),
        "limit_keys": values.pop("limit_key"),
        "metadata": None if metadata is None else read_object(metadata, "--metadata"),
        "unique": Unique(by=by or None, on_conflict=on_conflict) if wants_unique else None,
    }
    return {
        name: value
        for name, value in options.items()
        if name not in ("tag", "limit_key") and value not in (None, [])
    }
