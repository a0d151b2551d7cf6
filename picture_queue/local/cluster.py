"""One Postgres cluster of the embedded stack: made once, then started and stopped."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from picture_queue.errors import LocalStackError
from picture_queue.local.binaries import find_postgres, for_user
from picture_queue.local.keys import DATABASE_PASSWORD
from picture_queue.local.migrate import apply_migrations, apply_platform, platform_digest
from picture_queue.local.paths import ServiceUser, reachable
from picture_queue.local.processes import (
    exit_code,
    program_environment,
    runs,
    spawn,
    tail,
    wait_until,
)
from picture_queue.local.supervise import Guard

SUPERUSER = "supabase_admin"

_INITDB_TIMEOUT = 120.0
_START_TIMEOUT = 60.0  # seconds; recovery after a crash is part of a start
_ORPHAN_TIMEOUT = 20.0
_POLL = 0.01
# Fast shutdown, then immediate: the next start recovers from the write-ahead log.
STOP_SIGNALS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # two stacks never meet, and no path is too long
    "max_connections": "100",
    "wal_level": "logical",  # as on the platform
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "jit": "off",  # compiling costs more than any of our queries
}


class Cluster:
    """A cluster in a directory. Everything in it belongs to the user that runs Postgres.

    Args:
        directory: The stack's data directory; exists.
        port: TCP port on loopback.
        log: File for the server's output.
        user: Who runs the server; None is the caller.
        durable: False trades safety against power loss for speed; for data thrown away anyway.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        log: Path,
        user: ServiceUser | None,
        durable: bool = True,
    ) -> None:
        self._data = directory / "postgres"
        self._marker = directory / "platform.sha256"
        self._log = log
        self._user = user
        self._durable = durable
        self.program = for_user(find_postgres(self._made_by()), user)
        self.port = port

    @property
    def dsn(self) -> str:
        """The address for users: role `postgres`."""
        return self._dsn("postgres")

    @property
    def superuser_dsn(self) -> str:
        """The address for the stack itself."""
        return self._dsn(SUPERUSER)

    @property
    def authenticator_dsn(self) -> str:
        """The address for PostgREST."""
        return self._dsn("authenticator")

    def _dsn(self, role: str) -> str:
        return f"postgresql://{role}:{DATABASE_PASSWORD}@127.0.0.1:{self.port}/postgres"

    def _made_by(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self._data / "PG_VERSION").read_text())
        return None

    @property
    def complete(self) -> bool:
        """Whether the cluster was made and has the platform's objects."""
        return self._marker.exists()

    async def initialise(self, guard: Guard) -> None:
        """Makes the cluster unless it is there.

        Args:
            guard: Told of `initdb`.

        Raises:
            LocalStackError: The directory cannot be used, or `initdb` failed.
        """
        await self._end_orphan()
        if self.complete:
            return
        # Without the marker an earlier first start was interrupted; nobody has seen its data.
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self._data, self._user.uid, self._user.gid)
        if not reachable(self._data, self._user):
            self._data.rmdir()
            raise _unreachable(self._data.parent, self._user)
        with tempfile.NamedTemporaryFile("w", dir=self._data.parent) as password:
            password.write(DATABASE_PASSWORD)
            password.flush()
            if self._user:
                os.fchown(password.fileno(), self._user.uid, self._user.gid)
            await self._initdb(guard, password.name)

    async def _initdb(self, guard: Guard, password_file: str) -> None:
        unicode_rules = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        process = spawn(
            [
                self.program.path / "initdb",
                *("--pgdata", self._data, "--username", SUPERUSER, "--pwfile", password_file),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *(unicode_rules if self.program.major >= 17 else ()),
                "--no-sync",  # of an empty cluster; a crash before the marker makes a new one
                "--no-instructions",
            ],
            log=self._log,
            cwd=self._data.parent,
            env=program_environment(),
            user=self._user,
        )
        guard.add(process)
        try:
            await asyncio.wait_for(exit_code(process), _INITDB_TIMEOUT)
        except TimeoutError as error:
            raise LocalStackError(f"initdb took over {_INITDB_TIMEOUT:.0f} s") from error
        finally:
            if process.poll() is None:
                # Its backend would go on writing for a moment: the whole group goes.
                os.killpg(process.pid, signal.SIGKILL)
                await exit_code(process)
            guard.remove(process)
        if process.returncode:
            raise LocalStackError("initdb failed", detail=tail(self._log))

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the server on `port`; `ready` tells when it takes connections.

        Raises:
            LocalStackError: It cannot be started.
        """
        settings = _SETTINGS | {"port": str(self.port)}
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return spawn(
            [
                self.program.path / "postgres",
                *("-D", self._data),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            log=self._log,
            cwd=self._data,
            env=program_environment(),
            user=self._user,
        )

    async def ready(self, process: subprocess.Popen[bytes]) -> None:
        """Waits until the server takes connections.

        Raises:
            LocalStackError: It ended, or took too long.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise LocalStackError("Postgres did not start", detail=tail(self._log))
            # What `pg_ctl start` waits for: the pid in the first line, the state in the eighth.
            lines = self._pid_file()
            if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return
            await asyncio.sleep(_POLL)
        raise LocalStackError(
            f"Postgres was not ready after {_START_TIMEOUT:.0f} s", detail=tail(self._log)
        )

    def _pid_file(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self._data / "postmaster.pid").read_text().splitlines()
        return []

    async def _end_orphan(self) -> None:
        """Ends a server that outlived its stack, which takes a kill -9 of the stack's guard too."""
        lines = self._pid_file()
        if len(lines) < 3:
            return
        with contextlib.suppress(psutil.Error, ValueError):
            orphan = psutil.Process(int(lines[0]))
            # The pid may be somebody else's by now; the third line is the server's start.
            if abs(orphan.create_time() - int(lines[2])) > 5 or "postgres" not in orphan.name():
                return
            orphan.send_signal(signal.SIGINT)
            await asyncio.to_thread(wait_until, lambda: not runs(orphan), _ORPHAN_TIMEOUT)

    async def prepare(self, migrations: bool = True) -> list[str]:
        """Brings the started server's database up to date: platform, then our migrations.

        Args:
            migrations: Whether the latter are wanted.

        Returns:
            The names of the migrations applied now.

        Raises:
            LocalStackError: A statement failed.
        """
        if not self.complete:
            await apply_platform(self.superuser_dsn)
            self._marker.write_text(platform_digest() + "\n")
        return await apply_migrations(self.dsn) if migrations else []


def _unreachable(path: Path, user: ServiceUser | None) -> LocalStackError:
    who = user.name if user else "the caller"
    return LocalStackError(
        f"User {who}, who runs Postgres for root, cannot reach the data directory",
        detail=str(path),
        hint="Choose a directory below /var/lib or /tmp, or start the stack as an ordinary user.",
    )
