"""The embedded Supabase for programs: in a `with` block or in the background.

```python
from picture_queue.local import LocalSupabase

with LocalSupabase() as stack:
    print(stack.api_url, stack.service_role_key)
```
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from picture_queue import errors
from picture_queue.errors import LocalStackError, StackNotRunning
from picture_queue.local import launch
from picture_queue.local.datadir import DataDir
from picture_queue.local.launch import Notice
from picture_queue.local.ownership import set_directory_mode
from picture_queue.local.paths import default_data_dir
from picture_queue.local.ports import DEFAULT_API_PORT
from picture_queue.local.processes import is_running, wait_until

_STOP_TIMEOUT = launch.STOP_TIMEOUT


def print_notice(line: str) -> None:
    """Write a line about a download to standard error."""
    print(line, file=sys.stderr, flush=True)


class LocalSupabase:
    """An embedded Supabase that runs until the end of the block, and no longer than this process.

    It works with `with` and `async with`. The attributes below are set while the stack runs.

    Args:
        data_dir: The data directory; None: a temporary directory, which is deleted at the end.
        port: Port of the API; 0 takes a free one.
        worker: Whether the stack also runs a worker with the built-in handlers.
        durable: Whether committed data survives a power failure. None: yes, except in a temporary
            directory.
        replicate_seconds: Duration of the simulator's predictions; None: as long as real models.
        migrations: Whether to apply the migrations of picture-queue. Without them, the stack is
            like a new Supabase project.
        real_replicate: Whether the worker uses the real Replicate with `REPLICATE_API_TOKEN`, which
            costs money.
        allowed_origins: Origins, besides loopback, whose pages may call the API.
        notice: Called with one line before a download starts.

    Attributes:
        api_url: Address for Supabase clients.
        db_url: Address of the database for the role `postgres`, in the form that psql accepts.
        anon_key: JWT of the role anon.
        service_role_key: JWT of the role service_role.
        publishable_key: Opaque key (`sb_publishable_…`) of the role anon.
        secret_key: Opaque key (`sb_secret_…`) of the role service_role.
        jwt_secret: HS256 secret that signs the tokens of users.
        replicate_url: `REPLICATE_BASE_URL` of the simulator.
        replicate_token: `REPLICATE_API_TOKEN` of the simulator.
        postgres: Version and origin of Postgres.
        postgrest: Version and origin of PostgREST.
        data_dir: The data directory.
    """

    api_url: str
    db_url: str
    anon_key: str
    service_role_key: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    replicate_url: str
    replicate_token: str
    postgres: str
    postgrest: str
    data_dir: Path

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        worker: bool = False,
        durable: bool | None = None,
        replicate_seconds: float | None = None,
        migrations: bool = True,
        real_replicate: bool = False,
        allowed_origins: tuple[str, ...] = (),
        notice: Notice = print_notice,
    ) -> None:
        self._temporary = data_dir is None
        self._directory = Path(data_dir or "")
        self._settings: dict[str, Any] = dict(
            port=port,
            worker=worker,
            durable=not self._temporary if durable is None else durable,
            lifeline=True,
            temporary=self._temporary,
            replicate_seconds=replicate_seconds,
            migrations=migrations,
            real_replicate=real_replicate,
            allowed_origins=allowed_origins,
        )
        self._notice = notice
        self._process: subprocess.Popen[bytes] | None = None
        self._data: DataDir | None = None
        self._status: dict[str, str] = {}

    def start(self) -> Self:
        """Start the stack and wait until it is ready.

        Raises:
            PortTaken: Another program has the port.
            StackAlreadyRunning: Another stack has the data directory.
            MissingProgram: Postgres or PostgREST is missing and could not be downloaded.
            LocalStackError: The stack did not start for another reason.
        """
        if self._process:
            raise errors.StackAlreadyRunning("This stack is already running")
        self._data = DataDir(_temporary_directory() if self._temporary else self._directory)
        try:
            self._process, self._status = launch.launch_daemon(
                self._data, self._notice, **self._settings
            )
        except BaseException:
            self._delete_temporary()
            raise
        for name, value in self._status.items():
            setattr(self, name.lower(), value)
        self.data_dir = self._data.path
        return self

    def stop(self) -> None:
        """Stop the stack and delete a temporary data directory. A second call does nothing.

        Raises:
            LocalStackError: A program of the stack does not end.
        """
        process, self._process = self._process, None
        if process is None or self._data is None:
            return
        try:
            launch.end_daemon(process, self._data)
        finally:
            self._delete_temporary()

    def _delete_temporary(self) -> None:
        if self._temporary and self._data:
            shutil.rmtree(self._data.path, ignore_errors=True)

    def status(self) -> dict[str, str]:
        """Return the values that `picture-queue local status --json` prints.

        Raises:
            StackNotRunning: The stack has not been started, or has ended.
        """
        if self._process is None or self._process.poll() is not None:
            raise StackNotRunning("This stack is not running")
        return dict(self._status)

    @property
    def superuser_url(self) -> str:
        """Address of the database for the superuser `supabase_admin`, over its socket.

        Take care: in sessions of the superuser, triggers and functions that `postgres` created run
        as the superuser, who can do what the operating system's user of the stack can do.

        Raises:
            StackNotRunning: The stack has not been started, or has ended.
        """
        state = self._data and self._data.read_state()
        if not state:
            raise StackNotRunning("This stack is not running")
        url: str = state["superuser_url"]
        return url

    def __enter__(self) -> Self:
        """Start the stack."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the stack."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start the stack."""
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be interrupted. Let it finish, then stop the stack.
            with contextlib.suppress(LocalStackError):
                await starting
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the stack."""
        await asyncio.to_thread(self.stop)


def start_background(
    data_dir: Path | None = None,
    *,
    port: int = DEFAULT_API_PORT,
    worker: bool = True,
    real_replicate: bool = False,
    allowed_origins: tuple[str, ...] = (),
    notice: Notice = print_notice,
) -> dict[str, str]:
    """Start a stack that continues after this process, until `stop`.

    Args:
        data_dir: The data directory; None takes the user's default.
        port: Port of the API; 0 takes a free one.
        worker: Whether the stack also runs a worker.
        real_replicate: Whether the worker uses the real Replicate with `REPLICATE_API_TOKEN`, which
            costs money.
        allowed_origins: Origins, besides loopback, whose pages may call the API.
        notice: Called with one line before a download starts.

    Returns:
        The values that `status` returns.

    Raises:
        PortTaken: Another program has the port.
        StackAlreadyRunning: A stack is running in that directory.
        MissingProgram: Postgres or PostgREST is missing and could not be downloaded.
        LocalStackError: The stack did not start for another reason.
    """
    data = DataDir(data_dir or default_data_dir())
    process, status = launch.launch_daemon(
        data,
        notice,
        port=port,
        worker=worker,
        real_replicate=real_replicate,
        allowed_origins=allowed_origins,
    )
    # Collect the exit code if the stack ends before this process.
    threading.Thread(target=process.wait, name="stack-ended", daemon=True).start()
    return status


def status(data_dir: Path | None = None) -> dict[str, str]:
    """Return the addresses and keys of the stack that runs in a data directory.

    Returns:
        API_URL, DB_URL, ANON_KEY, SERVICE_ROLE_KEY, PUBLISHABLE_KEY, SECRET_KEY,
        JWT_SECRET, REPLICATE_URL, REPLICATE_TOKEN, DATA_DIR, POSTGRES and POSTGREST.

    Raises:
        StackNotRunning: No stack is running there, or it is not ready yet.
    """
    data = DataDir(data_dir or default_data_dir())
    state = data.read_state()
    if state is None:
        raise _not_running(data)
    values: dict[str, str] = state["status"]
    return values


def stop(data_dir: Path | None = None) -> None:
    """Stop the stack of a data directory, or the programs that outlived the stack; keep the data.

    Raises:
        StackNotRunning: No stack is running there.
        LocalStackError: A program of the stack does not end.
    """
    data = DataDir(data_dir or default_data_dir())
    daemon = data.find_daemon()
    if daemon is None:
        if not data.is_locked() and not data.find_programs():
            raise _not_running(data)
        launch.wait_until_unlocked(data)  # the guard of a killed stack ends its programs
        data.clean_up()
        return
    with contextlib.suppress(psutil.Error):
        daemon.terminate()
    if not wait_until(lambda: not (data.is_locked() or is_running(daemon)), _STOP_TIMEOUT):
        with contextlib.suppress(psutil.Error):
            daemon.kill()
        launch.wait_until_unlocked(data)


def has_stack(data_dir: Path | None = None) -> bool:
    """Return whether a start of a stack has used a directory.

    Raises:
        LocalStackError: The path belongs to another user, is a symlink, or is not a directory.
    """
    data = DataDir(data_dir or default_data_dir())
    return data.is_marked()


def reset(data_dir: Path | None = None) -> None:
    """Stop a stack if it is running, and delete its data.

    Raises:
        LocalStackError: The directory contains no stack, the stack does not stop, or a file cannot
            be deleted.
    """
    data = DataDir(data_dir or default_data_dir())
    data.expect_stack()
    with contextlib.suppress(StackNotRunning):
        stop(data_dir)
    launch.wait_until_unlocked(data)
    data.delete()


def _temporary_directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="picture-queue-"))
    # Let the service user enter the directory. The start of the stack sets mode 0700.
    set_directory_mode(path, 0o711)
    return path


def _not_running(data: DataDir) -> StackNotRunning:
    if data.find_daemon() is None and data.find_programs():
        return StackNotRunning(
            f"The stack in {data.path} was killed, and programs of it still run",
            hint=f"End them with {data.command('stop')}.",
        )
    return StackNotRunning(
        f"No stack is running in {data.path}", hint=f"Start it with {data.command('start')}."
    )
