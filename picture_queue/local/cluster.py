"""The Postgres cluster of an embedded stack: initdb, upgrade, start and stop."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from picture_queue.errors import LocalStackError
from picture_queue.local.binaries import Program
from picture_queue.local.checked_directory import CHOOSE_ANOTHER_HINT, PLATFORM_DIGEST
from picture_queue.local.keys import Secrets
from picture_queue.local.migrate import (
    apply_migrations,
    apply_platform,
    platform_digest,
    set_passwords,
    upgrade_sql,
)
from picture_queue.local.ownership import (
    expect_safe_path,
    make_own_directory,
    open_log,
    write_own,
)
from picture_queue.local.ports import HOST, HOST_6, expect_listening
from picture_queue.local.processes import program_environment, spawn, tail, wait_for_exit
from picture_queue.local.supervise import Guard

SUPERUSER = "supabase_admin"

_INITDB_TIMEOUT = 120.0  # seconds
_START_TIMEOUT = 60.0  # seconds; the start after a crash includes the recovery
_SINGLE_USER_TIMEOUT = 60.0  # seconds
_SOCKET_PATH_LIMIT = 100  # bytes; Linux accepts 107, macOS 103
_POLL_INTERVAL = 0.01  # seconds
# Each signal has its timeout in seconds. SIGINT is a fast shutdown. SIGQUIT is an immediate
# shutdown, after which the next start does a recovery.
STOP_SIGNALS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))
_SETTINGS = {
    "listen_addresses": f"{HOST},{HOST_6}",  # without IPv6 the server only logs a warning
    # Other users of this machine and web pages can open connections without a password, and a page
    # in Chromium opens up to 256 of them. Postgres holds at most twice `max_connections`
    # connections that have not authenticated yet.
    "max_connections": "300",
    "authentication_timeout": "10s",
    "wal_level": "logical",  # as on Supabase
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "jit": "off",  # compiling costs more than any of our queries
}


class Cluster:
    """A Postgres cluster in the data directory of a stack.

    Args:
        directory: The existing data directory.
        program: The Postgres that created the cluster, or will create it.
        secrets: The passwords of the roles.
        port: TCP port on loopback.
        log: File for the server's output.
        durable: False makes Postgres faster, but it may lose data at a power failure.
    """

    def __init__(
        self,
        directory: Path,
        program: Program,
        *,
        secrets: Secrets,
        port: int,
        log: Path,
        durable: bool = True,
    ) -> None:
        self._data = directory / "postgres"
        # `prepare` writes this file when the cluster is complete.
        self._digest_file = directory / PLATFORM_DIGEST
        # `initialise` writes this file before it creates the cluster.
        self._started_file = directory / "initdb-started"
        self._password_file = directory / "password"
        self._secrets = secrets
        self._log = log
        self._durable = durable
        self.program = program
        self.port = port
        # The stack's own programs send their passwords only over a socket in a directory that is
        # closed to others. Any program can listen on the port while the server is down.
        self._sockets = self._data

    @property
    def dsn(self) -> str:
        """The connection URL for users of the stack, with the role `postgres`."""
        password = self._secrets.database_password
        return f"postgresql://postgres:{password}@{HOST}:{self.port}/postgres"

    def internal_dsn(self, role: str) -> str:
        """Return the connection URL for a program of the stack.

        Args:
            role: The role of the program. Triggers, casts and other code of users run in the
                program's sessions. So no program may log in as the superuser as soon as users can
                connect.
        """
        password = self._secrets.passwords[role]
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{role}:{password}@/postgres?host={host}&port={self.port}"

    @contextlib.contextmanager
    def socket_directory(self) -> Iterator[None]:
        """Create a directory for the socket if the path of the data directory is too long.

        Raises:
            LocalStackError: The path of the temporary directory is too long, or it is not safe.
        """
        if self._socket_fits():
            yield
            return
        parent = Path(tempfile.gettempdir()).resolve()
        expect_safe_path(parent)
        with tempfile.TemporaryDirectory(
            prefix="picture-queue-", dir=parent, ignore_cleanup_errors=True
        ) as directory:
            self._sockets = Path(directory)
            if not self._socket_fits():
                raise LocalStackError(
                    "The data directory and the temporary directory have too long paths for the"
                    " socket of Postgres",
                    detail=f"{self._data}, {parent}",
                    hint="Choose a shorter path with --data-dir.",
                )
            yield

    def _socket_fits(self) -> bool:
        path = self._sockets / f".s.PGSQL.{self.port}"
        return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT

    @property
    def is_complete(self) -> bool:
        """True if the cluster exists and has Supabase's objects."""
        return self._digest_file.exists()

    @property
    def is_outdated(self) -> bool:
        """True if an older version created Supabase's objects."""
        return self.is_complete and self._digest_file.read_text().strip() != platform_digest()

    async def initialise(self, guard: Guard) -> None:
        """Create the cluster unless it exists.

        Args:
            guard: The guard, which ends `initdb` if the daemon is killed.

        Raises:
            LocalStackError: The directory cannot be used, or `initdb` failed.
        """
        if self.is_complete:
            return
        if self._started_file.exists():
            # The first start was interrupted before `prepare` ended, so there is no data of users.
            shutil.rmtree(self._data, ignore_errors=True)
        make_own_directory(self._data)
        if any(self._data.iterdir()):
            raise LocalStackError(
                "The data directory contains a database that no start of this version began",
                detail=str(self._data),
                hint=f"If you do not need its data, delete it. {CHOOSE_ANOTHER_HINT}",
            )
        write_own(self._started_file, "")
        write_own(self._password_file, self._secrets.superuser_password)
        try:
            await self._initdb(guard)
        finally:
            self._password_file.unlink()

    async def _initdb(self, guard: Guard) -> None:
        builtin_locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        self.program.expect_unchanged()
        process = spawn(
            [
                self.program.path / "initdb",
                *("--pgdata", self._data, "--username", SUPERUSER),
                *("--pwfile", self._password_file),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *(builtin_locale if self.program.major >= 17 else ()),
                # If the machine crashes before `prepare` ends, the next start runs initdb again.
                "--no-sync",
                "--no-instructions",
            ],
            log=self._log,
            cwd=self._data.parent,
            env=program_environment(),
        )
        guard.add(process)
        try:
            await asyncio.wait_for(wait_for_exit(process), _INITDB_TIMEOUT)
        except TimeoutError as error:
            raise LocalStackError(f"initdb took over {_INITDB_TIMEOUT:.0f} s") from error
        finally:
            if process.poll() is None:
                # Kill the process group, since the Postgres that initdb started would still write.
                os.killpg(process.pid, signal.SIGKILL)
                await wait_for_exit(process)
            guard.remove(process)
        if process.returncode:
            raise LocalStackError("initdb failed", detail=tail(self._log))

    def upgrade(self) -> None:
        """Give the stopped cluster of an older version the current roles, privileges and passwords.

        Raises:
            LocalStackError: Postgres failed.
        """
        # In single-user mode, nobody can connect with the passwords of the older version, which are
        # public. Event triggers do not run in this mode, and this search_path finds no objects of
        # users.
        statements = "\n".join(
            ("set search_path = pg_catalog, pg_temp;", upgrade_sql(), self._password_sql())
        )
        # With -j an empty line after a semicolon ends a command. Without empty lines all statements
        # are one command, and so one transaction.
        command = re.sub(r";\s*\n\s*\n", ";\n", statements).strip() + "\n\n"
        self.program.expect_unchanged()
        try:
            with open_log(self._log) as log:
                subprocess.run(
                    [
                        *(self.program.path / "postgres", "--single", "-j", "-D", self._data),
                        *("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic"),
                        # With a lower wal_level, Postgres does not start if a logical slot exists.
                        *("-c", f"wal_level={_SETTINGS['wal_level']}", "postgres"),
                    ],
                    input=command.encode(),
                    stdout=log,
                    stderr=log,
                    cwd=self._data,
                    env=program_environment(),
                    start_new_session=True,
                    check=True,
                    timeout=_SINGLE_USER_TIMEOUT,
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise LocalStackError(
                "The database of an older version cannot be upgraded",
                detail=tail(self._log),
                hint="`picture-queue local reset` makes a new database.",
            ) from error

    def _password_sql(self) -> str:
        return "".join(
            f"alter role {role} password '{password}';\n"
            for role, password in self._secrets.passwords.items()
        )

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the server on `port`; `wait_until_ready` waits until it accepts connections.

        Raises:
            LocalStackError: The server cannot be started, or its program was replaced.
        """
        self.program.expect_unchanged()
        # The server runs in its own directory. In quotes, a comma does not separate directories.
        sockets = "." if self._sockets == self._data else f'"{self._sockets}"'
        settings = _SETTINGS | {"port": str(self.port), "unix_socket_directories": sockets}
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
        )

    async def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the server accepts connections.

        Raises:
            PortTaken: Another program uses the port on one of the addresses.
            LocalStackError: The server ended, or took too long.
        """
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise LocalStackError("Postgres did not start", detail=tail(self._log))
            # Like `pg_ctl start`, read the pid in the first line and the state in the eighth.
            lines = self._read_pid_file()
            if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                # Postgres starts even if another program uses the port on one address.
                expect_listening(process.pid, self.port)
                return
            await asyncio.sleep(_POLL_INTERVAL)
        raise LocalStackError(
            f"Postgres was not ready after {_START_TIMEOUT:.0f} s", detail=tail(self._log)
        )

    def _read_pid_file(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self._data / "postmaster.pid").read_text().splitlines()
        return []

    async def prepare(self, migrations: bool = True) -> list[str]:
        """Apply Supabase's SQL and our migrations to the database of the started server.

        Args:
            migrations: Whether to apply our migrations.

        Returns:
            The names of the migrations applied now.

        Raises:
            LocalStackError: A statement failed.
        """
        if not self.is_complete:
            # The superuser can run no code of users here. No user has been in this database yet,
            # since the other roles have no passwords.
            await apply_platform(self.internal_dsn(SUPERUSER))
            await set_passwords(self.internal_dsn(SUPERUSER), self._password_sql())
        # Write this file last, so that the next start repeats the steps above if they fail.
        self._digest_file.write_text(platform_digest() + "\n")
        self._started_file.unlink(missing_ok=True)
        return await apply_migrations(self.internal_dsn("postgres")) if migrations else []
