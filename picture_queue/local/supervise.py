"""Keeps the stack's programs running, and sees to it that none outlives the stack."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from picture_queue.errors import PictureQueueError
from picture_queue.local.processes import exit_code, stop
from picture_queue.local.runtime import inherited_descriptors

_log = logging.getLogger(__name__)

_RESTARTS = 5
_RESTART_WINDOW = 60.0  # seconds
_FIRST_DELAY = 0.1  # seconds; doubled with each restart in the window
_GUARD_TIMEOUT = 40.0

Signals = Sequence[tuple[signal.Signals, float]]


class Guard:
    """The process that ends our programs if we are killed; see `guard.py`.

    Args:
        held: Descriptors that stay open until the guard is done: the data directory's lock, since
            a free one means that nothing is left, and the listening sockets, since whoever took
            the ports of a killed stack would get the service key from its worker.
        doomed: Directory to delete at the end unless `keep` was called.
    """

    def __init__(self, held: Sequence[int], doomed: Path | None) -> None:
        script = Path(__file__).with_name("guard.py")
        self._process = subprocess.Popen(
            # -P: the modules beside the script are not for it.
            [sys.executable, "-P", script, *([doomed] if doomed else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[*held, *inherited_descriptors()],
            cwd="/",
            start_new_session=True,
        )

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Watch a program from now on."""
        self._tell(f"+{process.pid}")

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        """Forget a program that has ended."""
        self._tell(f"-{process.pid}")

    def keep(self) -> None:
        """Leave the directory in place."""
        self._tell("keep")

    def _tell(self, word: str) -> None:
        pipe = self._process.stdin
        if pipe:
            # A guard that is gone cannot help; `ended` is how the daemon hears of it.
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe.fileno(), f"{word}\n".encode())

    async def ended(self) -> None:
        """Return when the guard has ended."""
        await exit_code(self._process)

    async def close(self) -> None:
        """Let the guard finish and wait for it."""
        if self._process.stdin:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exit_code(self._process), _GUARD_TIMEOUT)


class Service:
    """A program that is started again when it dies, a bounded number of times.

    Args:
        name: For the log.
        launch: Starts the program; called again for each restart.
        guard: Told of every process.
        signals: How it is stopped: signals with their seconds.
        give_up: Called when it died too often.
        ready: Waits until the started program is of use, and raises when it will not be.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], subprocess.Popen[bytes]],
        guard: Guard,
        signals: Signals,
        give_up: Callable[[str], None],
        ready: Callable[[subprocess.Popen[bytes]], Awaitable[None]] | None = None,
    ) -> None:
        self._name = name
        self._launch = launch
        self._guard = guard
        self._signals = signals
        self._give_up = give_up
        self._ready = ready
        self._restarts: deque[float] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the program, and return when it is ready; what goes wrong is raised."""
        await self._begin()
        self._watcher = asyncio.create_task(self._watch())

    async def _begin(self) -> None:
        self._process = self._launch()
        self._guard.add(self._process)
        try:
            if self._ready:
                await self._ready(self._process)
        except BaseException:
            await self._end()
            raise

    async def _end(self) -> None:
        if self._process:
            await stop(self._process, self._signals)
            self._guard.remove(self._process)
            self._process = None

    async def _watch(self) -> None:
        while True:
            if self._process:
                code = await exit_code(self._process)
                self._guard.remove(self._process)
                self._process = None
                _log.error("%s ended with exit code %s", self._name, code)
            now = time.monotonic()
            while self._restarts and now - self._restarts[0] > _RESTART_WINDOW:
                self._restarts.popleft()
            if len(self._restarts) == _RESTARTS:
                self._give_up(f"{self._name} died {_RESTARTS + 1} times within a minute")
                return
            await asyncio.sleep(_FIRST_DELAY * 2 ** len(self._restarts))
            self._restarts.append(now)
            try:
                await self._begin()
            except PictureQueueError as error:
                _log.error("%s did not start again: %s", self._name, error)

    async def stop(self) -> None:
        """Stop the program and wait for its end."""
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await self._end()
