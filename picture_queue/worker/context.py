"""The context of a handler: its job, its progress and its log."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

from picture_queue._text import clean_line, make_storable
from picture_queue.errors import InvalidArgument
from picture_queue.records.workers import JobFields

if TYPE_CHECKING:
    from picture_queue.worker.executor import Attempt

Level = Literal["debug", "info", "warning", "error"]

_MAX_MESSAGE = 2000  # characters of a message in the log of a job


def log_line(message: object, level: Level) -> dict[str, Any]:
    """Return a log line with the current time, in the format of `log_job`.

    Raises:
        InvalidArgument: There is no such level.
    """
    if level not in get_args(Level):
        hint = f"Use {', '.join(get_args(Level))}"
        raise InvalidArgument("The log level is not known", detail=f"level is {level!r}", hint=hint)
    text = make_storable(str(message), _MAX_MESSAGE)
    return {"at": datetime.now(UTC), "level": level, "message": text}


def progress_value(percent: Any, message: object) -> tuple[int, str | None]:
    """Return a progress in the format of `report_progress`.

    Raises:
        InvalidArgument: ``percent`` is out of range.
    """
    is_number = isinstance(percent, int | float | Real)
    if not is_number or not 0 <= percent <= 100:
        raise InvalidArgument(
            "The progress is not a percentage", detail=f"percent is {percent!r}, not 0 to 100"
        )
    return int(percent), None if message is None else clean_line(str(message))


class _Context(JobFields):
    """The parts of the context that sync and async handlers share.

    Attributes:
        job: The job as it was claimed.
    """

    __slots__ = ("_attempt", "_loop", "job")

    def __init__(self, attempt: "Attempt") -> None:
        super().__init__(attempt.job._row)
        self._loop = asyncio.get_running_loop()
        self._attempt = attempt
        self.job = attempt.job

    @property
    def state(self) -> Any:
        """The value that the ``lifespan`` of the worker yields; None without one."""
        return self._attempt.state

    @property
    def cancel_requested(self) -> bool:
        """True if the job is being cancelled.

        The worker stops an async handler with an `asyncio.CancelledError`. A plain function has to
        read this property or `stop_requested`. If the job was cancelled while it was parked, the
        property is true from the start. The worker does not stop the handler in this case, so that
        the handler can undo the work of an earlier attempt.
        """
        return self._attempt.cancel_requested

    @property
    def shutdown_requested(self) -> bool:
        """True once the worker is stopping.

        The worker releases the job if the handler does not end in time.
        """
        return self._attempt.shutdown_requested

    @property
    def stop_requested(self) -> bool:
        """True once the handler should end before its work is done.

        The job was cancelled or timed out, its lease is lost, or the worker stops. A plain
        function cannot be stopped from outside, so a long one should check this between its steps
        and raise `asyncio.CancelledError`. The job is then cancelled if its cancellation was
        requested, failed if it timed out, and released if the worker stops. If the function returns
        while the worker stops, the job is completed.
        """
        return self._attempt.stop_reason is not None or self._attempt.shutdown_requested

    def log(self, message: str, level: Level = "info") -> None:
        """Add a line to the log of the job, from any thread; the last 200 lines are kept.

        Lines are sent together, within a second and before the outcome. A line that cannot be
        written is lost, and the job continues.

        Args:
            message: The text, for operators; 2,000 characters are kept.
            level: ``debug``, ``info``, ``warning`` or ``error``.

        Raises:
            InvalidArgument: There is no such level.
            asyncio.CancelledError: The attempt is over; see `progress`.
        """
        line = log_line(message, level)
        self._call_in_loop(lambda: self._attempt.log.put(line))

    def _call_in_loop(self, function: Callable[[], None]) -> None:
        """Call a function in the worker's event loop, from any thread or event loop."""
        if self._attempt.has_outcome:
            # The caller is a handler that was asked to stop, or a task that outlived its handler.
            raise asyncio.CancelledError("the attempt is over")
        if asyncio._get_running_loop() is self._loop:
            function()
            return

        def call() -> None:
            if not self._attempt.has_outcome:
                function()

        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError as error:  # the event loop ended with the worker
            raise asyncio.CancelledError("the worker has stopped") from error

    def _put_progress(self, percent: int, message: str | None) -> None:
        value = progress_value(percent, message)
        self._call_in_loop(lambda: self._attempt.progress.put(value))


class JobContext(_Context):
    """The context of an async handler."""

    __slots__ = ()

    async def progress(self, percent: int, message: str | None = None) -> None:
        """Report the progress of the job.

        Frequent calls are cheap: only the latest value is sent, at most four times a second.

        Args:
            percent: 0 to 100.
            message: The current step, for the owner of the job.

        Raises:
            InvalidArgument: ``percent`` is out of range.
            asyncio.CancelledError: The attempt is over: the job was cancelled, timed out or was
                released, or its lease is lost.
        """
        self._put_progress(percent, message)
        # Let the event loop run: it sends the progress, and cancels the handler if requested.
        await asyncio.sleep(0)


class SyncJobContext(_Context):
    """The context of a sync handler, which runs in a separate thread."""

    __slots__ = ()

    def progress(self, percent: int, message: str | None = None) -> None:
        """Report the progress of the job, from any thread, as `JobContext.progress` does.

        Do not catch the `asyncio.CancelledError` that this method may raise: the worker cannot stop
        the thread in another way.
        """
        self._put_progress(percent, message)
