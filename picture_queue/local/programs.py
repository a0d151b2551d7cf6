"""Start of PostgREST and of the worker: their command lines and environments."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from picture_queue.errors import LocalStackError
from picture_queue.local.binaries import Program
from picture_queue.local.datadir import DataDir
from picture_queue.local.ports import HOST, socket_name
from picture_queue.local.processes import program_environment, spawn, tail
from picture_queue.local.runtime import inherited_descriptors

_READY_TIMEOUT = 30.0  # seconds
_REQUEST_TIMEOUT = 5.0  # seconds
_POLL_INTERVAL = 0.02  # seconds


class PostgREST:
    """A PostgREST with the configuration that supabase.com uses.

    PostgREST listens on a Unix socket in the data directory and on no port, for two reasons. It
    checks no API key and no `Origin`. And when PostgREST has ended, another program could listen on
    the same port and get the service tokens that the gateway sends.

    On supabase.com, `db-hoisted-tx-settings` limits which ``SET`` clauses of a function apply to
    the whole transaction. Version 12.0 does not have this setting and applies all of them.

    Args:
        program: The program to run.
        database_url: DSN of the role `authenticator`.
        jwt_secret: HS256 secret that signs the tokens of requests.
        data: The data directory, which contains the socket and the log.
    """

    def __init__(
        self, program: Program, *, database_url: str, jwt_secret: str, data: DataDir
    ) -> None:
        self.program = program
        self._database_url = database_url
        self._jwt_secret = jwt_secret
        self._data = data
        self._log = data.log_path("postgrest")
        self.socket = data.postgrest_socket

    def launch(self) -> subprocess.Popen[bytes]:
        """Start PostgREST; `wait_until_ready` waits until it answers.

        Raises:
            LocalStackError: The program cannot be started, or was replaced.
        """
        self.program.expect_unchanged()
        return spawn(
            [self.program.path],
            log=self._log,
            cwd=self._data.path,
            env=program_environment(self._settings()),
        )

    def _settings(self) -> dict[str, str]:
        # No ADMIN_SERVER_PORT: after version 12.0 every user can read the secrets there.
        settings = {
            # The path is relative to the working directory, since a socket's path must be short.
            "SERVER_UNIX_SOCKET": self.socket.name,
            "SERVER_UNIX_SOCKET_MODE": "600",
            "DB_URI": self._database_url,
            "DB_SCHEMAS": "public",
            "DB_EXTRA_SEARCH_PATH": "public,extensions",
            "DB_ANON_ROLE": "anon",
            "DB_MAX_ROWS": "1000",
            "DB_POOL": "10",
            "DB_POOL_ACQUISITION_TIMEOUT": "10",
            "DB_CHANNEL": "pgrst",
            "DB_CHANNEL_ENABLED": "true",
            "JWT_SECRET": self._jwt_secret,
            "LOG_LEVEL": "warn",
        }
        return {f"PGRST_{name}": value for name, value in settings.items()}

    async def wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until PostgREST has read the schema.

        Raises:
            LocalStackError: The program ended, or took too long.
        """
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise LocalStackError("PostgREST did not start", detail=tail(self._log))
            # PostgREST answers 503 until it has read the schema.
            if await fetch_status(self.socket, "/") not in (None, 503):
                return
            await asyncio.sleep(_POLL_INTERVAL)
        raise LocalStackError(
            f"PostgREST was not ready after {_READY_TIMEOUT:.0f} s", detail=tail(self._log)
        )


async def fetch_status(address: Path | int, path: str) -> int | None:
    """Return the HTTP status of a GET from a server on this machine; None without an answer.

    Args:
        address: The Unix socket of the server, or its port on loopback.
        path: The path of the request.
    """
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT):
            if isinstance(address, Path):
                reader, writer = await asyncio.open_unix_connection(socket_name(address))
            else:
                reader, writer = await asyncio.open_connection(HOST, address)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError, ValueError):
        return None


def worker_environment(
    api_url: str,
    service_key: str,
    replicate_url: str,
    replicate_token: str,
    *,
    real_replicate: bool = False,
) -> dict[str, str]:
    """Return the environment of the worker, with the addresses and keys of this stack.

    Args:
        api_url: The URL of this stack.
        service_key: The service key of this stack.
        replicate_url: The URL of the simulator's API.
        replicate_token: The token of the simulator.
        real_replicate: Whether the worker gets the caller's settings for Replicate instead of the
            simulator's.

    Raises:
        LocalStackError: `real_replicate` is true and REPLICATE_API_TOKEN is not set.
    """
    if real_replicate and not os.environ.get("REPLICATE_API_TOKEN"):
        raise LocalStackError(
            "REPLICATE_API_TOKEN is not set, which --real-replicate needs",
            hint="Set it, or leave --real-replicate out to use the simulator.",
        )
    # Leave out the caller's settings of Supabase, which may be the keys of a real project.
    excluded = ("SUPABASE_",) if real_replicate else ("SUPABASE_", "REPLICATE_")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(excluded) and name != "PICTURE_QUEUE_DATABASE_URL"
    }
    if not real_replicate:
        environment["REPLICATE_API_TOKEN"] = replicate_token
        environment["REPLICATE_BASE_URL"] = replicate_url
    # Use no proxy for loopback. It would get the service key, and cannot reach this machine.
    names = ("no_proxy", "NO_PROXY")
    hosts = next((environment[name] for name in names if environment.get(name)), "")
    environment |= dict.fromkeys(names, ",".join(filter(None, (hosts, HOST, "localhost"))))
    return environment | {"SUPABASE_URL": api_url, "SUPABASE_KEY": service_key}


def launch_worker(
    data: DataDir, env: dict[str, str], sockets: Sequence[int], *, real_replicate: bool = False
) -> subprocess.Popen[bytes]:
    """Start a worker with the built-in handlers.

    Args:
        data: The data directory, for the log.
        env: The environment of the worker.
        sockets: Descriptors of the sockets on which the daemon serves the API and the simulator.
            The worker holds them open, but does not use them. So even if the daemon and its guard
            are killed, no other program can take the ports and get the keys that the worker sends
            there.
        real_replicate: Whether the worker uses the real Replicate.

    Raises:
        LocalStackError: The program cannot be started.
    """
    return spawn(
        [
            # -P: the worker imports nothing from its working directory.
            *(sys.executable, "-P", "-m", "picture_queue_cli", "worker"),
            *(["--real-replicate"] if real_replicate else []),
        ],
        log=data.log_path("worker"),
        cwd=data.path,
        env=env,
        descriptors=(*inherited_descriptors(), *sockets),
    )
