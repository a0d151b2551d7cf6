"""One Postgres cluster of the embedded stack: made once, then started and stopped."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from picture_queue.errors import LocalStackError
from picture_queue.local.binaries import Program
from picture_queue.local.keys import Secrets
from picture_queue.local.migrate import (
    apply_migrations,
    apply_platform,
    platform_digest,
    set_passwords,
    upgrade_sql,
)
from picture_queue.local.ownership import make_own_directory, open_log, write_own
from picture_queue.local.ports import HOST
from picture_queue.local.processes import exit_code, program_environment, spawn, tail
from picture_queue.local.supervise import Guard

SUPERUSER = "supabase_admin"

_INITDB_TIMEOUT = 120.0
_START_TIMEOUT = 60.0  # seconds; recovery after a crash is part of a start
_SINGLE_USER_TIMEOUT = 60.0
_SOCKET_PATH_LIMIT = 100  # bytes; Linux takes 107, macOS 103
_POLL = 0.01
# Fast shutdown, then immediate: the next start recovers from the write-ahead log.
STOP_SIGNALS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": ".",  # the cluster's own, in which the server runs
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
    """A cluster in a directory.

    Args:
        directory: The stack's data directory; exists.
        program: The Postgres that made it, or is going to.
        secrets: The passwords of its roles.
        port: TCP port on loopback.
        log: File for the server's output.
        durable: False trades safety against power loss for speed; for data thrown away anyway.
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
        self._marker = directory / "platform.sha256"
        self._password_file = directory / "password"
        self._secrets = secrets
        self._log = log
        self._durable = durable
        self.program = program
        self.port = port
        # Nobody else can listen on a socket in a directory that is closed to them, as they can on
        # a port while the server is down: the stack's own programs say their passwords only here.
        socket = self._data / f".s.PGSQL.{port}"
        self._socket_fits = len(os.fsencode(socket)) <= _SOCKET_PATH_LIMIT

    @property
    def dsn(self) -> str:
        """The address for users: role `postgres`."""
        return f"postgresql://postgres:{self._secrets.database_password}@{self._tcp}"

    def own_dsn(self, role: str) -> str:
        """Return the address for a program of the stack.

        Args:
            role: Which it logs in as. Triggers, casts and the like of others run in its sessions,
                so once users have been in the database no program may be the superuser.
        """
        password = self._secrets.passwords[role]
        if not self._socket_fits:
            return f"postgresql://{role}:{password}@{self._tcp}"
        place = quote(str(self._data), safe="")
        return f"postgresql://{role}:{password}@/postgres?host={place}&port={self.port}"

    @property
    def _tcp(self) -> str:
        return f"{HOST}:{self.port}/postgres"

    @property
    def complete(self) -> bool:
        """True if the cluster exists and has the platform's objects."""
        return self._marker.exists()

    @property
    def outdated(self) -> bool:
        """True if an older version made the platform's objects."""
        return self.complete and self._marker.read_text().strip() != platform_digest()

    async def initialise(self, guard: Guard) -> None:
        """Make the cluster unless it is there.

        Args:
            guard: Watches `initdb`.

        Raises:
            LocalStackError: The directory cannot be used, or `initdb` failed.
        """
        if self.complete:
            return
        # Without the marker an earlier first start was interrupted; nobody has seen its data.
        shutil.rmtree(self._data, ignore_errors=True)
        make_own_directory(self._data)
        write_own(self._password_file, self._secrets.superuser_password)
        try:
            await self._initdb(guard)
        finally:
            self._password_file.unlink()

    async def _initdb(self, guard: Guard) -> None:
        unicode_rules = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        process = spawn(
            [
                self.program.path / "initdb",
                *("--pgdata", self._data, "--username", SUPERUSER),
                *("--pwfile", self._password_file),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *(unicode_rules if self.program.major >= 17 else ()),
                "--no-sync",  # of an empty cluster; a crash before the marker makes a new one
                "--no-instructions",
            ],
            log=self._log,
            cwd=self._data.parent,
            env=program_environment(),
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

    def upgrade(self) -> None:
        """Give a stopped cluster today's roles and rights, and the passwords of `secrets`.

        Raises:
            LocalStackError: Postgres failed.
        """
        # Without a network: with the old passwords, which everybody knows, nobody may come first.
        # Event triggers do not run here, and with this path no object of a user's is found.
        statements = "\n".join(
            ("set search_path = pg_catalog, pg_temp;", upgrade_sql(), self._password_sql())
        )
        # A semicolon before an empty line ends a command; as one command it is one transaction.
        command = re.sub(r";\s*\n\s*\n", ";\n", statements).strip() + "\n\n"
        try:
            with open_log(self._log) as log:
                subprocess.run(
                    [
                        *(self.program.path / "postgres", "--single", "-j", "-D", self._data),
                        *("-c", "exit_on_error=on", "-c", "log_min_error_statement=panic"),
                        # A lower level than the server's refuses to start beside a logical slot.
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
        """Start the server on `port`; `ready` tells when it takes connections.

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
        )

    async def ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the server takes connections.

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

    async def prepare(self, migrations: bool = True) -> list[str]:
        """Bring the started server's database up to date: platform, then our migrations.

        Args:
            migrations: Whether the latter are wanted.

        Returns:
            The names of the migrations applied now.

        Raises:
            LocalStackError: A statement failed.
        """
        if not self.complete:
            # Nobody else has been in this database: the other roles have no passwords yet.
            await apply_platform(self.own_dsn(SUPERUSER))
            await set_passwords(self.own_dsn(SUPERUSER), self._password_sql())
        # Written last: a start that ends before this repeats what it did.
        self._marker.write_text(platform_digest() + "\n")
        return await apply_migrations(self.own_dsn("postgres")) if migrations else []
