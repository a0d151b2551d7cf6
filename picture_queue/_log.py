"""A logger that raises nothing, whatever the user's logging configuration does."""

import logging
import sys
import traceback
from typing import Any


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that contains what filters and handlers of the user raise.

    A handler that sends lines to a service raises while that service is down, for instance.

    Args:
        name: Name of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log a line; print the exception if that fails, as `logging.Handler` does."""
        try:
            super().log(level, msg, *args, stacklevel=2, **options)  # the line of the caller
        except Exception:
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()
