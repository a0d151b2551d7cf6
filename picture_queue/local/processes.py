"""Child processes of the stack: start with a log, stop with a timeout, and their log files."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from picture_queue.errors import LocalStackError
from picture_queue.local.ownership import open_log, open_own

_POLL_INTERVAL = 0.02  # seconds
_ORPHAN_TIMEOUT = 20.0  # seconds
_START_TIME_TOLERANCE = 2.0  # seconds by which two readings of a process's start time may differ
LOG_LIMIT = 5_000_000  # bytes of one log file; one older file of that size is kept
# The variables that Postgres and PostgREST get from the caller's environment. The others may be
# settings of another server, or tokens that SQL could read.
_PASSED_VARIABLES = ("PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def program_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of Postgres or PostgREST."""
    passed = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
    return passed | {"LC_ALL": "C"} | dict(extra or {})


def spawn(
    command: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path,
    env: Mapping[str, str],
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in its own session, so that Ctrl-C in a terminal does not reach it.

    Args:
        command: The program and its arguments.
        log: The file to which the program's output is appended.
        cwd: The working directory.
        env: The complete environment.
        descriptors: Other file descriptors that the program inherits.

    Raises:
        LocalStackError: The program cannot be started.
    """
    try:
        with open_log(log) as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
                pass_fds=descriptors,
            )
    except OSError as error:
        raise LocalStackError(f"{command[0]} cannot be started: {error.strerror}") from error


async def wait_for_exit(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end and return its exit code; the wait can be cancelled."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def report(code: int) -> None:
        if not ended.done():
            ended.set_result(code)

    def wait() -> None:
        code = process.wait()
        if not loop.is_closed():
            loop.call_soon_threadsafe(report, code)

    # Use a thread of its own: the end of the event loop would wait for a thread of its executor.
    threading.Thread(target=wait, name=f"wait-{process.pid}", daemon=True).start()
    return await ended


async def stop(
    process: subprocess.Popen[bytes], signals: Sequence[tuple[signal.Signals, float]]
) -> None:
    """Send signals to a process, each with a timeout in seconds, then SIGKILL, until it ends."""
    waiting = asyncio.ensure_future(wait_for_exit(process))
    try:
        for number, seconds in signals:
            if process.poll() is None:
                process.send_signal(number)
            done, _ = await asyncio.wait([waiting], timeout=seconds)
            if done:
                return
        process.kill()
        await asyncio.wait([waiting], timeout=10)
    finally:
        waiting.cancel()


def find_process(pid: int, started: float, uid: int) -> psutil.Process | None:
    """Return a running process by its pid, start time and user; None if there is none.

    The user matters because root signals processes by pids that the service user wrote.
    """
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started) < _START_TIME_TOLERANCE
        if is_same and process.uids().effective == uid and is_running(process):
            return process
    return None


def is_running(process: psutil.Process) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until a condition holds; return False if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_INTERVAL)
    return True


def end_orphan(process: psutil.Process) -> None:
    """End a program that outlived its stack, and wait for its end."""
    with contextlib.suppress(psutil.Error):
        # Only Postgres needs an orderly shutdown: a new Postgres cannot start before all children
        # of the old one have ended.
        number = signal.SIGINT if process.name() == "postgres" else signal.SIGKILL
        process.send_signal(number)
        wait_until(lambda: not is_running(process), _ORPHAN_TIMEOUT)


def rotate(log: Path) -> None:
    """Rename the log of the last run to `<name>.1`, so that the next run starts an empty log."""
    if log.exists() and log.stat().st_size:
        log.replace(log.with_name(f"{log.name}.1"))


def trim(log: Path) -> None:
    """Copy a log above the limit to `<name>.1` and truncate it; programs still append to it."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        older = log.with_name(f"{log.name}.1")
        older.unlink(missing_ok=True)
        with log.open("rb") as old, open_log(older) as copy:
            shutil.copyfileobj(old, copy)
        os.truncate(log, 0)


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with open(open_own(log, os.O_RDONLY, log.parent.stat().st_uid), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            text = file.read().decode("utf-8", "replace")
    except (OSError, LocalStackError):
        return ""
    return "\n".join(text.splitlines()[-lines:])
