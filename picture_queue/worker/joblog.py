"""The log of one attempt: its lines travel together, and the newest are kept."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from picture_queue.errors import InvalidArgument
from picture_queue.worker._batch_sender import BatchSender
from picture_queue.worker.outcomes import storable

#: Seconds that lines wait for each other.
INTERVAL = 1.0
#: Lines that do not wait any longer.
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
        """Makes a line of what a handler says.

        Raises:
            InvalidArgument: There is no such level.
        """
        if level not in get_args(Level):
            raise InvalidArgument(
                "That is no level of a log", detail=f"level is {level!r}", hint=_LEVELS
            )
        return cls(datetime.now(UTC), level, storable(str(message), _LENGTH))

    def as_json(self) -> dict[str, Any]:
        """Returns the line as `log_job` takes it."""
        return {"at": self.at, "level": self.level, "message": self.message}


_LEVELS = f"Use {', '.join(get_args(Level))}"

Send = Callable[[list[Line]], Coroutine[Any, Any, None]]


class JobLog(BatchSender[Line]):
    """Gathers what a handler writes.

    Args:
        send: Writes lines; raises nothing.
    """

    __slots__ = ()

    def __init__(self, send: Send) -> None:
        super().__init__(send, keep=KEPT)

    def put(self, line: Line) -> None:
        """Takes a line; it goes out within a second."""
        self._add(line)

    def _due_at(self, now: float) -> float:
        return now if len(self._waiting) >= BATCH else now + INTERVAL
