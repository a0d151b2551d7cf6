"""The workers of the kill test, and the faults that are injected into them and the project."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil

from picture_queue.local import LocalSupabase

from ..faults.proxy import Proxy

DIRECTORY = Path(__file__).parent
LEASE = 4.0  # seconds
QUEUE = "kill"
_MIN_SIGNAL_INTERVAL = 15.0  # seconds


class Workers:
    """Worker processes: half over HTTP, half over direct connections to the database.

    Args:
        stack: The project.
        proxies: The proxies in front of the gateway and of Postgres.
        directory: The directory for the recorded starts and the logs of the workers.
        count: The number of workers.
    """

    def __init__(
        self, stack: LocalSupabase, proxies: tuple[Proxy, Proxy], directory: Path, count: int
    ) -> None:
        gateway, postgres = proxies
        database = urlsplit(stack.db_url)
        netloc = f"{database.username}:{database.password}@127.0.0.1:{postgres.port}"
        self._environments = (
            {
                "SUPABASE_URL": f"http://127.0.0.1:{gateway.port}",
                "SUPABASE_KEY": stack.service_role_key,
            },
            {"PICTURE_QUEUE_DATABASE_URL": database._replace(netloc=netloc).geturl()},
        )
        self._directory = directory
        self._count = count
        self._started = 0
        self._logs: dict[int, Path] = {}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.suspended: set[int] = set()
        self.crashes = self.refused = 0

    def start(self, index: int) -> None:
        """Start a worker. Its index determines its transport."""
        self._started += 1
        env = {name: text for name, text in os.environ.items() if not name.startswith("SUPABASE_")}
        env |= {
            "KILL_QUEUE": QUEUE,
            "KILL_LEASE": str(LEASE),
            "KILL_STARTS": str(self._directory / f"starts-{self._started}"),
            **self._environments[index % 2],
        }
        self._logs[index] = self._directory / f"worker-{self._started}.log"
        with self._logs[index].open("wb") as log:
            self.processes[index] = subprocess.Popen(
                [sys.executable, "-m", "picture_queue_cli", "worker", "--app", "app:worker"],
                cwd=DIRECTORY,
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def start_all(self) -> None:
        """Start all workers that do not run; count those that ended unexpectedly."""
        for index in range(self._count):
            process = self.processes.get(index)
            if process is None or process.poll() is not None:
                if process is not None:
                    self._count_end(self._logs[index].read_text())
                self.start(index)

    def _count_end(self, log: str) -> None:
        if " serves " in log:  # the worker has logged that it started
            self.crashes += 1
            print(f"a worker ended unexpectedly:\n{log[-2000:]}", file=sys.stderr)
        else:
            self.refused += 1
            print(f"a worker could not start:\n{log[-2000:]}", file=sys.stderr)

    def kill(self, index: int) -> None:
        """Kill a worker, and start another with its index."""
        process = self.processes[index]
        process.kill()
        process.wait()
        self.suspended.discard(index)
        self.start(index)

    def kill_all(self) -> None:
        """Kill all workers at once."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    async def stop_all(self, seconds: float) -> int:
        """Stop all workers; kill those that do not stop, and return their number."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        killed = 0
        for process in self.processes.values():
            try:
                await asyncio.to_thread(process.wait, seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        return killed


class Chaos:
    """The injection of random faults, one after the other.

    Args:
        stack: The project.
        proxies: The proxies in front of the gateway and of Postgres.
        workers: The workers.
        seed: The seed of the random choices.

    Attributes:
        injected: The number of injections of each fault.
    """

    def __init__(
        self, stack: LocalSupabase, proxies: tuple[Proxy, Proxy], workers: Workers, seed: int
    ) -> None:
        self._stack = stack
        self._proxies = proxies
        self._workers = workers
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.injected: Counter[str] = Counter()
        self._signalled_at: dict[signal.Signals, float] = defaultdict(lambda: -_MIN_SIGNAL_INTERVAL)
        # The relative frequency of each fault.
        self._weights: dict[Callable[[], Awaitable[None]], float] = {
            self._kill_worker: 8,
            self._freeze_worker: 5,
            self._terminate_backends: 5,
            self._lose_answers: 4,
            self._black_hole: 3,
            self._half_open: 2,
            self._black_hole_everything: 1,
            self._cut_gateway: 2,
            self._kill_postgrest: 1,
            self._stop_postgres: 1,
        }

    async def run(self, seconds: float) -> None:
        """Inject faults for some seconds, and repair everything at the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await asyncio.sleep(self._random.uniform(0.3, 1.5))
                    (inject_fault,) = self._random.choices(
                        list(self._weights), list(self._weights.values())
                    )
                    # `_signal` counts these two, since it may skip a signal.
                    if inject_fault not in (self._kill_postgrest, self._stop_postgres):
                        self.injected[inject_fault.__name__.strip("_").replace("_", " ")] += 1
                    await inject_fault()
                    self._workers.start_all()
        await asyncio.gather(*self._tasks)
        for proxy in self._proxies:
            proxy.heal()
        for index in list(self._workers.suspended):
            self._resume(index)
        self._workers.start_all()

    # Workers -----------------------------------------------------------------------------------

    def _choose_worker(self) -> int:
        return self._random.choice(list(self._workers.processes))

    async def _kill_worker(self) -> None:
        self._workers.kill(self._choose_worker())

    async def _freeze_worker(self) -> None:
        """Suspend a worker for less than its lease, or for longer."""
        index = self._choose_worker()
        process = self._workers.processes[index]
        process.send_signal(signal.SIGSTOP)
        self._workers.suspended.add(index)
        seconds = self._random.choice((0.5, LEASE, 2 * LEASE))

        async def resume_later() -> None:
            await asyncio.sleep(seconds)
            if self._workers.processes[index] is process:
                self._resume(index)

        self._start_task(resume_later())

    def _resume(self, index: int) -> None:
        self._workers.processes[index].send_signal(signal.SIGCONT)
        self._workers.suspended.discard(index)

    # The network -------------------------------------------------------------------------------

    def _choose_proxy(self) -> Proxy:
        return self._random.choice(self._proxies)

    async def _lose_answers(self) -> None:
        self._choose_proxy().lose_answers(self._random.randint(1, 5))

    async def _black_hole(self) -> None:
        self._choose_proxy().black_hole()

    async def _half_open(self) -> None:
        self._choose_proxy().half_open()

    async def _black_hole_everything(self) -> None:
        proxy = self._choose_proxy()
        proxy.black_hole(new=True)
        await asyncio.sleep(self._random.uniform(1, 1.5 * LEASE))
        proxy.heal()

    async def _cut_gateway(self) -> None:
        """Simulate a killed gateway: connections are reset, and new ones refused."""
        gateway = self._proxies[0]
        gateway.refuse()
        gateway.reset()
        await asyncio.sleep(self._random.uniform(0.5, LEASE))
        gateway.heal()

    # The project -------------------------------------------------------------------------------

    async def _terminate_backends(self) -> None:
        """Terminate some sessions of PostgREST, and of workers with direct connections."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            await execute(
                self._superuser_url,
                "select pg_terminate_backend(pid) from pg_stat_activity where random() < 0.5 "
                "and backend_type = 'client backend' and pid <> pg_backend_pid()",
            )

    async def _stop_postgres(self) -> None:
        """Stop Postgres without a checkpoint. The stack restarts Postgres, which then recovers."""
        pid = int((self._stack.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        await self._signal(pid, signal.SIGQUIT)

    async def _kill_postgrest(self) -> None:
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == "postgrest" and self._is_descendant(process):
                await self._signal(process.pid, signal.SIGKILL)

    async def _signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a program of the stack, unless it was sent a short time ago.

        The stack gives up on a program that dies more than five times in a minute.
        """
        now = asyncio.get_running_loop().time()
        if now - self._signalled_at[number] < _MIN_SIGNAL_INTERVAL:
            return
        self._signalled_at[number] = now
        self.injected[f"signal {number.name} to the stack"] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _is_descendant(self, process: psutil.Process) -> bool:
        """Return whether this process started a process, directly or indirectly."""
        with contextlib.suppress(psutil.Error):
            descendants = {child.pid for child in psutil.Process().children(recursive=True)}
            return process.pid in descendants
        return False

    @property
    def _superuser_url(self) -> str:
        return self._stack.superuser_url

    def _start_task(self, awaitable: Awaitable[None]) -> None:
        task = asyncio.ensure_future(awaitable)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        await connection.execute(statement, timeout=5)
    finally:
        await connection.close(timeout=5)
