"""The lines that a handler writes into the log of its job."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from picture_queue._text import storable
from picture_queue.errors import InvalidArgument

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
                "That is no level of a log",
                detail=f"level is {level!r}",
                hint=f"Use {', '.join(get_args(Level))}",
            )
        return cls(datetime.now(UTC), level, storable(str(message), _LENGTH))

    def as_json(self) -> dict[str, Any]:
        """Return the line as `log_job` takes it."""
        return {"at": self.at, "level": self.level, "message": self.message}
