"""Supervision of the stack's programs: restarts, and a guard that ends them after a kill."""

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
from picture_queue.local.processes import stop, wait_for_exit
from picture_queue.local.runtime import inherited_descriptors

_log = logging.getLogger(__name__)

_MAX_RESTARTS = 5  # within `_RESTART_WINDOW`
_RESTART_WINDOW = 60.0  # seconds
_FIRST_DELAY = 0.1  # seconds; doubled with each restart in the window
_GUARD_TIMEOUT = 40.0  # seconds

Signals = Sequence[tuple[signal.Signals, float]]


class Guard:
    """The process that ends the programs if the daemon is killed; see `guard.py`.

    Args:
        descriptors: Descriptors that stay open until the guard ends: the lock of the data directory
            and the listening sockets. The lock must not be free while a program runs. If a foreign
            program could listen on a port after a kill, it would get the service key from the
            worker.
        directory: Directory to delete at the end unless `keep_directory` was called.
        record: Called with the pids and start times of the programs after each change. The next
            start uses this record if the guard was killed too.
    """

    def __init__(
        self,
        descriptors: Sequence[int],
        directory: Path | None,
        record: Callable[[Mapping[int, float]], None] = lambda _: None,
    ) -> None:
        self._record = record
        self._started: dict[int, float] = {}
        script = Path(__file__).with_name("guard.py")
        self._process = subprocess.Popen(
            # -P: the script must not import modules from its directory, such as `keys`.
            [sys.executable, "-P", script, *([directory] if directory else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[*descriptors, *inherited_descriptors()],
            cwd="/",
            start_new_session=True,
        )

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Begin to watch a program."""
        self._send(f"+{process.pid}")
        with contextlib.suppress(psutil.Error):
            self._started[process.pid] = psutil.Process(process.pid).create_time()
        self._record(self._started)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        """Stop watching a program that has ended."""
        self._send(f"-{process.pid}")
        self._started.pop(process.pid, None)
        self._record(self._started)

    def keep_directory(self) -> None:
        """Do not delete the directory at the end."""
        self._send("keep")

    def _send(self, message: str) -> None:
        pipe = self._process.stdin
        if pipe:
            # The daemon stops when the guard has ended; see `wait_ended`.
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe.fileno(), f"{message}\n".encode())

    async def wait_ended(self) -> None:
        """Wait until the guard has ended."""
        await wait_for_exit(self._process)

    async def close(self) -> None:
        """Let the guard finish and wait for it."""
        if self._process.stdin:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wait_for_exit(self._process), _GUARD_TIMEOUT)


class SupervisedProgram:
    """A program that is restarted when it dies, a limited number of times.

    Args:
        name: The name of the program in the log.
        launch: A function that starts the program; it is called again for each restart.
        guard: The guard that ends the program if this process dies.
        signals: The signals that stop the program, each with the seconds to wait afterwards.
        give_up: Called with the reason when the program died too often.
        ready: A function that waits until the program is ready, or raises an error.
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
        await self._start_program()
        self._watcher = asyncio.create_task(self._watch())

    async def _start_program(self) -> None:
        self._process = self._launch()
        self._guard.add(self._process)
        try:
            if self._ready:
                await self._ready(self._process)
        except BaseException:
            await self._stop_program()
            raise

    async def _stop_program(self) -> None:
        if self._process:
            await stop(self._process, self._signals)
            self._guard.remove(self._process)
            self._process = None

    async def _watch(self) -> None:
        while True:
            if self._process:
                code = await wait_for_exit(self._process)
                self._guard.remove(self._process)
                self._process = None
                _log.error("%s ended with exit code %s", self._name, code)
            now = time.monotonic()
            while self._restarts and now - self._restarts[0] > _RESTART_WINDOW:
                self._restarts.popleft()
            if len(self._restarts) == _MAX_RESTARTS:
                self._give_up(f"{self._name} died {_MAX_RESTARTS + 1} times within a minute")
                return
            await asyncio.sleep(_FIRST_DELAY * 2 ** len(self._restarts))
            self._restarts.append(now)
            try:
                await self._start_program()
            except PictureQueueError as error:
                _log.error("%s did not start again: %s", self._name, error)

    async def stop(self) -> None:
        """Stop the program and wait for its end."""
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await self._stop_program()
