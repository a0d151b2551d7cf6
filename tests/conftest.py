"""Fixtures for all tests, such as the embedded stack, which all tests of a session share."""

import asyncio
import inspect
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from picture_queue import AsyncPictureQueue, Job, JobEvent, Worker, WorkerSettings
from picture_queue.local.stack import LocalSupabase

from .signals import watch

# A shell starts background processes with SIGINT ignored, and child processes inherit this. The
# programs that the tests interrupt must not ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A proxy of the environment must not get the keys of the embedded stack.
_NO_PROXY = ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1", "localhost")))
os.environ |= {"no_proxy": _NO_PROXY, "NO_PROXY": _NO_PROXY}
# npm must not make Node run bytecode from a shared directory, which another user may have created.
os.environ["NODE_DISABLE_COMPILE_CACHE"] = "1"
_OWN_MODULES = Path(__file__).parents[1] / "scripts" / "own_modules.cjs"
os.environ["NODE_OPTIONS"] = f'--require "{_OWN_MODULES}"'


class RemoteStack:
    """A real project in place of the embedded stack, with the same attributes.

    The tests use this class if `PICTURE_QUEUE_TEST_URL` is set. A test that needs another variable
    fails if that variable is not set.
    """

    _VARIABLES = {  # noqa: RUF012
        "api_url": "PICTURE_QUEUE_TEST_URL",
        "db_url": "PICTURE_QUEUE_TEST_DB_URL",
        "superuser_url": "PICTURE_QUEUE_TEST_SUPERUSER_URL",
        "anon_key": "SUPABASE_ANON_KEY",
        "service_role_key": "SUPABASE_SERVICE_ROLE_KEY",
        "publishable_key": "SUPABASE_PUBLISHABLE_KEY",
        "secret_key": "SUPABASE_SECRET_KEY",
        "jwt_secret": "SUPABASE_JWT_SECRET",
        "replicate_url": "REPLICATE_BASE_URL",
        "replicate_token": "REPLICATE_API_TOKEN",
    }

    def has_variable(self, name: str) -> bool:
        """Return True if the variable of an attribute is set."""
        return bool(os.environ.get(self._VARIABLES[name]))

    def __getattr__(self, name: str) -> str:
        """Return the value of an attribute's variable; fail the test if the variable is not set."""
        variable = self._VARIABLES.get(name)
        if variable is None:
            raise AttributeError(name)
        if not os.environ.get(variable):
            pytest.fail(f"set {variable}: this test runs against {self.api_url}", pytrace=False)
        return os.environ[variable]


# --- Programs that `make test-extra` needs besides Python ---


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The packages of tests/npm: supabase-js, the Supabase CLI, Postgres 17 and more."""
    directory = Path(__file__).parent / "npm" / "node_modules"
    if not (directory / ".ready").exists():
        pytest.fail("the packages of tests/npm are missing: run make test-extra", pytrace=False)
    return directory


@pytest.fixture(scope="session")
def node() -> str:
    """The path of the program `node`."""
    return _find_program("node", "apt-get install nodejs npm")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the program `chromium`."""
    return _find_program("chromium", "apt-get install chromium")


@pytest.fixture(scope="session")
def supabase_cli(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Supabase CLI 2, in a directory without other programs."""
    program = node_modules / "supabase" / "dist" / "supabase.js"
    return _link_cli(program, tmp_path_factory.mktemp("cli2"))


@pytest.fixture(scope="session")
def supabase_cli_3(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Supabase CLI 3, in a directory without other programs."""
    program = node_modules / "supabase-3" / "bin" / "supabase"
    return _link_cli(program, tmp_path_factory.mktemp("cli3"))


def _link_cli(program: Path, directory: Path) -> Path:
    # Both versions are called `supabase`, and npm creates a link to only one of them.
    link = directory / "supabase"
    link.symlink_to(program)
    return link


def _find_program(name: str, install_command: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        pytest.fail(f"{name} is missing: run {install_command}", pytrace=False)
    return path


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalSupabase | RemoteStack]:
    """A running stack without a worker. Its predictions take 0.3 seconds."""
    if os.environ.get("PICTURE_QUEUE_TEST_URL"):
        yield RemoteStack()
        return
    with LocalSupabase(replicate_seconds=0.3) as local:
        yield local


@pytest.fixture(autouse=True)
def disable_coverage_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start programs without coverage, which makes them slow; `stack` has started before."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
async def service(stack: Any) -> AsyncIterator[AsyncPictureQueue]:
    """An async client with the service key."""
    async with AsyncPictureQueue(stack.api_url, stack.service_role_key) as pq:
        yield pq


@pytest.fixture
def queue() -> str:
    """A queue for this test only."""
    return f"q-{uuid4().hex[:12]}"


@pytest.fixture
async def faults(stack: Any) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that sets fault switches of the gateway; they are reset after the test."""
    headers = {"apikey": stack.service_role_key}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=10) as http:

        async def set_switches(**switches: Any) -> None:
            (await http.post("/_faults", json=switches)).raise_for_status()

        yield set_switches
        await http.delete("/_faults")


# --- Workers, each for the queue of its test only ---


@pytest.fixture
def new_worker(service: AsyncPictureQueue, queue: str) -> Callable[..., Worker]:
    """Return a function that creates a worker of `queue`. It claims at wake-ups or every 30 s."""

    def create(**settings: Any) -> Worker:
        values = {"queues": (queue,), "poll_interval": 30.0, "shutdown_grace": 0.0} | settings
        worker = Worker(service, WorkerSettings(**values))
        watch(worker)
        return worker

    return create


@pytest.fixture
def wait_for_job(service: AsyncPictureQueue) -> Callable[..., Any]:
    """Return a function that waits for a state of a job and returns its row."""

    async def wait(job_id: UUID, condition: Callable[[JobEvent], bool], timeout: float = 15) -> Job:
        async with aclosing(service.jobs.watch(job_id, timeout=timeout)) as events:
            async for event in events:
                if condition(event):
                    return await service.jobs.get(job_id)
        raise AssertionError(f"the watch ended without the expected state: {event}")

    return wait


@pytest.fixture
async def db(stack: Any) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the database."""
    connection = await asyncpg.connect(stack.db_url, timeout=10)
    yield connection
    await connection.close(timeout=5)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Return a function that polls a condition until it is true."""

    async def wait(condition: Callable[[], Any], timeout: float = 15) -> None:
        async with asyncio.timeout(timeout):
            while True:
                result = condition()
                if await result if inspect.isawaitable(result) else result:
                    return
                await asyncio.sleep(0.01)

    return wait
