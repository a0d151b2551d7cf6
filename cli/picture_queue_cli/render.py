"""What a person sees: the result on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from picture_queue.records import Record

_STYLES = {
    "pending": "cyan",
    "processing": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}
# Into a pipe nothing is wrapped or cut.
_PIPE_WIDTH = 10_000


def out() -> Console:
    """Returns the console of results."""
    return _console_of(sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def err() -> Console:
    """Returns the console of talk, errors and progress."""
    return _console_of(sys.stderr)


@lru_cache(maxsize=2)
def _console_of(stream: IO[str], width: int | None = None) -> Console:
    # One for each stream: what is printed beside a live bar goes above it.
    return Console(file=stream, highlight=False, width=width)


def talk(text: str) -> None:
    """Says something beside the result."""
    err().print(Text(text, style="dim"), soft_wrap=True)


def complain(text: str) -> None:
    """Says in one line what went wrong."""
    line = Text.assemble(("error: ", "bold red"), (" ".join(text.split()), "red"))
    err().print(line, soft_wrap=True)


def warn(text: str) -> None:
    """Says what should be looked at, though it went on."""
    err().print(Text(f"! {text}", style="yellow"), soft_wrap=True)


def print_line(text: str) -> None:
    """Prints a bare result, such as an id or a path."""
    out().print(Text(text), soft_wrap=True)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Prints one JSON document; with ``indent=None`` in one line, for streams."""
    sys.stdout.write(json.dumps(value, indent=indent, default=str) + "\n")
    sys.stdout.flush()


def plain(record: "Record") -> dict[str, Any]:
    """Returns a record as JSON has it."""
    return record.model_dump(mode="json")


def status_text(status: str, hold: str | None = None) -> Text:
    """Returns a job's status in its colour, with what holds it."""
    text = Text(status, style=_STYLES.get(status, ""))
    return text.append(f" ({hold})", style="dim") if hold else text


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Returns an empty table without frames.

    Args:
        columns: The headings.
        right: Those of numbers.
    """
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", no_wrap=column == "id"
        )
    return made


def pairs(rows: Mapping[str, Any]) -> Table:
    """Returns names and values side by side; what is None is left out."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        if value is not None:
            made.add_row(name, value if isinstance(value, Text) else Text(str(value)))
    return made


def ago(moment: datetime | None) -> str:
    """Says how long ago something was, or how long it is until then."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"in {duration(-seconds)}" if seconds < -1 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Says a length of time in one unit."""
    seconds = max(seconds, 0.0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def local_time(moment: datetime | None) -> str | None:
    """Returns a moment in the reader's own zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if moment else None
