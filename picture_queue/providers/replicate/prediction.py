"""The prediction object of Replicate's API, with its progress and the links of its output."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

#: Final states of a prediction; any other state counts as running. Replicate introduced ``aborted``
#: (ended before the start) in October 2025 (https://replicate.com/changelog).
FINAL_STATUSES = frozenset({"succeeded", "failed", "canceled", "aborted"})

_MAX_TEXT = 8192  # characters of an error that the database stores
_MAX_METRICS = 50


def _clean_error(value: object) -> object:
    try:
        return value if value is None else _storable(str(value))
    except RecursionError:
        return "The error is nested too deeply to be shown"


def _storable(text: str) -> str:
    """Return the beginning of a text, without characters that a database cannot store."""
    text = text[:_MAX_TEXT].replace("\0", "\ufffd")
    return text.encode(errors="replace").decode()


def _check_id(prediction_id: str) -> str:
    """Refuse an id that a database cannot store, or that changes the text of a terminal."""
    if not prediction_id.isprintable():
        raise ValueError("the id has characters that are not printable")
    return prediction_id


def _clean_metrics(metrics: object) -> object:
    """Return the metrics that can be stored.

    An unexpected metric is left out, since it must not fail the generation.
    """
    if not isinstance(metrics, dict):
        return {}
    return {
        _storable(name[:100]): _storable(value[:200]) if isinstance(value, str) else value
        for name, value in list(metrics.items())[:_MAX_METRICS]
        if isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < 1e15)
    }


def _replace_null(default: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


def _assume_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


#: A time. If the API sends a time without a time zone, the time is in UTC.
_Time = Annotated[datetime, AfterValidator(_assume_utc)]


class Prediction(BaseModel):
    """One prediction. Unknown fields are ignored, and unknown states are accepted.

    The repr omits the fields that may contain the prompt.

    Attributes:
        id: Replicate's id of the prediction.
        model: Name of the model, ``owner/name``.
        version: Version hash of the model; ``hidden`` for official models.
        status: State of the prediction; see `FINAL_STATUSES`.
        input: Input of the model; Replicate deletes it one hour after completion.
        output: Output of the model, any JSON; None before the output exists and after Replicate
            has deleted it.
        error: Error text of a failed prediction, without characters that a database cannot store.
        logs: Log of the model so far. It may contain the prompt.
        metrics: ``predict_time`` and ``total_time`` in seconds, and other numbers and texts.
        deadline: Time at which Replicate stops the prediction; None without ``Cancel-After``.
        data_removed: True if Replicate has deleted the output.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: Annotated[str, AfterValidator(_check_id)] = Field(min_length=1, max_length=200)
    status: str = Field(max_length=200)
    created_at: _Time
    model: str = ""
    version: str | None = None
    input: Annotated[dict[str, Any], _replace_null({})] = Field(default={}, repr=False)
    output: Any = None
    error: Annotated[str | None, BeforeValidator(_clean_error)] = None
    logs: Annotated[str, _replace_null("")] = Field(default="", repr=False)
    metrics: Annotated[dict[str, Any], BeforeValidator(_clean_metrics)] = {}
    started_at: _Time | None = None
    completed_at: _Time | None = None
    deadline: _Time | None = None
    data_removed: Annotated[bool, _replace_null(False)] = False

    @property
    def has_ended(self) -> bool:
        """True if the prediction has ended."""
        return self.status in FINAL_STATUSES

    @property
    def reached_deadline(self) -> bool:
        """True if the prediction ended at its deadline, or at most a second before."""
        if self.deadline is None or self.completed_at is None:
            return False
        return self.deadline - self.completed_at <= timedelta(seconds=1)

    @property
    def progress(self) -> "ProgressBar | None":
        """Latest progress bar in the logs; None if there is none."""
        return progress_from_logs(self.logs)


class ProgressBar(NamedTuple):
    """The state of a progress bar: the percentage, the current step, and the number of steps."""

    percent: int
    step: int
    steps: int


_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# After the optional prefix, this is the pattern that both official clients use (prediction.py of
# replicate-python). Unlike theirs, it does not backtrack over spaces, and it limits the digits.
_BAR = re.compile(r"^\s*+(Total progress:)?\s*+(\d{1,9})%\s*+\|.+?\|\s*+(\d{1,9})/(\d{1,9})(?!\d)")
_TAIL = 8192  # characters at the end of the logs that are searched


def progress_from_logs(logs: str | None) -> ProgressBar | None:
    """Return the last progress bar in the logs; a bar of total progress takes precedence.

    Models print tqdm bars. Some models print several in succession, so a later call may return a
    lower percentage. Bars of downloads (``160M/368M``) are ignored.

    Args:
        logs: The logs so far.

    Returns:
        The progress bar; None if the logs contain none.
    """
    latest = None
    for line in reversed(re.split(r"[\r\n]+", _ANSI.sub("", (logs or "")[-_TAIL:]))):
        if match := _BAR.match(line):
            bar = ProgressBar(min(int(match[2]), 100), int(match[3]), int(match[4]))
            if match[1]:
                return bar
            latest = latest or bar
    return latest


def output_links(output: Any) -> list[str]:
    """Return the links in an output, in order.

    An output may be a link, a list of links, or an object that contains links; the format may
    change with each version of a model. In synchronous mode the API may return ``data:`` URIs.

    Args:
        output: The ``output`` of a prediction.
    """
    links: list[str] = []
    stack = [output]
    while stack:  # not by recursion, since the output of a model may be nested to any depth
        value = stack.pop()
        if isinstance(value, str):
            if value.startswith(("https://", "http://", "data:")):
                links.append(value)
        elif isinstance(value, dict | list):
            stack += reversed(list(value.values()) if isinstance(value, dict) else value)
    return links
