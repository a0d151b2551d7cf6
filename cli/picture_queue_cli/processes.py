"""Run a command in several child processes, and restart those that end."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import typer

from picture_queue.errors import SettingsError
from picture_queue_cli.errors import ExitCode

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MAX_FORWARDED = 2  # signals that are forwarded; the next one kills the child processes
#: Exit codes of a child process that another start would only repeat.
_FATAL_CODES = {ExitCode.USAGE, ExitCode.NOT_ALLOWED, ExitCode.VERSION}
# The delay before a restart in seconds: it doubles with each failure, up to the maximum. A child
# process that ran for a minute was healthy, so its next restart has the first delay again.
_FIRST_DELAY = 0.5
_MAX_DELAY = 30.0
_HEALTHY_AFTER = 60.0
#: Seconds that child processes get to finish their jobs when files have changed.
_RELOAD_GRACE = 2.0


class ProcessSupervisor:
    """A parent of child processes, all of which run the command line of this process.

    Each child process gets the hidden option ``--child INDEX:FD``. The descriptor is the read end
    of a pipe whose write end only this process has. So the child reads its end when this process
    dies, even by SIGKILL.

    Args:
        count: Number of child processes.
        restarts: Whether a child process that ended without an error is started again.
        watched: A directory; a change of a Python file in it restarts the child processes. None:
            nothing is watched.
    """

    def __init__(self, count: int, restarts: bool, watched: Path | None) -> None:
        self._count = count
        self._restarts = restarts
        self._watched = watched
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._received = 0  # signals
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._pipe = os.pipe()

    async def run(self) -> int:
        """Run the child processes until all have ended for good; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        watching = asyncio.create_task(self._watch())
        try:
            codes = await asyncio.gather(
                *(self._keep_running(index + 1) for index in range(self._count))
            )
        finally:
            self._stopping.set()
            await asyncio.wait({watching})
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            for descriptor in self._pipe:
                os.close(descriptor)
        watching.result()
        return next((code for code in codes if code), 0)

    def _on_signal(self, number: int) -> None:
        self._received += 1
        self._stopping.set()
        is_last = self._received > _MAX_FORWARDED
        self._send_signal(signal.SIGKILL if is_last else number)

    def _send_signal(self, number: int) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    async def _keep_running(self, index: int) -> int:
        """Start a child process, and start it again until it should not run any more."""
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            self._changed.clear()
            started_at = time.monotonic()
            code = await self._run_child(index)
            if self._watched is not None:
                # The next change may repair the program that has failed.
                if not self._changed.is_set():
                    logging.warning("Worker process %d has ended: waiting for a change", index)
                    await _wait_for_any(self._changed, self._stopping)
                continue
            if code == 0 and not self._restarts:
                return 0
            if code in _FATAL_CODES:
                self._stopping.set()
                self._send_signal(signal.SIGTERM)
            if self._stopping.is_set():
                return max(code, 0)
            if code == 0:
                continue
            if time.monotonic() - started_at >= _HEALTHY_AFTER:
                delay = _FIRST_DELAY
            logging.error("Worker process %d %s; next start in %g s", index, _describe(code), delay)
            await _wait_for_any(self._stopping, timeout=delay)
            delay = min(2 * delay, _MAX_DELAY)
        return 0

    async def _run_child(self, index: int) -> int:
        reader = self._pipe[0]
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, *sys.orig_argv[1:], "--child", f"{index}:{reader}"),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(reader,),
            # Ctrl-C in a terminal sends SIGINT to the process group of this process, which forwards
            # the signal. In the same group, child processes would get the signal twice.
            process_group=0,
        )
        self._children[index] = child
        if self._stopping.is_set():  # by a signal that arrived during the start
            self._send_signal(signal.SIGTERM)
        try:
            return await child.wait()
        finally:
            del self._children[index]

    async def _watch(self) -> None:
        """Restart the child processes whenever a file changes."""
        if self._watched is None:
            return
        async for changes in _watch_files(self._watched, self._stopping):
            logging.info("Reloading: %s has changed", next(iter(changes)))
            self._changed.set()
            self._send_signal(signal.SIGTERM)
            if self._children:
                waiting = {asyncio.create_task(c.wait()) for c in self._children.values()}
                _, running = await asyncio.wait(waiting, timeout=_RELOAD_GRACE)
                if running:
                    self._send_signal(signal.SIGTERM)  # the second one releases running jobs


async def _wait_for_any(*events: asyncio.Event, timeout: float | None = None) -> None:
    waiting = {asyncio.create_task(event.wait()) for event in events}
    await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _watch_files(directory: Path, stop: asyncio.Event) -> AsyncIterator[set[str]]:
    from watchfiles import PythonFilter, awatch

    async for changes in awatch(directory, watch_filter=PythonFilter(), stop_event=stop):
        yield {path for _, path in changes}


def _describe(code: int) -> str:
    if code >= 0:
        return f"has failed with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def supervise(count: int, restarts: bool, reload: bool) -> None:
    """Run the command line of this process in child processes, and exit with their exit code.

    Args:
        count: Number of child processes.
        restarts: Whether a child process that ended without an error is started again.
        reload: Whether a change of a Python file below the current directory restarts them.

    Raises:
        SettingsError: This system or the installed packages do not support it.
    """
    if sys.platform == "win32":
        raise SettingsError(
            "--processes and --reload do not work on Windows", hint="Start several workers"
        )
    if reload:
        try:
            import watchfiles  # noqa: F401
        except ImportError as error:
            raise SettingsError(
                "--reload needs the package watchfiles", hint="Run: pip install watchfiles"
            ) from error

    async def run() -> int:
        return await ProcessSupervisor(count, restarts, Path.cwd() if reload else None).run()

    raise typer.Exit(asyncio.run(run()))


def end_with_parent(reader: int) -> None:
    """Send SIGTERM to this process when its parent has died.

    Args:
        reader: The read end of a pipe whose write end only the parent has.
    """

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(reader, 1)  # returns when the last write end is closed
        logging.error("The parent of this worker process has died: stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def parse_child(text: str) -> tuple[int, int]:
    """Parse the option ``--child``: the index of the child process, and the read end of a pipe."""
    index, _, reader = text.partition(":")
    if not (index.isdecimal() and reader.isdecimal()):
        raise SettingsError(f"--child is {text!r}", hint="Use --processes, which sets it")
    return int(index), int(reader)
