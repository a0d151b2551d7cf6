"""The call of a function that makes pictures, in the thread or process where it runs.

The processes of an executor import this module, so it has few imports.
"""

import asyncio
import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from picture_queue._text import clean_line
from picture_queue.providers.base import Progress
from picture_queue.providers.errors import OutputRefused

_MAX_PICTURES = 100
_WRITE_INTERVAL = 0.1  # seconds between two writes of progress to a file


class ProgressReporter(Protocol):
    """The argument ``progress`` of a function."""

    def __call__(self, percent: float, message: str | None = None) -> None:
        """Report progress: 0 to 100, and the current step for the owner of the picture.

        Raises:
            asyncio.CancelledError: The prediction was cancelled or timed out; do not catch it.
        """


class State(NamedTuple):
    """The latest report of a call."""

    has_started: bool = False
    progress: Progress | None = None


class Reporter(Protocol):
    """The connection between a provider and a call of its function."""

    def __call__(self, percent: float, message: str | None = None) -> None:
        """Report progress; see `ProgressReporter`."""

    def start(self) -> None:
        """Report that the function starts.

        Raises:
            asyncio.CancelledError: The prediction was cancelled before.
        """

    def read(self) -> State:
        """Return the latest report of the function."""

    def cancel(self) -> None:
        """Ask the function to stop at its next report, and free what the reporter holds."""


class MemoryReporter:
    """A reporter for a function in the process of the worker."""

    def __init__(self) -> None:
        self._state = State()
        self._is_cancelled = False

    def __call__(self, percent: float, message: str | None = None) -> None:
        self._report(_check_progress(percent, message))

    def start(self) -> None:
        self._report(None)

    def _report(self, progress: Progress | None) -> None:
        if self._is_cancelled:
            raise asyncio.CancelledError("the prediction was cancelled")
        self._state = State(True, progress)

    def read(self) -> State:
        return self._state

    def cancel(self) -> None:
        self._is_cancelled = True


class FileReporter:
    """A reporter for a function in another process; both use a file in a temporary directory.

    The reporter can be pickled. `cancel` deletes the directory, which asks the function to stop. If
    the process runs on another machine, progress is not shown and the function cannot be stopped.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="picture-queue-"))
        self._host = socket.gethostname()
        self._written_at = 0.0

    def __call__(self, percent: float, message: str | None = None) -> None:
        progress = _check_progress(percent, message)
        if time.monotonic() >= self._written_at + _WRITE_INTERVAL:
            self._written_at = time.monotonic()
            self._report(progress)

    def start(self) -> None:
        self._report(None)

    def _report(self, progress: Progress | None) -> None:
        if socket.gethostname() != self._host:
            return
        new_state = self._folder / "new"
        try:
            new_state.write_text(json.dumps(progress), "utf-8")
            new_state.replace(self._folder / "state")
        except OSError:  # a full disk must not end the function
            if not self._folder.exists():
                raise asyncio.CancelledError("the prediction was cancelled") from None

    def read(self) -> State:
        try:
            progress = json.loads((self._folder / "state").read_text("utf-8"))
        except (OSError, ValueError):
            return State()
        return State(True, None if progress is None else Progress(*progress))

    def cancel(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def call_function(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    reporter: Reporter,
    max_bytes: int,
) -> list[bytes]:
    """Call the function and return its pictures as bytes."""
    reporter.start()
    return encode_pictures(function(**arguments), max_bytes)


def encode_pictures(result: object, max_bytes: int) -> list[bytes]:
    """Return the bytes of the pictures that a function returned.

    Args:
        result: Bytes, a path, a Pillow image, or a list of these.
        max_bytes: Maximum size of a picture.

    Raises:
        TypeError: The result has another type.
        OutputRefused: A picture is too large, or there are too many.
    """
    items: Iterable[object] = result if isinstance(result, list | tuple) else [result]
    pictures = [_encode(item, max_bytes) for item in items]
    if len(pictures) > _MAX_PICTURES:
        raise OutputRefused(f"The function returned {len(pictures)} pictures")
    return pictures


def _encode(item: object, max_bytes: int) -> bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        data = bytes(item)
    elif isinstance(item, str | os.PathLike):
        data = _read_file(Path(item), max_bytes)
    elif callable(getattr(item, "save", None)):
        buffer = io.BytesIO()
        item.save(buffer, "PNG")  # type: ignore[attr-defined]
        data = buffer.getvalue()
    else:
        raise TypeError(
            f"the function returned {type(item).__name__}: return bytes, a path, a Pillow image, "
            "or a list of these"
        )
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    return data


def _read_file(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise _too_large(os.fstat(file.fileno()).st_size, max_bytes)
    return data


def _too_large(size: int, limit: int) -> OutputRefused:
    return OutputRefused(
        "The picture is too large", detail=f"It has {size} bytes, the limit is {limit}"
    )


def _check_progress(percent: float, message: str | None) -> Progress:
    if not 0 <= percent <= 100:
        raise ValueError(f"progress({percent!r}): the percentage is not 0 to 100")
    return Progress(int(percent), None if message is None else clean_line(str(message), 200))
