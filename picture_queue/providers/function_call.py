"""The call of a function that makes pictures, in the thread or process where it runs.

The processes of an executor import this module, so it has few imports.
"""

import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from picture_queue.providers.errors import OutputRefused
from picture_queue.providers.function_progress import Reporter

_MAX_PICTURES = 100


class ProgressReporter(Protocol):
    """The argument ``progress`` of a function."""

    def __call__(self, percent: float, message: str | None = None) -> None:
        """Report progress: 0 to 100, and the current step for the owner of the picture.

        Raises:
            asyncio.CancelledError: The prediction was cancelled or timed out; do not catch it.
        """


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
