"""The embedded stack as the demo uses it: started and stopped, or found running and left alone."""

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

ANSWER_TIMEOUT = 30.0  # seconds

_JOB_TYPE = "generate-image"
_WORKER_TIMEOUT = 20.0  # seconds; it starts together with the stack
_POLL = 0.05
_LABEL_WIDTH = 12
_SIMULATOR = "a simulator; --real-replicate takes the real one"
_API = "the real one, by REPLICATE_API_TOKEN; it charges for this"


def done(label: str, text: str) -> None:
    """Print that a step is done."""
    mark = ("✓ ", "green")
    line = Text.assemble(mark, (label.ljust(_LABEL_WIDTH), "bold"), styled(text, "dim"))
    err().print(line, soft_wrap=True)


@dataclass(frozen=True)
class Stack:
    """A running stack.

    Args:
        status: Addresses and keys.
        ours: Whether the demo started it.
        real_replicate: Whether the demo started its worker for the real Replicate.
    """

    status: dict[str, str]
    ours: bool
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
def running(keep: bool, real_replicate: bool) -> Iterator[Stack]:
    """Runs a stack in the user's data directory as long as the block.

    Args:
        keep: Leave it running afterwards, unless the block breaks off.
        real_replicate: Let its worker use the real Replicate.

    Raises:
        LocalStackError: A stack is running, whose worker cannot be told to use the real Replicate.
    """
    found = running_stack()
    if found is not None and real_replicate:
        raise LocalStackError(
            "--real-replicate is for a stack that the demo starts, and one is running",
            hint="Stop it: picture-queue local stop",
        )
    if found is not None:
        done("Supabase", f"{found['API_URL']}, running already; it is left running")
        yield Stack(found, ours=False)
        return
    run = _kept if keep else _as_long_as_the_block
    with run(real_replicate) as status:
        done("Supabase", _describe(status))
        done("Replicate", _API if real_replicate else _SIMULATOR)
        yield Stack(status, ours=True, real_replicate=real_replicate)
    if not keep:
        info("Everything is stopped. The data is kept for the next time.")


@contextmanager
def _as_long_as_the_block(real_replicate: bool) -> Iterator[dict[str, str]]:
    from picture_queue.local.paths import default_data_dir
    from picture_queue.local.stack import LocalSupabase

    stack = LocalSupabase(
        default_data_dir(), worker=True, real_replicate=real_replicate, notice=info
    )
    with _starting():
        stack.start()
    try:
        yield stack.status()
    finally:
        with err().status("Stopping …"):
            stack.stop()


@contextmanager
def _kept(real_replicate: bool) -> Iterator[dict[str, str]]:
    from picture_queue.local.stack import start_background, stop

    with _starting():
        try:
            status = start_background(real_replicate=real_replicate, notice=info)
        except PortTaken as error:
            info(f"{error.message}; another one is chosen.")
            status = start_background(port=0, real_replicate=real_replicate, notice=info)
    try:
        yield status
    except BaseException:
        stop()
        raise


@contextmanager
def _starting() -> Iterator[None]:
    from picture_queue.local.paths import default_data_dir

    first = not (default_data_dir() / "postgres").exists()
    what = "Making a database and starting" if first else "Starting"
    with err().status(f"{what} Supabase, Replicate and a worker …"):
        yield


def _describe(status: dict[str, str]) -> str:
    postgres, postgrest = (status[name].split()[0] for name in ("POSTGRES", "POSTGREST"))
    return f"{status['API_URL']} on Postgres {postgres} and PostgREST {postgrest}"


async def worker_is_ready(stack: Stack) -> None:
    """Waits until there is a worker, so that its start does not count as the job's wait.

    Raises:
        LocalStackError: There is none.
    """
    from picture_queue import AsyncPictureQueue

    deadline = time.monotonic() + (_WORKER_TIMEOUT if stack.ours else 0.0)
    with err().status("Waiting for the worker …"):
        async with AsyncPictureQueue(
            stack.api_url, stack.service_key, timeout=ANSWER_TIMEOUT
        ) as pq:
            while True:
                workers = (await pq.health()).workers
                found = next((w for w in workers if _JOB_TYPE in w.job_types), None)
                if found or time.monotonic() > deadline:
                    break
                await asyncio.sleep(_POLL)
    if found is None:
        log = Path(stack.status["DATA_DIR"]) / "logs" / "worker.log"
        raise LocalStackError(
            f"No worker of this stack runs {_JOB_TYPE} jobs",
            hint=f"Its log: {log}" if stack.ours else "Start one: picture-queue worker",
        )
    done("Worker", found.worker)


@asynccontextmanager
async def realtime_switch(stack: Stack) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Gives a function that cuts Realtime off; the end of the block puts it right again."""
    import httpx

    is_cut = False
    async with httpx.AsyncClient(
        base_url=stack.api_url,
        headers={"apikey": stack.service_key},
        timeout=ANSWER_TIMEOUT,
        mounts=direct_mounts(stack.api_url),
    ) as http:

        async def switch(cut: bool) -> None:
            (await http.post("/_faults", json={"network_cut": cut})).raise_for_status()

        async def cut() -> None:
            nonlocal is_cut
            if not is_cut:
                is_cut = True
                await switch(True)

        try:
            yield cut
        finally:
            if is_cut:
                await switch(False)


async def who_drew(stack: Stack, prompt: str, since: float) -> str:
    """Returns whether the ``simulator`` or the real ``api`` drew a picture.

    The worker of a stack that was running already may use either; the simulator knows whether it
    was asked.

    Args:
        stack: Where.
        prompt: What was asked for.
        since: When, as unix time.
    """
    if stack.ours:
        return "api" if stack.real_replicate else "simulator"
    import httpx

    url = stack.status["REPLICATE_URL"].removesuffix("/v1") + "/_simulator/predictions"
    async with httpx.AsyncClient(
        headers={"apikey": stack.service_key}, timeout=ANSWER_TIMEOUT, mounts=direct_mounts(url)
    ) as http:
        listed = (await http.get(url)).json()
    asked = any(
        prediction["input"].get("prompt") == prompt
        and datetime.fromisoformat(prediction["created_at"]).timestamp() >= since
        for prediction in listed
    )
    done("Replicate", _SIMULATOR if asked else _API)
    return "simulator" if asked else "api"
