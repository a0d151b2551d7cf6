"""Fixtures that open the pages of the browser example in a headless Chromium."""

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from picture_queue import AsyncPictureQueue, Worker, WorkerSettings, _rpc
from picture_queue.generations.builtin import builtin_worker
from picture_queue.generations.settings import HandlerSettings
from picture_queue.local.ports import free_port
from picture_queue.records import ClaimedJob
from picture_queue.settings import ReplicateSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
PAGE_TIMEOUT = 25.0  # seconds, for every wait for a page


class Chromium:
    """A browser that the process `driver.mjs` controls."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._ids = count()
        self._pending: dict[int, Future[Any]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    async def call(self, target: str, method: str, *args: Any) -> Any:
        """Call a method of Playwright's page or context, or of the driver."""
        request_id, response = next(self._ids), Future[Any]()
        self._pending[request_id] = response
        assert self._process.stdin
        self._process.stdin.write(json.dumps([request_id, target, method, args]) + "\n")
        self._process.stdin.flush()
        return await asyncio.wait_for(asyncio.wrap_future(response), PAGE_TIMEOUT + 15)

    def close(self) -> None:
        """End the browser and the driver process."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            assert self._process.wait(20) == 0
        finally:
            self._process.kill()
            self._reader.join(10)
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            request_id, value, error = json.loads(line)
            response = self._pending.pop(request_id)
            if error is None:
                response.set_result(value)
            else:
                response.set_exception(AssertionError(error))
        for response in tuple(self._pending.values()):
            response.set_exception(AssertionError("the browser has exited"))


class Studio:
    """A page of the example, for a user who has just signed up."""

    def __init__(
        self,
        chromium: Chromium,
        db: "asyncpg.Connection[asyncpg.Record]",
        url: str,
        wait: Callable[..., Any],
    ) -> None:
        self._chromium = chromium
        self._db = db
        self._wait = wait
        self.url = url
        self.user_id = UUID(int=0)
        self._started = 0

    async def page(self, method: str, *args: Any) -> Any:
        """Call a method of Playwright's page."""
        return await self._chromium.call("page", method, *args)

    async def context(self, method: str, *args: Any) -> Any:
        """Call a method of Playwright's browser context."""
        return await self._chromium.call("context", method, *args)

    async def clock(self, method: str, *args: Any) -> Any:
        """Call a method of Playwright's clock."""
        return await self._chromium.call("clock", method, *args)

    async def sign_up(self) -> None:
        """Create an account, and wait until the page lists the models."""
        email = f"{uuid4().hex}@example.com"
        await self.page("goto", self.url)
        await self.page("fill", "#email", email)
        await self.page("fill", "#password", "correct horse battery")
        await self.page("click", "button[value=signUp]")
        await self.until("document.querySelector('#model')?.options.length > 5")
        row = await self._db.fetchrow("select id from auth.users where email = $1", email)
        assert row
        self.user_id = row["id"]

    async def start(self, prompt: str = "A lighthouse at dusk") -> asyncpg.Record:
        """Start a generation in the page; return its row once the page has subscribed."""
        self._started += 1
        joins = await self.count_joins()
        await self.page("fill", "#prompt", prompt)
        await self.page("click", "#generate")
        await self.wait_until_subscribed(joins + 1)
        return await self.generation()

    def note_start(self) -> None:
        """Count a start that the test makes itself; `check` expects the states of each start."""
        self._started += 1

    async def generation(self) -> asyncpg.Record:
        """Return the user's newest generation; check that each start created exactly one."""
        rows = await self._db.fetch(
            "select * from generations where user_id = $1 order by created_at desc", self.user_id
        )
        assert len(rows) == self._started
        return rows[0]

    async def wait_until_finished(self) -> None:
        """Wait until the generation has finished in the database."""

        async def finished() -> bool:
            return (await self.generation())["finished_at"] is not None

        await self._wait(finished)

    async def wait_until_subscribed(self, joins: int = 1) -> None:
        """Wait until the page has joined the user's topic and has then read the row."""

        async def joined() -> bool:
            return await self.count_joins() >= joins

        await self._wait(joined)
        await self.until("!document.querySelector('#cancel')?.disabled")

    async def count_joins(self) -> int:
        """Return the number of successful joins of a topic."""
        return await self.count("received", '"phx_reply",{"status":"ok","response":{"postgres')

    async def count(self, kind: str, *texts: str) -> int:
        """Count the WebSocket frames of a kind that contain all these texts."""
        frames = await self._chromium.call("driver", "listFrames")
        return sum(
            frame_kind == kind and all(text in frame for text in texts)
            for frame_kind, frame in frames
        )

    async def wait_for_frames(self, *texts: str, times: int = 1) -> None:
        """Wait until the page has received this many frames with these texts."""

        async def has_received() -> bool:
            return await self.count("received", *texts) >= times

        await self._wait(has_received)

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript condition is true in the page."""
        await self._chromium.call("driver", "waitFor", condition, PAGE_TIMEOUT * 1000)

    async def wait_for_state(self, status: str, progress: int | None = None) -> None:
        """Wait until the page shows a status and, if given, a percentage."""
        condition = f"document.querySelector('#stage').dataset.status === '{status}'"
        if progress is not None:
            condition += f" && document.querySelector('#progress').value === {progress}"
        await self.until(condition)

    async def wait_for_picture(self) -> None:
        """Wait until the page shows a completed generation with its picture loaded."""
        await self.wait_for_state("completed")
        await self.until("document.querySelector('#picture')?.naturalWidth > 0")

    async def shown(self) -> list[tuple[str, float]]:
        """Return the distinct states that the page has shown, in order: status and percent."""
        return [tuple(item) for item in await self.page("evaluate", "window.shown")]

    async def text(self, selector: str) -> str:
        """Return the text of an element."""
        text: str = await self.page("textContent", selector)
        return text

    async def check(self) -> None:
        """Check that the page had no errors and showed no older state after a newer one."""
        assert await self._chromium.call("driver", "problems") == []
        order = ["pending", "processing", "cancelled", "failed", "completed"]
        ranks = [
            (order.index(status), percent if status == "processing" else 0)
            for status, percent in await self.shown()
            if status != "nothing"  # before a start, and after a refused start
        ]
        steps_back = [pair for pair in pairwise(ranks) if pair[1] < pair[0]]
        assert len(steps_back) == max(0, self._started - 1), (
            "only a new start may show an older state"
        )


@pytest.fixture(scope="session")
def chromium_driver(node: str, node_modules: Path, chromium: str) -> Iterator[Chromium]:
    """A browser for all tests; each test opens a page with a new profile."""
    driver = Path(__file__).parent / "driver.mjs"
    browser = Chromium([node, str(driver), str(node_modules), chromium])
    try:
        yield browser
    finally:
        browser.close()


@pytest.fixture(scope="session")
def site_copy(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with the packages of tests/npm."""
    copy = tmp_path_factory.mktemp("site") / "browser"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("node_modules"))
    (copy / "node_modules").symlink_to(node_modules)
    return copy


@pytest.fixture(scope="session")
def site(stack: Any, node: str, site_copy: Path) -> Iterator[str]:
    """The address of the example. The fixture starts the same server as `npm start`."""
    port = free_port()
    environment = os.environ | {
        "SUPABASE_URL": stack.api_url,
        "SUPABASE_PUBLISHABLE_KEY": stack.publishable_key,
        "PORT": str(port),
    }
    server = subprocess.Popen(
        [node, "serve.mjs"], cwd=site_copy, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        assert server.stdout.readline() == f"Pictures of {stack.api_url}\n"
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.communicate(timeout=10)


@pytest.fixture(params=["", "react.html"], ids=["plain", "react"])
def page_name(request: pytest.FixtureRequest) -> str:
    """The name of each page of the example: one uses the plain function, one the React hook."""
    name: str = request.param
    return name


@pytest.fixture
async def studio(
    chromium_driver: Chromium,
    site: str,
    db: "asyncpg.Connection[asyncpg.Record]",
    page_name: str,
    until: Callable[..., Any],
) -> AsyncIterator[Studio]:
    """A page with a new account; the fixture checks at the end that the page had no errors."""
    await chromium_driver.call("driver", "open", {"viewport": {"width": 1180, "height": 860}})
    studio = Studio(chromium_driver, db, site + page_name, until)
    await studio.sign_up()
    yield studio
    await studio.check()


@pytest.fixture
def new_worker(stack: Any, service: AsyncPictureQueue) -> Callable[[], Worker]:
    """Return a function that creates a worker with the built-in handlers and the simulator."""

    def create() -> Worker:
        handler_settings = HandlerSettings(first_poll_interval=0.05, max_poll_interval=0.1)
        replicate = ReplicateSettings(stack.replicate_token, stack.replicate_url)
        settings = WorkerSettings(shutdown_grace=0, poll_interval=0.2)
        return builtin_worker(service, settings, replicate, handler_settings)

    return create


class ManualWorker:
    """A worker whose calls the test makes one by one, to control the timing."""

    def __init__(self, service: AsyncPictureQueue, job_id: UUID) -> None:
        self._service = service
        self._job_id = job_id
        self._job: ClaimedJob | None = None

    async def claim(self) -> "ManualWorker":
        """Claim the job; other pending jobs of the queue are claimed too."""
        request = _rpc.Claim(
            "manual worker", ("default",), ("generate-image",), 100, 120.0, uuid4()
        )
        jobs = await self._service._backend.call(_rpc.claim_jobs(request))
        (self._job,) = [job for job in jobs if job.id == self._job_id]
        return self

    async def progress(self, percent: int) -> None:
        """Report progress."""
        assert self._job
        call = _rpc.report_progress(self._job_id, self._job.lease_id, percent, "drawing")
        await self._service._backend.call(call)

    async def report(self, outcome: str, **fields: Any) -> None:
        """Report the outcome of the attempt."""
        assert self._job
        item = {"job_id": str(self._job_id), "lease_id": str(self._job.lease_id)}
        item |= {"outcome": outcome, **fields}
        await self._service._backend.call(_rpc.report_jobs([item]))


@pytest.fixture
def manual_worker(service: AsyncPictureQueue) -> Callable[[UUID], ManualWorker]:
    """Return a function that creates a manual worker for a job."""
    return lambda job_id: ManualWorker(service, job_id)
