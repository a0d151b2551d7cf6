"""The main process of a running stack: `python -m picture_queue.local.daemon`.

The daemon starts Postgres, updates the database, starts PostgREST, serves the gateway and the
Replicate simulator, and with ``--worker`` runs a worker. It writes one JSON object to standard
output for the process that started it: ``{"ready": …}`` or ``{"error": …}``. SIGTERM, SIGINT and,
with ``--lifeline``, the end of standard input stop the daemon.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import uvloop

from picture_queue._visible import LogFormatter
from picture_queue.errors import LocalStackError, PictureQueueError
from picture_queue.local.cluster import STOP_SIGNALS, SUPERUSER, Cluster
from picture_queue.local.datadir import DataDir
from picture_queue.local.keys import Secrets
from picture_queue.local.options import Options, parse
from picture_queue.local.ownership import open_log
from picture_queue.local.ports import free_port, listen, listen_near
from picture_queue.local.processes import rotate, trim
from picture_queue.local.programs import PostgREST, launch_worker, worker_environment
from picture_queue.local.supervise import Guard, SupervisedProgram

if TYPE_CHECKING:
    from picture_queue.local import servers

_log = logging.getLogger(__name__)

_LOGS = ("daemon", "postgres", "postgrest", "worker")
_TRIM_INTERVAL = 60.0  # seconds
# The default of macOS is 256, which the connections of one page in Chromium could reach.
_FILE_LIMIT = 4096  # open file descriptors
_POSTGREST_STOP = ((signal.SIGTERM, 5.0),)  # each signal with its timeout in seconds
# The worker gives running jobs some seconds to end before it releases them.
_WORKER_STOP = ((signal.SIGTERM, 25.0),)

Reply = Callable[[dict[str, Any]], None]


class Daemon:
    """One run of a stack.

    Args:
        options: The options of the stack.
        reply: A function that sends one object to the process that started the daemon.
    """

    def __init__(self, options: Options, reply: Reply) -> None:
        self._options = options
        self._reply = reply
        self._data = DataDir(options.data_dir)
        self._stopping = asyncio.Event()
        self._failure: str | None = None
        self._is_parent_running = True

    async def run(self) -> None:
        """Start all programs, wait for a reason to stop, and stop them.

        Raises:
            PictureQueueError: The stack did not start, or a program died too often.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stopping.set)
        if self._options.lifeline:
            loop.add_reader(sys.stdin.fileno(), self._read_lifeline)
        # Each part is pushed on this exit stack when it starts. So the parts stop in the reverse
        # order of their starts.
        async with contextlib.AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    self._reply({"ready": starting.result()})
                    await stopping
            finally:
                starting.cancel()
                stopping.cancel()
                await asyncio.wait({starting, stopping})
        if self._failure:
            raise LocalStackError(self._failure, detail=f"Logs: {self._data.logs}")

    def _read_lifeline(self) -> None:
        if not os.read(sys.stdin.fileno(), 1):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._is_parent_running = False
            self._stopping.set()

    def _fail(self, reason: str) -> None:
        _log.error("stopping: %s", reason)
        self._failure = reason
        self._stopping.set()

    async def _start(self, stack: contextlib.AsyncExitStack) -> dict[str, str]:
        lock = await self._lock_directory()
        stack.callback(os.close, lock)
        port = self._options.port
        api = [stack.enter_context(listener) for listener in listen(port)]
        # If the caller chose the port of the API, Postgres takes the next port and the simulator
        # the one after that, as with `supabase start`.
        listeners = listen_near(port and port + 2)
        simulator = [stack.enter_context(listener) for listener in listeners]
        sockets = [listener.fileno() for listener in (*api, *simulator)]
        guard = await stack.enter_async_context(self._run_guard((lock, *sockets)))
        # These imports take half a second. Do them while Postgres starts.
        importing = asyncio.to_thread(importlib.import_module, "picture_queue.local.servers")
        loading = asyncio.create_task(importing)
        stack.callback(loading.cancel)
        secrets = self._data.read_secrets() or Secrets.generate()
        cluster = await self._start_postgres(stack, guard, secrets, free_port(port and port + 1))
        server = await self._start_postgrest(stack, guard, cluster, secrets.jwt_secret)
        http_servers: servers.HttpServers = (await loading).HttpServers(
            self._data,
            secrets,
            cluster,
            server,
            api,
            simulator,
            self._options.replicate_seconds,
            self._options.allowed_origins,
        )
        stack.push_async_callback(http_servers.stop)
        await http_servers.start()
        status = self._build_status(secrets, cluster, server, http_servers)
        if self._options.worker:
            await self._start_worker(stack, guard, status, sockets)
        trimming = asyncio.create_task(self._trim_logs())
        stack.callback(trimming.cancel)
        state = {
            "pid": os.getpid(),
            "status": status,
            "superuser_url": cluster.internal_dsn(SUPERUSER),
        }
        self._data.write_state(state)
        stack.callback(self._data.clear_state)
        return status

    async def _lock_directory(self) -> int:
        # Sockets in the working directory have short names, however long its path is.
        self._data.enter()
        self._data.mark()
        self._data.make_subdirectories()
        lock = await self._data.lock()
        await asyncio.to_thread(self._data.end_orphans)
        self._data.clear_state()
        for name in _LOGS:
            rotate(self._data.log_path(name))
        _redirect_stderr(self._data)
        return lock

    @contextlib.asynccontextmanager
    async def _run_guard(self, descriptors: Sequence[int]) -> AsyncIterator[Guard]:
        temporary_dir = self._data.path if self._options.temporary else None
        guard = Guard(descriptors, temporary_dir, self._data.write_programs)
        watching = asyncio.create_task(self._watch_guard(guard))
        try:
            yield guard
        finally:
            watching.cancel()
            if self._is_parent_running:
                guard.keep_directory()
            await guard.close()

    async def _watch_guard(self, guard: Guard) -> None:
        await guard.wait_ended()
        self._fail("The guard process ended")

    async def _start_postgres(
        self, stack: contextlib.AsyncExitStack, guard: Guard, secrets: Secrets, port: int
    ) -> Cluster:
        cluster = Cluster(
            self._data.path,
            self._options.postgres,
            secrets=secrets,
            port=port,
            log=self._data.log_path("postgres"),
            durable=self._options.durable,
        )
        stack.enter_context(cluster.socket_directory())
        await cluster.initialise(guard)
        if cluster.is_outdated or (cluster.is_complete and self._data.read_secrets() is None):
            # An older version created the cluster, with other privileges or with public passwords.
            await asyncio.to_thread(cluster.upgrade)
        self._data.write_secrets(secrets)
        program = SupervisedProgram(
            "Postgres", cluster.launch, guard, STOP_SIGNALS, self._fail, cluster.wait_until_ready
        )
        stack.push_async_callback(program.stop)
        await program.start()
        for name in await cluster.prepare(self._options.migrations):
            _log.info("applied %s", name)
        return cluster

    async def _start_postgrest(
        self, stack: contextlib.AsyncExitStack, guard: Guard, cluster: Cluster, jwt_secret: str
    ) -> PostgREST:
        server = PostgREST(
            self._options.postgrest,
            database_url=cluster.internal_dsn("authenticator"),
            jwt_secret=jwt_secret,
            data=self._data,
        )
        program = SupervisedProgram(
            "PostgREST", server.launch, guard, _POSTGREST_STOP, self._fail, server.wait_until_ready
        )
        stack.push_async_callback(program.stop)
        await program.start()
        return server

    async def _start_worker(
        self,
        stack: contextlib.AsyncExitStack,
        guard: Guard,
        status: dict[str, str],
        sockets: Sequence[int],
    ) -> None:
        real = self._options.real_replicate
        env = worker_environment(
            status["API_URL"],
            status["SERVICE_ROLE_KEY"],
            status["REPLICATE_URL"],
            status["REPLICATE_TOKEN"],
            real_replicate=real,
        )
        _log.info("the worker uses %s", "the real Replicate" if real else "the simulator")
        program = SupervisedProgram(
            "The worker",
            lambda: launch_worker(self._data, env, sockets, real_replicate=real),
            guard,
            _WORKER_STOP,
            # The stack continues without a worker, which `picture-queue health` then shows.
            lambda reason: _log.error("%s; not started again", reason),
        )
        stack.push_async_callback(program.stop)
        await program.start()

    def _build_status(
        self,
        secrets: Secrets,
        cluster: Cluster,
        server: PostgREST,
        http_servers: "servers.HttpServers",
    ) -> dict[str, str]:
        return {
            "API_URL": http_servers.api_url,
            "DB_URL": cluster.dsn,
            "ANON_KEY": secrets.anon_key,
            "SERVICE_ROLE_KEY": secrets.service_role_key,
            "PUBLISHABLE_KEY": secrets.publishable_key,
            "SECRET_KEY": secrets.secret_key,
            "JWT_SECRET": secrets.jwt_secret,
            "REPLICATE_URL": http_servers.replicate_url,
            "REPLICATE_TOKEN": secrets.simulator_token,
            "DATA_DIR": str(self._data.path),
            "POSTGRES": str(cluster.program),
            "POSTGREST": str(server.program),
        }

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(_TRIM_INTERVAL)
            for name in _LOGS:
                trim(self._data.log_path(name))


def _redirect_stderr(data: DataDir) -> None:
    """Redirect standard error, with logging and tracebacks, to the log of the daemon."""
    with open_log(data.log_path("daemon")) as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    new_soft = _FILE_LIMIT if hard == resource.RLIM_INFINITY else min(_FILE_LIMIT, hard)
    if soft < new_soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new_soft, hard))


def main() -> int:
    """Run a stack until a signal or the lifeline stops it; return the exit code."""
    options = parse(sys.argv[1:])
    _raise_file_limit()  # before `servers` is imported, which reads the limit
    # Only `reply` writes to the pipe that the starting process reads. Other output of this process
    # goes to standard error.
    reply_pipe = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def reply(message: dict[str, Any]) -> None:
        # Ignore that the starting process has ended. With --lifeline, the daemon notices and stops.
        with contextlib.suppress(BrokenPipeError):
            os.write(reply_pipe, json.dumps(message).encode() + b"\n")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Daemon(options, reply).run())
    except PictureQueueError as error:
        _log.error("%s", error)
        reply({"error": [type(error).__name__, error.message, error.detail, error.hint]})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
