"""Reading of the input pictures of predictions, within limits.

An input may have any URL, and the simulator can reach servers of this machine that its clients
cannot reach. So the simulator downloads pictures only from the Storage of its own stack.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from picture_queue._loopback import is_loopback
from picture_queue.local.simulator.state import Prediction
from picture_queue.local.simulator.uploads import Uploads

MAX_BYTES: Final = 20_000_000  # of one picture
_MAX_TOTAL_BYTES: Final = 100_000_000  # beyond this total, the oldest pictures are deleted
_TIMEOUT: Final = 5.0  # seconds for the whole download
_STORAGE_PATH: Final = "/storage/v1/object/"


class InputReader:
    """The input pictures of all predictions.

    Args:
        uploads: The uploaded files.
        storage_url: The URL of the API whose Storage may be read; None: no Storage is read.
        read_output: A function that returns an output of the simulator by the path of its URL; None
            if there is no such output.
        clock: A function that returns the Unix time.
    """

    def __init__(
        self,
        uploads: Uploads,
        storage_url: str | None,
        read_output: Callable[[str], Awaitable[bytes | None]],
        clock: Callable[[], float],
    ) -> None:
        self._uploads = uploads
        self._storage = urlsplit(storage_url) if storage_url else None
        self._read_output = read_output
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[bytes | None]] = {}

    def read(self, prediction: Prediction, base_url: str) -> None:
        """Read the input picture of a new prediction in the background."""
        if (url := prediction.source) is not None:
            self._tasks[prediction.id] = asyncio.create_task(self._read(url, base_url))
            self._delete_oldest()

    async def picture(self, prediction: Prediction) -> bytes | None:
        """Return the input picture of a prediction; None if there is none or it cannot be read."""
        task = self._tasks.get(prediction.id)
        return None if task is None else await asyncio.shield(task)

    def clear(self) -> None:
        """Delete all pictures, and stop all downloads."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def _delete_oldest(self) -> None:
        """Delete the oldest pictures until the total size is within the limit."""

        def size(task: asyncio.Task[bytes | None]) -> int:
            # A picture that is still being read may have the maximum size.
            return len(task.result() or b"") if task.done() and not task.cancelled() else MAX_BYTES

        while sum(map(size, self._tasks.values())) > _MAX_TOTAL_BYTES:
            self._tasks.pop(next(iter(self._tasks))).cancel()

    async def _read(self, url: str, base_url: str) -> bytes | None:
        if url.startswith("data:"):
            return _decode_data_uri(url)
        try:
            parts = urlsplit(url)
            if _origin(parts) == _origin(urlsplit(base_url)):
                return await self._read_own(parts.path)
            if self._storage is not None and _is_in_storage(parts, self._storage):
                async with asyncio.timeout(_TIMEOUT):
                    return await _download(url)
        except (ValueError, httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return None
        return None

    async def _read_own(self, path: str) -> bytes | None:
        """Return an uploaded file or an output of this simulator; None if there is no such file."""
        if match := re.fullmatch("/v1/files/([A-Za-z0-9]+)", path):
            file = self._uploads.get(match[1], self._clock())
            return None if file is None else file.data
        return await self._read_output(path)


async def _download(url: str) -> bytes | None:
    """Return a file; None if it is too large or cannot be read. Redirects are not followed."""
    data = bytearray()
    async with (
        httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as http,
        http.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
    ):
        if response.status_code != 200:
            return None
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > MAX_BYTES:
                return None
    return bytes(data)


def _decode_data_uri(uri: str) -> bytes | None:
    head, _, data = uri.partition(",")
    if not head.endswith(";base64"):
        return None
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None


def _is_in_storage(url: SplitResult, storage: SplitResult) -> bool:
    is_below = url.path.startswith(_STORAGE_PATH) and ".." not in unquote(url.path)
    return is_below and _origin(url) == _origin(storage)


def _origin(url: SplitResult) -> tuple[str, str, int | None]:
    host = url.hostname or ""
    return url.scheme, "loopback" if is_loopback(host) else host, url.port
