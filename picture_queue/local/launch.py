"""Start and stop of a stack's daemon, in the process that starts the daemon."""

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

from picture_queue import errors
from picture_queue.errors import LocalStackError
from picture_queue.local.binaries import find_postgres, make_reachable
from picture_queue.local.datadir import DataDir
from picture_queue.local.fetch import ensure_postgrest
from picture_queue.local.options import Options
from picture_queue.local.paths import service_user
from picture_queue.local.processes import tail, wait_until
from picture_queue.local.runtime import runtime_for

STOP_TIMEOUT = 60.0  # seconds; the sum of the timeouts of all parts
_START_TIMEOUT = 120.0  # seconds
_KILL_TIMEOUT = 30.0  # seconds
_SHOWN_LINES = 12  # of a log, in an error message
# Prefixes of the variables that a stack gets from root's environment: paths, the language, Python,
# settings of picture-queue, settings of Replicate, proxies and certificates.
_PREFIXES_PASSED_BY_ROOT = (
    *("PATH", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_", "LANG", "LC_", "PYTHON", "COVERAGE_"),
    *("PICTURE_QUEUE_", "REPLICATE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_", "NO_COLOR"),
)

Notice = Callable[[str], None]


def launch_daemon(
    data: DataDir, notice: Notice, **settings: Any
) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start a daemon and wait until it is ready.

    Args:
        data: The stack's data directory.
        notice: Called with one line when something has to be downloaded first.
        settings: Fields of `Options`.

    Returns:
        The process, and the values that `status` returns.

    Raises:
        LocalStackError: The daemon did not start.
    """
    user = service_user()
    data.prepare(user)
    # This process finds the programs, since the service user may not be able to read their paths.
    postgrest = make_reachable(ensure_postgrest(notice), user)
    postgres = make_reachable(find_postgres(data.postgres_version()), user)
    options = Options(data.path, postgres, postgrest, **settings)
    runtime = runtime_for(user, data.path)
    # This file is for errors before the daemon opens its log. The file has no name, since root must
    # not write into a directory of the service user.
    with tempfile.TemporaryFile() as startup_errors:
        try:
            process = subprocess.Popen(
                # -P: the daemon imports nothing from its working directory.
                [runtime.program, "-P", "-m", "picture_queue.local.daemon", *options.arguments()],
                stdin=subprocess.PIPE if options.lifeline else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=startup_errors,
                # Ctrl-C interrupts only this process, which then stops the daemon.
                start_new_session=True,
                pass_fds=runtime.descriptors,
                env={**_environment(options), **runtime.environment},
                **runtime.identity,
            )
        finally:
            runtime.close()
        try:
            status = _read_reply(process, data, startup_errors)
        except BaseException:
            end_daemon(process, data)
            raise
    return process, status


def _environment(options: Options) -> dict[str, str]:
    """Return the daemon's environment.

    Every program of the stack's user can read the environment. So the Replicate token is left out
    if the simulator is used. Root's environment may hold any secret, so the daemon gets only those
    variables of root that the stack needs.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SUPABASE_") and name != "PICTURE_QUEUE_DATABASE_URL"
    }
    if os.geteuid() == 0:
        environment = {
            name: value
            for name, value in environment.items()
            if name.upper().startswith(_PREFIXES_PASSED_BY_ROOT)
        }
    if not options.real_replicate:
        environment = {
            name: value for name, value in environment.items() if not name.startswith("REPLICATE_")
        }
    return environment


def _read_reply(
    process: subprocess.Popen[bytes], data: DataDir, startup_errors: IO[bytes]
) -> dict[str, str]:
    """Return the status of the stack that the daemon sends, or raise its error."""
    assert process.stdout  # noqa: S101  # for mypy: the process was started with a pipe
    deadline = time.monotonic() + _START_TIMEOUT
    line = b""
    with process.stdout as pipe:
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                reason = f"not ready after {_START_TIMEOUT:.0f} s"
                raise _start_error(data, reason, startup_errors)
            piece = os.read(pipe.fileno(), 65536)
            if not piece:
                raise _start_error(data, "it ended unexpectedly", startup_errors)
            line += piece
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        kind, message, detail, hint = reply["error"]
        raise getattr(errors, kind)(message, detail=detail, hint=hint)
    status: dict[str, str] = reply["ready"]
    return status


def end_daemon(process: subprocess.Popen[bytes], data: DataDir) -> None:
    """Stop a daemon that this process started, and wait until its guard has ended too.

    Raises:
        LocalStackError: The daemon or one of its programs does not end.
    """
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_KILL_TIMEOUT)
    finally:
        if process.stdin:
            process.stdin.close()
    # If another stack uses the directory, the guard has ended: it held the lock.
    if data.find_daemon() is None:
        wait_until_unlocked(data)


def wait_until_unlocked(data: DataDir) -> None:
    """Wait until no program of a stack holds its data directory.

    Raises:
        LocalStackError: A program does not end.
    """
    if not wait_until(lambda: not data.is_locked(), _KILL_TIMEOUT):
        raise LocalStackError("Programs of the stack do not end", detail=str(data.path))


def _start_error(data: DataDir, reason: str, startup_errors: IO[bytes]) -> LocalStackError:
    startup_errors.seek(0)
    output = startup_errors.read().decode("utf-8", "replace").splitlines()
    log = "\n".join(output[-_SHOWN_LINES:]) or tail(data.log_path("daemon"), _SHOWN_LINES)
    return LocalStackError(f"The stack did not start: {reason}", detail=log or None)
