"""Make thumbnails in separate processes.

A picture of which no thumbnail can be made is stored without one, so nothing here raises an error.
"""

import asyncio
import contextlib
import json
import os
import subprocess  # nosec B404 - it starts only Python, with fixed arguments
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import picture_queue
from picture_queue._log import Log

_log = Log(__name__)

_PROCESSES = 2  # maximum number at the same time; a second one starts only if the first is busy
_MAX_PIXELS = 64_000_000
_MEMORY = 1024**3  # bytes of each process
_TIMEOUT = 20.0  # seconds for one picture; then its process is killed
_WAIT_TIMEOUT = 30.0  # seconds for one picture, including the pictures before it
_MAX_BYTES = 1_000_000  # of a thumbnail
#: Variables of the environment that Python may need. The others may contain keys and tokens.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")


class Thumbnail(NamedTuple):
    """A thumbnail in WebP, and the blurhash of the picture."""

    data: bytes
    blurhash: str


class ThumbnailMaker:
    """A maker of thumbnails for all jobs of a worker. Processes start when they are needed.

    If Pillow is not installed, or no process can be started, the maker logs this once, and makes no
    thumbnails.

    Args:
        side: Longest side of a thumbnail in pixels; 0: no thumbnails are made.
        timeout: Maximum seconds for one picture.
    """

    def __init__(self, side: int = 512, timeout: float = _TIMEOUT) -> None:
        self._side = side
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._processes: set[_Process] = set()
        self._executor: ThreadPoolExecutor | None = None
        self._is_available = side > 0
        if side > 0 and not (find_spec("PIL") and find_spec("blurhash")):
            self._disable("Pillow and blurhash are not installed (picture-queue[thumbnails])")

    async def make(self, chunks: Iterable[bytes], size: int) -> Thumbnail | None:
        """Make the thumbnail of a picture.

        Args:
            chunks: The bytes of a PNG, JPEG, WebP or GIF file.
            size: The number of bytes.

        Returns:
            The thumbnail; None if it cannot be made.
        """
        if not self._is_available:
            return None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(_WAIT_TIMEOUT, self._timeout)):
                return await loop.run_in_executor(self._get_executor(), self._make, chunks, size)
        except TimeoutError:
            _log.info("a picture is stored without a thumbnail: the processes are busy")
        return None

    def close(self) -> None:
        """End all processes. New processes start when they are needed."""
        with self._lock:
            executor, self._executor = self._executor, None
            processes = list(self._processes)
        for process in processes:
            process.kill()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._idle.clear()

    def _get_executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_PROCESSES, "thumbnails")
            return self._executor

    def _make(self, chunks: Iterable[bytes], size: int) -> Thumbnail | None:
        process = self._take_process()
        if process is None:
            return None
        answer: dict[str, Any] = {}
        try:
            with process.killed_after(self._timeout):
                answer, data = process.request_thumbnail(chunks, size)
        except (OSError, ValueError):  # the process was killed, or the picture was closed
            data = b""
            process.kill()
        self._put_back(process)
        if data and isinstance(answer.get("blurhash"), str):
            return Thumbnail(data, answer["blurhash"])
        reason = answer.get("error", "its process ended")
        _log.info("a picture of %d bytes is stored without a thumbnail: %s", size, reason)
        return None

    def _take_process(self) -> "_Process | None":
        """Return an idle process, or start one; None if no process can be started."""
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.is_running():
                    return process
                self._processes.discard(process)
                process.kill()  # closes its pipes
        if not self._is_available:
            return None
        try:
            process = _Process(self._side)
        except OSError as error:
            self._disable(f"no process can be started: {error}")
            return None
        with self._lock:
            self._processes.add(process)
        try:
            with process.killed_after(_TIMEOUT):
                process.expect_ready()
        except (OSError, ValueError):
            process.kill()
            self._put_back(process)
            self._disable("the process that makes them does not start")
            return None
        return process

    def _put_back(self, process: "_Process") -> None:
        with self._lock:
            if process.is_running() and self._executor is not None:
                self._idle.append(process)
                return
            self._processes.discard(process)
        process.kill()

    def _disable(self, reason: str) -> None:
        with self._lock:
            was_available, self._is_available = self._is_available, False
        if was_available:
            _log.warning("pictures are stored without thumbnails: %s", reason)


class _Process:
    """One process that makes thumbnails; it is used by one thread at a time."""

    def __init__(self, side: int) -> None:
        module = "picture_queue.generations.thumbnail_process"
        package = str(Path(picture_queue.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(side), str(_MAX_PIXELS), str(_MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C in a terminal reaches only the worker
        )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def expect_ready(self) -> None:
        """Wait until the process is ready.

        Raises:
            OSError: The process has ended.
            ValueError: The process does not answer as expected.
        """
        if not self._read_line().get("ready"):
            raise ValueError("the process is not ready")

    def request_thumbnail(self, chunks: Iterable[bytes], size: int) -> tuple[dict[str, Any], bytes]:
        """Send a picture, and return the JSON of the answer and the thumbnail.

        Raises:
            OSError: The process has ended.
            ValueError: The answer is unreadable, or a chunk cannot be read any more.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None  # noqa: S101
        requests.write(size.to_bytes(8, "big"))
        for chunk in chunks:
            requests.write(chunk)
        requests.flush()
        answer = self._read_line()
        length = answer.get("bytes", 0)
        if not isinstance(length, int) or not 0 <= length <= _MAX_BYTES:
            raise ValueError("the thumbnail is too large")
        data = answers.read(length)
        if len(data) < length:
            raise BrokenPipeError("the process has ended")
        return answer, data

    def _read_line(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline(4096)
        if not line.endswith(b"\n"):
            raise BrokenPipeError("the process has ended")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("the answer is not an object")
        return answer

    @contextlib.contextmanager
    def killed_after(self, seconds: float) -> Any:
        """Kill the process if the block takes longer."""
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def kill(self) -> None:
        """End the process. Idempotent."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()
