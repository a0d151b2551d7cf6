"""Functions that draw pictures, for the tests of `FunctionProvider`."""

import asyncio
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from picture_queue.providers.errors import TooManyRequests
from picture_queue.providers.function_call import ProgressReporter


def picture(prompt: str, number: int = 0) -> Image.Image:
    """Return a picture whose colour depends on the prompt and the number."""
    return Image.new("RGB", (64, 48), (len(prompt) % 256, number % 256, 128))


def png(prompt: str, number: int = 0) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture(prompt, number).save(buffer, "PNG")
    return buffer.getvalue()


def _percentages() -> Iterator[int]:
    """Yield the percentage 50 for a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        yield 50


def draw(
    prompt: str,
    pictures: int = 1,
    fails: bool = False,
    is_slow: bool = False,
    *,
    progress: ProgressReporter,
) -> list[Image.Image]:
    """Draw pictures; a slow run reports progress until it is stopped."""
    progress(0, "starting")
    if is_slow:
        for percent in _percentages():
            progress(percent, "drawing")
            time.sleep(0.01)
    if fails:
        raise ValueError(f"cannot draw {prompt!r}\0")
    return [picture(prompt, number) for number in range(pictures)]


async def draw_async(
    prompt: str,
    pictures: int = 1,
    fails: bool = False,
    is_slow: bool = False,
    *,
    progress: ProgressReporter,
) -> list[bytes]:
    """Draw pictures in the event loop; a slow run sleeps for a minute."""
    progress(0)
    if is_slow:
        progress(50, "drawing")
        await asyncio.sleep(60)
    if fails:
        raise ValueError(f"cannot draw {prompt!r}\0")
    return [png(prompt, number) for number in range(pictures)]


def write_file(prompt: str, path: str) -> Path:
    """Draw a picture into a file and return its path."""
    Path(path).write_bytes(png(prompt))
    return Path(path)


def exit_once(prompt: str) -> bytes:
    """Draw a picture; for the prompt "exit", end the process as a crash of a C library does."""
    if prompt == "exit":
        os._exit(1)
    return png(prompt)


def refuse(prompt: str) -> bytes:
    """Raise the error that a function raises if its GPU is in use."""
    raise TooManyRequests("the GPU is in use", retry_after=7)
