"""The timeline of the demo: the time of each step, and the source that reported it."""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table
from rich.text import Text

from picture_queue_cli.render import table

if TYPE_CHECKING:
    from datetime import datetime

    from picture_queue.records import JobEvent

_SOURCES = {
    "answer": "the answer of start_generation",
    "socket": "an event over Realtime",
    "snapshot": "the row, read when the watch began or reconnected",
    "poll": "the row, read while Realtime was silent",
    "row": "created_at of the image's row",
    "download": "the file on this machine",
}


class TimelineEntry(NamedTuple):
    """The time of one step.

    Args:
        ms: Milliseconds since the start of the generation.
        source: The source of the information: a key of `_SOURCES`.
    """

    ms: int
    source: str


class Timeline:
    """The steps of one generation; the clock starts when this object is created."""

    def __init__(self) -> None:
        self._started_at = time.time()
        self._started = time.perf_counter()
        self.events: list[tuple[JobEvent, int]] = []
        self.entries: dict[str, TimelineEntry] = {}

    def _now(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    def mark(self, name: str, source: str) -> None:
        """Record a step at the present time, unless it is recorded already."""
        self.entries.setdefault(name, TimelineEntry(self._now(), source))

    def mark_at(self, name: str, at: "datetime") -> None:
        """Record a step at a time from the database, which uses the same clock."""
        ms = round((at.timestamp() - self._started_at) * 1000)
        self.entries.setdefault(name, TimelineEntry(ms, "row"))

    def record_event(self, event: "JobEvent") -> None:
        """Record an event of the job, and the steps that it shows."""
        self.events.append((event, self._now()))
        if event.status != "pending":
            self.mark("claimed", event.source)
        if event.progress > 0:
            self.mark("first progress", event.source)
        if event.finished:
            self.mark(str(event.status), event.source)

    def as_json(self) -> dict[str, Any]:
        """Return events and steps for the JSON output of the demo."""
        return {
            "events": [
                {
                    "status": str(event.status),
                    "hold": event.hold,
                    "progress": event.progress,
                    "message": event.message,
                    "version": event.version,
                    "source": event.source,
                    "at_ms": ms,
                }
                for event, ms in self.events
            ],
            "timeline": {
                name.replace(" ", "_"): {"ms": entry.ms, "source": entry.source}
                for name, entry in self._in_order()
            },
        }

    def as_table(self) -> Table:
        """Return the steps as a table."""
        listing = table("ms", "step", "source", "", right=("ms",))
        for name, entry in self._in_order():
            meaning = Text(_SOURCES[entry.source], style="dim")
            listing.add_row(f"{entry.ms:,}", name, entry.source, meaning)
        return listing

    def sources(self) -> str:
        """Return a sentence that counts the events by their source."""
        counts: dict[str, int] = {}
        for event, _ in self.events:
            counts[event.source] = counts.get(event.source, 0) + 1
        parts = ", ".join(f"{count} from {source}" for source, count in counts.items())
        return f"{len(self.events)} states: {parts}"

    def _in_order(self) -> list[tuple[str, TimelineEntry]]:
        return sorted(self.entries.items(), key=lambda item: item[1].ms)
