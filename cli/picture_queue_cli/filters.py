"""Filters of jobs: check their values, and describe them in messages."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from picture_queue.errors import NotAllowed, NotAuthenticated, NotFound
from picture_queue_cli.project import read_all_pages
from picture_queue_cli.render import local_time

if TYPE_CHECKING:
    from picture_queue import PictureQueue

_FINISHED = ("completed", "failed", "cancelled")
# For each action: the states of the jobs that it changes, and its past participle.
_ACTIONS = {
    "cancel": (("pending", "processing"), "cancelled"),
    "retry": (("failed", "cancelled"), "retried"),
    "discard": (_FINISHED, "discarded"),
}
# The options whose name differs from the name of the filter field.
_OPTION_NAMES = {"job_type": "--type", "batch_id": "--batch"}


def expect_known(pq: "PictureQueue", filter: dict[str, Any]) -> None:
    """Check that the queue and the batch of a filter exist.

    Commands call this function if no job matches, since a misspelt name is the likely reason.

    Raises:
        QueueNotFound: There is no such queue.
        BatchNotFound: There is no such batch.
    """
    from picture_queue.errors import QueueNotFound

    with suppress(NotAllowed, NotAuthenticated):  # users have no permission to list queues
        if "batch_id" in filter:
            pq.batches.get(filter["batch_id"])
        queue = filter.get("queue")
        if queue is not None and queue not in {
            known.name for known in read_all_pages(pq.queues.list, "name")
        }:
            raise QueueNotFound(
                "No such queue",
                detail=f"--queue is {queue!r}",
                hint="See: picture-queue queues list",
            )


def describe_missing(pq: "PictureQueue", filter: dict[str, Any]) -> str:
    """Return a sentence that the filter's queue or batch does not exist; "" if both exist."""
    try:
        expect_known(pq, filter)
    except NotFound as error:
        return f" {error.message}."
    return ""


def expect_possible(action: str, filter: dict[str, Any]) -> None:
    """Check that an action can change jobs in the state of a filter.

    Raises:
        typer.BadParameter: The action cannot change jobs in this state.
    """
    states, participle = _ACTIONS[action]
    status = filter.get("status", states[0])
    if status not in states:
        raise typer.BadParameter(
            f"{status} jobs cannot be {participle}; use {_join_words(states)}",
            param_hint="--status",
        )
    if "hold" in filter and action != "cancel":
        raise typer.BadParameter(
            f"{filter['hold']} jobs have not finished, so they cannot be {participle}",
            param_hint="--hold",
        )


def _join_words(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def expect_failures(filter: dict[str, Any]) -> None:
    """Check that jobs in the state of a filter can have failed.

    Raises:
        typer.BadParameter: Jobs in this state have not failed.
    """
    if filter.get("status", "failed") not in ("failed", "cancelled"):
        raise typer.BadParameter(
            f"{filter['status']} jobs have not failed; use failed or cancelled",
            param_hint="--status",
        )


def describe_no_match(filter: dict[str, Any], action: str | None = None) -> str:
    """Return a sentence that no job matches a filter, with the options of the filter.

    Args:
        filter: The filter.
        action: The action for which jobs were selected. If the filter has no status, the sentence
            has the states of the jobs that the action can change.
    """
    states = ""
    if action is not None and "status" not in filter:
        states = "failed " if action == "retry" else f"{_join_words(_ACTIONS[action][0])} "
    options = [
        f"{_OPTION_NAMES.get(name) or '--' + name.replace('_', '-')} {_format_value(value)}"
        for name, value in filter.items()
        if name != "job_ids"
    ]
    if not options:
        return f"There is no {states}job."
    return f"No {states}job matches {' and '.join(options)}."


def _format_value(value: Any) -> str:
    if isinstance(value, datetime):
        return local_time(value) or ""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return text if re.fullmatch(r"[\w.:-]+", text) else repr(text)
