"""A script that the daemon starts, and that ends the stack's programs if the daemon is killed.

Usage: ``guard.py [directory to delete]``. The daemon writes the line ``+<pid>`` for each program
that starts, ``-<pid>`` for each program that ends, and ``keep`` if the directory must stay. When
standard input ends, which also happens when the daemon is killed, the script ends the programs that
still run, the last started first.

The script imports nothing of the package, so it needs little memory (20 MB).
"""

import contextlib
import os
import shutil
import signal
import sys
import time

import psutil

# Each signal has its timeout in seconds.
_STOP_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 5.0))
_DELETE_TIMEOUT = 5.0  # seconds
_POLL_INTERVAL = 0.02  # seconds


def main() -> None:
    """Read lines until the daemon closes the pipe, then end the programs that are left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory = sys.argv[1] if len(sys.argv) > 1 else None
    watched: dict[int, psutil.Process] = {}
    for line in sys.stdin:
        message = line.strip()
        if message == "keep":
            directory = None
        elif message.startswith("+"):
            with contextlib.suppress(psutil.NoSuchProcess):
                # psutil also remembers the start time, so a later process with the same pid is not
                # a match.
                watched[int(message[1:])] = psutil.Process(int(message[1:]))
        elif message.startswith("-"):
            watched.pop(int(message[1:]), None)
    for process in reversed(watched.values()):
        _stop(process)
    if directory:
        _delete(directory)


def _stop(process: psutil.Process) -> None:
    for number, seconds in _STOP_SIGNALS:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
        deadline = time.monotonic() + seconds
        while _is_running(process) and time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL)
        if not _is_running(process):
            return


def _is_running(process: psutil.Process) -> bool:
    try:
        # A zombie has ended. It remains if its parent does not wait for it.
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _delete(directory: str) -> None:
    """Delete a directory, and repeat this while children of a program still write there."""
    deadline = time.monotonic() + _DELETE_TIMEOUT
    while os.path.exists(directory) and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(_POLL_INTERVAL)


if __name__ == "__main__":
    main()
