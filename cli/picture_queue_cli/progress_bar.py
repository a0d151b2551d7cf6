"""The progress bar of a job, on standard error if that is a terminal."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from picture_queue._visible import escape_invisible
from picture_queue_cli.render import err, one_line

if TYPE_CHECKING:
    from picture_queue.records import GenerationBatch, JobEvent

_MARKS = {
    "completed": Text("✓", style="green"),
    "failed": Text("✗", style="red"),
    "cancelled": Text("✗", style="magenta"),
}


class _Mark(SpinnerColumn):
    """A spinner, which a mark replaces when the job has finished."""

    def render(self, task: Task) -> RenderableType:
        return _MARKS.get(task.fields["status"]) or super().render(task)


class _Percent(ProgressColumn):
    """The percentage; blank while the progress is not known."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.percentage:3.0f} %" if task.total else "     ")


class _Elapsed(ProgressColumn):
    """The time since the start of the progress bar, until the job has finished."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_time or task.elapsed or 0:5.1f} s", style="dim")


class ProgressBar:
    """The progress bar of one job or one batch."""

    def __init__(self) -> None:
        console = err()
        self._progress = Progress(
            _Mark(),
            BarColumn(bar_width=32),
            _Percent(),
            _Elapsed(),
            TextColumn("{task.description}", style="dim", markup=False),
            console=console,
            disable=not console.is_interactive,
        )
        self._task = self._progress.add_task("", total=None, status="pending")

    def show(self, event: "JobEvent") -> None:
        """Show the state of an event; the bar pulses while the progress is 0."""
        self._show(event, _description(event))

    def show_batch(self, batch: "GenerationBatch") -> None:
        """Show the state of a batch of generations."""
        ended = batch.completed + batch.failed + batch.cancelled
        failed = f", {batch.failed} failed" if batch.failed else ""
        self._show(batch, f"{ended} of {batch.total} have ended{failed}")

    def _show(self, state: "JobEvent | GenerationBatch", description: str) -> None:
        has_progress = state.finished or state.progress > 0
        self._progress.update(
            self._task,
            description=escape_invisible(one_line(description)),
            total=100 if has_progress else None,
            completed=state.progress,
            status=str(state.status),
        )
        if state.finished:
            self._progress.stop_task(self._task)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


def _description(event: "JobEvent") -> str:
    if event.finished:
        return str(event.status)
    if event.status == "processing":
        return event.message or "processing"
    if event.hold == "scheduled" and event.attempt:
        return f"attempt {event.attempt} failed, waiting for the next one"
    return {"scheduled": "waiting until it is due", None: "waiting for a worker"}.get(
        event.hold, f"held: {event.hold}"
    )


def event_line(event: "JobEvent") -> str:
    """Return an event as one line, for a log or a pipe."""
    at = event.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
    hold = f" ({event.hold})" if event.hold else ""
    message = f"  {event.message}" if event.message else ""
    return f"{at}  {event.status}{hold}  {event.progress} %{message}  [{event.source}]"
