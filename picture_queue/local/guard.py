"""Ends the stack's programs when the stack itself could not: run as a script by the daemon.

Usage: ``guard.py [directory to delete]``. Standard input takes ``+<pid>`` and ``-<pid>`` lines for
programs started and ended, and ``keep`` when the directory is to stay. At end of file, which also
comes when the daemon is killed, whatever is left is stopped, the last started first.

It stands alone on purpose: a process of 20 MB that imports nothing of the package.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

import psutil

_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 5.0))
_DELETE_SECONDS = 5.0
_POLL = 0.02


def main() -> None:
    """Read what to watch until the daemon closes the pipe, then stop what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    doomed = sys.argv[1] if len(sys.argv) > 1 else None
    watched: dict[int, psutil.Process] = {}
    for line in sys.stdin:
        word = line.strip()
        if word == "keep":
            doomed = None
        elif word.startswith("+"):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Remembers the start time too: a recycled pid is never taken for the program.
                watched[int(word[1:])] = psutil.Process(int(word[1:]))
        elif word.startswith("-"):
            watched.pop(int(word[1:]), None)
    for process in reversed(watched.values()):
        _stop(process)
    if doomed:
        _delete(doomed)


def _stop(process: psutil.Process) -> None:
    for number, seconds in _SIGNALS:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
        deadline = time.monotonic() + seconds
        while _runs(process) and time.monotonic() < deadline:
            time.sleep(_POLL)
        if not _runs(process):
            return


def _runs(process: psutil.Process) -> bool:
    try:
        # Nobody may be there to collect it: a zombie has ended.
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _delete(directory: str) -> None:
    """Delete a directory; a program's own children may be writing there for a moment more."""
    deadline = time.monotonic() + _DELETE_SECONDS
    while os.path.exists(directory) and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(_POLL)


if __name__ == "__main__":
    main()
