"""The log of one attempt. Its lines are sent in batches, and the newest are kept."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from picture_queue.errors import InvalidArgument
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.outcomes import storable

#: Seconds between a line and the call that sends it with those that followed.
INTERVAL = 1.0
#: Lines that are sent without that wait.
BATCH = 50
#: Lines kept of those that could not be sent yet: the database keeps no more of a job either.
KEPT = 200
_LENGTH = 2000  # characters of a line

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line, at the time it was written."""

    at: datetime
    level: Level
    message: str

    @classmethod
    def of(cls, message: object, level: Level) -> "Line":
        """Make a line of what a handler logs.

        Raises:
            InvalidArgument: There is no such level.
        """
        if level not in get_args(Level):
            raise InvalidArgument(
                "That is no level of a log", detail=f"level is {level!r}", hint=_LEVELS
            )
        return cls(datetime.now(UTC), level, storable(str(message), _LENGTH))

    def as_json(self) -> dict[str, Any]:
        """Return the line as `log_job` takes it."""
        return {"at": self.at, "level": self.level, "message": self.message}


_LEVELS = f"Use {', '.join(get_args(Level))}"

Send = Callable[[list[Line]], Coroutine[Any, Any, None]]


class JobLog(BatchSender[Line]):
    """Sender of the lines of one attempt.

    Args:
        send: Writes lines; raises nothing.
    """

    __slots__ = ()

    def __init__(self, send: Send) -> None:
        super().__init__(send, keep=KEPT)

    def put(self, line: Line) -> None:
        """Take a line; it is sent within a second."""
        self._add(line)

    def _due_at(self, now: float) -> float:
        return now if len(self._waiting) >= BATCH else now + INTERVAL
