"""A logger that never raises, even if the user's logging filters or handlers do."""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that catches the exceptions of the user's filters and handlers.

    For example, a handler that sends log lines to a service may raise while the service is down.

    Args:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Keep the ``extra`` of a call, which a `LoggerAdapter` would replace."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log a line; print the exception if that fails, as `logging.Handler` does."""
        try:
            # stacklevel=2: the log record names the line of the caller instead of this line.
            super().log(level, msg, *args, stacklevel=2, **options)
        except Exception:
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()
