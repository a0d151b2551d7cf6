"""Output: the result on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any
from weakref import WeakSet

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from picture_queue._visible import escape_invisible

if TYPE_CHECKING:
    from picture_queue.records import JobExplanation, Record

_STYLES = {
    "pending": "cyan",
    "processing": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}
# Output to a pipe is neither wrapped nor cut.
_PIPE_WIDTH = 10_000
_MAX_ERROR_LENGTH = 900  # characters
# The streams on which JSON was printed.
_json_streams: "WeakSet[IO[str]]" = WeakSet()


def one_line(text: str) -> str:
    r"""Return a text as one line, with line breaks written as ``\n``.

    So stored text cannot imitate a line of this program.
    """
    return text.replace("\n", r"\n")


def styled(text: str, style: str = "") -> Text:
    """Return a text in a style, with control characters escaped."""
    return Text(escape_invisible(text), style=style)


class _Table(Table):
    """A table that writes each string in one line; cells of type `Text` may have several."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        lines = (one_line(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*lines, **options)


class _Console(Console):
    """A console that prints text without markup, with control characters escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        # Escape the text here as well: a table measures its cells before `render` prints them.
        return super().render_str(escape_invisible(text), **options)

    def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **options):
            yield (
                segment
                if segment.control
                else segment._replace(text=escape_invisible(segment.text))
            )


def out() -> Console:
    """Return the console of results."""
    return _console_of(sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def err() -> Console:
    """Return the console of messages, errors and progress."""
    return _console_of(sys.stderr)


@lru_cache(maxsize=2)
def _console_of(stream: IO[str], width: int | None = None) -> Console:
    # There is one console for each stream, because only the console of a progress bar can print
    # other lines above the bar.
    return _Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def info(text: str) -> None:
    """Print a message on standard error."""
    err().print(styled(text, "dim"), soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error in one line."""
    line = " ".join(text.split())
    if len(line) > _MAX_ERROR_LENGTH:  # the end has the hint, so the middle is cut
        line = f"{line[: _MAX_ERROR_LENGTH - 200]} … {line[-200:]}"
    err().print(Text.assemble(("error: ", "bold red"), styled(line, "red")), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning."""
    err().print(styled(f"! {text}", "yellow"), soft_wrap=True)


def print_line(text: str) -> None:
    """Print a result in one line, such as an id or a path."""
    out().print(one_line(text), soft_wrap=True)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document; with ``indent=None`` in one line, for streams."""
    # json.dumps escapes every control character except U+007F.
    text = json.dumps(value, indent=indent, default=str).replace("\x7f", r"\u007f")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    _json_streams.add(sys.stdout)


def json_was_printed() -> bool:
    """Return whether JSON was printed on standard output."""
    return sys.stdout in _json_streams


def plain(record: "Record") -> dict[str, Any]:
    """Return a record as values that JSON can encode."""
    return record.model_dump(mode="json")


def status_text(status: str, hold: str | None = None) -> Text:
    """Return a job's status in its colour, with its hold."""
    text = styled(status, _STYLES.get(status, ""))
    return text.append(styled(f" ({hold})", "dim")) if hold else text


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table without frames.

    Args:
        columns: The headings.
        right: The headings of columns that are aligned to the right.
    """
    grid = _Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(
            column, justify="right" if column in right else "left", no_wrap=column == "id"
        )
    return grid


def pairs(rows: Mapping[str, Any]) -> Table:
    """Return a table of names and values; values of None are left out."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows.items():
        if value is not None:
            grid.add_row(name, value if isinstance(value, Text) else str(value))
    return grid


def reason_lines(explanation: "JobExplanation") -> str | None:
    """Return why a job does not run, one reason a line; None if it runs or has finished."""
    if not explanation.waits:
        return None
    return "\n".join(
        one_line(reason.detail) + (f" (until {local_time(reason.until)})" if reason.until else "")
        for reason in explanation.reasons or (explanation,)
    )


def format_age(moment: datetime | None) -> str:
    """Return a time relative to now: "5 min ago" or "in 5 min"; "" for None."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"in {duration(-seconds)}" if seconds < -1 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Return a duration in one unit, such as "5 min"."""
    seconds = max(seconds, 0.0)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def local_time(moment: datetime | None) -> str | None:
    """Return a time in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if moment else None
