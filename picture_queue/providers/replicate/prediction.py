"""The prediction object as Replicate sends it, and what can be read out of it."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
"""States a prediction never leaves. ``aborted`` (ended before it ever started) came in October 2025
(https://replicate.com/changelog); any state not named here counts as still running."""


_LONGEST_TEXT = 8192  # characters of an error, as many as the database keeps
_MOST_METRICS = 50


def _text(value: object) -> object:
    try:
        return value if value is None else _storable(str(value))
    except RecursionError:
        return "The error is nested too deeply to be shown"


def _storable(text: str) -> str:
    """Return text that a database can store, and not more of it."""
    text = text[:_LONGEST_TEXT].replace("\0", "\ufffd")
    return text.encode(errors="replace").decode()


def _metrics(value: object) -> object:
    """Return the metrics that can be stored: whatever is odd must not cost the picture."""
    if not isinstance(value, dict):
        return {}
    return {
        _storable(name[:100]): _storable(kept[:200]) if isinstance(kept, str) else kept
        for name, kept in list(value.items())[:_MOST_METRICS]
        if isinstance(kept, str | bool) or (isinstance(kept, int | float) and abs(kept) < 1e15)
    }


def _or(empty: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: empty if value is None else value)


class Prediction(BaseModel):
    """One prediction. Unknown fields and unknown states are let through.

    Its repr leaves out what can hold the prompt.

    Attributes:
        id: Replicate's id, text.
        model: ``owner/name``.
        version: Hash, or ``hidden`` for official models.
        status: See ``TERMINAL``.
        input: What was asked; emptied one hour after completion.
        output: Any JSON, None until there is some and again once it is deleted.
        error: Text, when it failed; what no database can store is replaced.
        logs: One growing string. It can contain the prompt.
        metrics: ``predict_time`` and ``total_time`` in seconds, and other numbers and texts.
        deadline: When Replicate stops it, if it was created with ``Cancel-After``.
        data_removed: The output is gone.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1, max_length=200)
    status: str = Field(max_length=200)
    created_at: datetime
    model: str = ""
    version: str | None = None
    input: Annotated[dict[str, Any], _or({})] = Field(default={}, repr=False)
    output: Any = None
    error: Annotated[str | None, BeforeValidator(_text)] = None
    logs: Annotated[str, _or("")] = Field(default="", repr=False)
    metrics: Annotated[dict[str, Any], BeforeValidator(_metrics)] = {}
    started_at: datetime | None = None
    completed_at: datetime | None = None
    deadline: datetime | None = None
    data_removed: Annotated[bool, _or(False)] = False

    @property
    def terminal(self) -> bool:
        """True if it has ended."""
        return self.status in TERMINAL

    @property
    def reached_deadline(self) -> bool:
        """True if it ended at its deadline, within a second."""
        if self.deadline is None or self.completed_at is None:
            return False
        return self.completed_at >= self.deadline - timedelta(seconds=1)

    @property
    def progress(self) -> "ProgressBar | None":
        """Progress as the model reports it, percent; None if it does not."""
        return progress_from_logs(self.logs)


class ProgressBar(NamedTuple):
    """The latest state of a progress bar: percent, and step of steps."""

    percent: int
    step: int
    steps: int


_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# The pattern of both official clients (replicate-python, prediction.py), after the optional prefix.
# It does not go back over spaces, and a number has no more digits than a step can have.
_BAR = re.compile(r"^\s*+(Total progress:)?\s*+(\d{1,9})%\s*+\|.+?\|\s*+(\d{1,9})/(\d{1,9})(?!\d)")
_TAIL = 8192


def progress_from_logs(logs: str | None) -> ProgressBar | None:
    """Read the last progress bar out of the logs.

    Models print tqdm bars, some several one after the other, so the result can go back to 0: the
    caller keeps what it shows from going down. Where one bar sums up others (``Total progress:``),
    it is the one taken. Download bars (``160M/368M``) do not count.

    Args:
        logs: The logs so far.

    Returns:
        The progress, or None when the logs hold no bar. Nothing is estimated.
    """
    latest = None
    for line in reversed(re.split(r"[\r\n]+", _ANSI.sub("", (logs or "")[-_TAIL:]))):
        if match := _BAR.match(line):
            found = ProgressBar(min(int(match[2]), 100), int(match[3]), int(match[4]))
            if match[1]:
                return found
            latest = latest or found
    return latest


def output_links(output: Any) -> list[str]:
    """Collect the links of an output, in order.

    The shape is no stable property of a model: a link, a list of links or an object with links in
    it. In synchronous mode the API has sent ``data:`` URIs instead.

    Args:
        output: The ``output`` of a prediction.
    """
    links: list[str] = []
    rest = [output]
    while rest:  # and not by recursion: whoever wrote the model chose the depth
        part = rest.pop()
        if isinstance(part, str):
            if part.startswith(("https://", "http://", "data:")):
                links.append(part)
        elif isinstance(part, dict | list):
            rest += reversed(list(part.values()) if isinstance(part, dict) else part)
    return links
