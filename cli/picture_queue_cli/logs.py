"""The log of a worker, as text or as lines of JSON."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from picture_queue._secrets import redact_secrets
from picture_queue._visible import LogFormatter

LogFormat = Literal["text", "json"]

_JOB_LOGGER = "picture_queue.worker.executor"  # logs the outcome of each job
_TRACEBACK_LOGGER = f"{_JOB_LOGGER}.tracebacks"


class JsonFormatter(logging.Formatter):
    """A log formatter that writes a record as one line of JSON.

    A line about a finished attempt has the fields of the job, and the traceback of a failed one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON, without secrets."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= getattr(record, "job", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        # Before the encoding: an escape such as \n would hide where a secret begins.
        shown = {
            name: redact_secrets(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        return json.dumps(shown, default=str)


def configure_logging(verbose: bool, log_format: LogFormat = "text") -> None:
    """Log to standard error.

    Args:
        verbose: Whether to log each finished job as text; JSON always has these lines.
    """

    def is_shown(record: logging.LogRecord) -> bool:
        if log_format == "json":
            return record.name != _TRACEBACK_LOGGER  # the line of the job has the traceback
        # A busy worker would log a line for each finished job.
        return verbose or record.levelno >= logging.WARNING or record.name != _JOB_LOGGER

    handler = logging.StreamHandler()
    handler.addFilter(is_shown)
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else LogFormatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
