"""Restarts of the stack's programs, and the process that ends them if the daemon is killed."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import psutil

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
    """The process that ends the programs if the daemon is killed; see `guard.py`.

    Args:
        held: Descriptors that stay open until the guard ends: the lock of the data directory, which
            must not be free while a program runs, and the listening sockets, because whoever
            listened on the ports of a killed stack would get the service key from its worker.
        doomed: Directory to delete at the end unless `keep` was called.
        record: Called with the pids and start times of the programs after each change, for the case
            that the guard is killed as well.
    """

    def __init__(
        self,
        held: Sequence[int],
        doomed: Path | None,
        record: Callable[[Mapping[int, float]], None] = lambda _: None,
    ) -> None:
        self._record = record
        self._started: dict[int, float] = {}
        script = Path(__file__).with_name("guard.py")
        self._process = subprocess.Popen(
            # -P: the script does not import the modules in its directory.
            [sys.executable, "-P", script, *([doomed] if doomed else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[*held, *inherited_descriptors()],
            cwd="/",
            start_new_session=True,
        )

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Watch a program from now on."""
        self._send(f"+{process.pid}")
        with contextlib.suppress(psutil.Error):
            self._started[process.pid] = psutil.Process(process.pid).create_time()
        self._record(self._started)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        """Forget a program that has ended."""
        self._send(f"-{process.pid}")
        self._started.pop(process.pid, None)
        self._record(self._started)

    def keep(self) -> None:
        """Leave the directory in place."""
        self._send("keep")

    def _send(self, word: str) -> None:
        pipe = self._process.stdin
        if pipe:
            # The daemon stops when the guard has ended; see `ended`.
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
        name: The name of the program in the log.
        launch: A function that starts the program; it is called again for each restart.
        guard: The guard that kills every process of the program if this process dies.
        signals: The signals that stop the program, each with the seconds to wait after it.
        give_up: Called when the program died too often.
        ready: Waits until the started program is ready, and raises an error if it will not be.
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
        """Start the program and wait until it is ready."""
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
