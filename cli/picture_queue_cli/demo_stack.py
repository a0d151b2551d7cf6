"""The embedded stack of the demo: start and stop a stack, or use the running stack."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.text import Text

from picture_queue._loopback import direct_mounts
from picture_queue.errors import LocalStackError, PortTaken
from picture_queue_cli.project import running_stack
from picture_queue_cli.render import err, info, styled

REQUEST_TIMEOUT = 30.0  # seconds

_JOB_TYPE = "generate-image"
_WORKER_TIMEOUT = 20.0  # seconds for the worker to register; it starts together with the stack
_POLL_INTERVAL = 0.05  # seconds
_LABEL_WIDTH = 12
_SIMULATOR = "a simulator; --real-replicate uses the real service"
_REAL_REPLICATE = "the real service, with REPLICATE_API_TOKEN; it charges for pictures"


def print_step(label: str, text: str) -> None:
    """Print a completed step."""
    mark = ("✓ ", "green")
    line = Text.assemble(mark, (label.ljust(_LABEL_WIDTH), "bold"), styled(text, "dim"))
    err().print(line, soft_wrap=True)


@dataclass(frozen=True)
class Stack:
    """A running stack.

    Args:
        status: Addresses and keys.
        is_own: True if the demo started the stack.
        real_replicate: True if the demo started its worker with the real Replicate.
    """

    status: dict[str, str]
    is_own: bool
    real_replicate: bool = False

    @property
    def api_url(self) -> str:
        """Address for Supabase clients."""
        return self.status["API_URL"]

    @property
    def service_key(self) -> str:
        """Key of the service role."""
        return self.status["SERVICE_ROLE_KEY"]


@contextmanager
def run_stack(keep: bool, real_replicate: bool) -> Iterator[Stack]:
    """Run a stack in the default data directory during the block.

    Args:
        keep: Leave the stack running afterwards, unless the block raises.
        real_replicate: Let the worker use the real Replicate.

    Raises:
        LocalStackError: ``real_replicate`` is set, but a stack is running already. Its worker
            cannot be changed.
    """
    status = running_stack()
    if status is not None and real_replicate:
        raise LocalStackError(
            "--real-replicate needs a new stack, and one is running already",
            hint="Stop it: picture-queue local stop",
        )
    if status is not None:
        print_step("Supabase", f"{status['API_URL']}, running already; it is left running")
        yield Stack(status, is_own=False)
        return
    start = _start_in_background if keep else _start_and_stop
    with start(real_replicate) as status:
        print_step("Supabase", _describe(status))
        print_step("Replicate", _REAL_REPLICATE if real_replicate else _SIMULATOR)
        yield Stack(status, is_own=True, real_replicate=real_replicate)
    if not keep:
        info("Everything is stopped. The data is kept for the next time.")


@contextmanager
def _start_and_stop(real_replicate: bool) -> Iterator[dict[str, str]]:
    from picture_queue.local.paths import default_data_dir
    from picture_queue.local.stack import LocalSupabase

    stack = LocalSupabase(
        default_data_dir(), worker=True, real_replicate=real_replicate, notice=info
    )
    with _show_start():
        stack.start()
    try:
        yield stack.status()
    finally:
        with err().status("Stopping …"):
            stack.stop()


@contextmanager
def _start_in_background(real_replicate: bool) -> Iterator[dict[str, str]]:
    from picture_queue.local.stack import start_background, stop

    with _show_start():
        try:
            status = start_background(real_replicate=real_replicate, notice=info)
        except PortTaken as error:
            info(f"{error.message}; using another one.")
            status = start_background(port=0, real_replicate=real_replicate, notice=info)
    try:
        yield status
    except BaseException:
        stop()
        raise


@contextmanager
def _show_start() -> Iterator[None]:
    from picture_queue.local.paths import default_data_dir

    is_new = not (default_data_dir() / "postgres").exists()
    action = "Creating a database and starting" if is_new else "Starting"
    with err().status(f"{action} Supabase, Replicate and a worker …"):
        yield


def _describe(status: dict[str, str]) -> str:
    postgres, postgrest = (status[name].split()[0] for name in ("POSTGRES", "POSTGREST"))
    return f"{status['API_URL']} on Postgres {postgres} and PostgREST {postgrest}"


async def wait_for_worker(stack: Stack) -> None:
    """Wait until a worker is running, so that the timeline of the demo does not include its start.

    Raises:
        LocalStackError: No worker runs the jobs of the demo.
    """
    from picture_queue import AsyncPictureQueue

    deadline = time.monotonic() + (_WORKER_TIMEOUT if stack.is_own else 0.0)
    with err().status("Waiting for the worker …"):
        async with AsyncPictureQueue(
            stack.api_url, stack.service_key, timeout=REQUEST_TIMEOUT
        ) as pq:
            while True:
                workers = (await pq.health()).workers
                worker = next((entry for entry in workers if _JOB_TYPE in entry.job_types), None)
                if worker or time.monotonic() > deadline:
                    break
                await asyncio.sleep(_POLL_INTERVAL)
    if worker is None:
        log = Path(stack.status["DATA_DIR"]) / "logs" / "worker.log"
        raise LocalStackError(
            f"No worker of this stack runs {_JOB_TYPE} jobs",
            hint=f"Its log is {log}" if stack.is_own else "Start one: picture-queue worker",
        )
    print_step("Worker", worker.worker)


@asynccontextmanager
async def realtime_cutter(stack: Stack) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Yield a function that disconnects Realtime; at the end of the block, reconnect Realtime."""
    import httpx

    is_cut = False
    async with httpx.AsyncClient(
        base_url=stack.api_url,
        headers={"apikey": stack.service_key},
        timeout=REQUEST_TIMEOUT,
        mounts=direct_mounts(stack.api_url),
    ) as http:

        async def set_fault(cut: bool) -> None:
            (await http.post("/_faults", json={"network_cut": cut})).raise_for_status()

        async def cut() -> None:
            nonlocal is_cut
            if not is_cut:
                is_cut = True
                await set_fault(True)

        try:
            yield cut
        finally:
            if is_cut:
                await set_fault(False)


async def find_image_source(stack: Stack, prompt: str, since: float) -> str:
    """Return the source of a picture: ``simulator``, or ``api`` for the real Replicate.

    The worker of a stack that was running already may use the simulator or the real Replicate. So
    this function looks for the picture among the predictions of the simulator.

    Args:
        stack: The stack that generated the picture.
        prompt: The prompt of the picture.
        since: The start of the generation, as Unix time.
    """
    if stack.is_own:
        return "api" if stack.real_replicate else "simulator"
    import httpx

    url = stack.status["REPLICATE_URL"].removesuffix("/v1") + "/_simulator/predictions"
    async with httpx.AsyncClient(
        headers={"apikey": stack.service_key}, timeout=REQUEST_TIMEOUT, mounts=direct_mounts(url)
    ) as http:
        predictions = (await http.get(url)).json()
    is_simulated = any(
        prediction["input"].get("prompt") == prompt
        and datetime.fromisoformat(prediction["created_at"]).timestamp() >= since
        for prediction in predictions
    )
    print_step("Replicate", _SIMULATOR if is_simulated else _REAL_REPLICATE)
    return "simulator" if is_simulated else "api"
