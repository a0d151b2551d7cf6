"""``picture-queue worker``: run a worker until it is told to stop."""

import importlib
import logging
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from picture_queue._loopback import is_loopback_url
from picture_queue._visible import LogFormatter
from picture_queue.errors import (
    ConnectionFailed,
    PictureQueueError,
    SettingsError,
    WorkerStuck,
)
from picture_queue_cli.parsing import expect_filled, seconds, whole_number
from picture_queue_cli.project import Target, resolve, run, running_stack
from picture_queue_cli.render import print_error

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from picture_queue import Worker
    from picture_queue.settings import ReplicateSettings

_JOBS = "picture_queue.worker.executor"  # logs how each job ended


_END_TIMEOUT = 5.0  # seconds for tasks that handlers left behind


def worker(
    ctx: typer.Context,
    *,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME", help="Run your own worker instead of the built-in one."
        ),
    ] = None,
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "--queue",
            metavar="QUEUE[=WEIGHT]",
            callback=expect_filled,
            help="Claim from this queue, with this weight; repeatable.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            parser=whole_number(1, 1000),
            help="Run so many jobs at the same time.",
        ),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option(
            metavar="DURATION", parser=seconds, help="Keep a job so long without a heartbeat."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", callback=expect_filled, help="Use this name among the workers."
        ),
    ] = None,
    real_replicate: Annotated[
        bool,
        typer.Option(
            "--real-replicate", help="Use the real Replicate beside an embedded stack; it costs."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log each job that finishes.")
    ] = False,
) -> None:
    """Run jobs until Ctrl-C or SIGTERM.

    Running jobs get time to finish. The built-in worker generates pictures
    and needs REPLICATE_API_TOKEN; beside the embedded stack it asks the
    simulator, unless --real-replicate is given.
    """
    asked = {
        "queues": weighted(queues) if queues else None,
        "concurrency": concurrency,
        "lease": lease,
        "name": name,
    }
    settings = {setting: value for setting, value in asked.items() if value is not None}
    own = load(app) if app is not None else None
    target = resolve(ctx)
    _start_log(verbose)
    run(_work(own, target, settings, real_replicate), _loop_factory())


def _loop_factory() -> "Callable[[], AbstractEventLoop] | None":
    """Return the event loop of uvloop if it is installed: a job costs a tenth less CPU with it."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


def _start_log(verbose: bool) -> None:
    """Log to standard error: the log is the program's output."""

    def is_shown(record: logging.LogRecord) -> bool:
        # A line for each finished job is too much for a busy worker.
        return verbose or record.levelno >= logging.WARNING or record.name != _JOBS

    handler = logging.StreamHandler()
    handler.addFilter(is_shown)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def start_anew() -> NoReturn:
    """Replace this process by a fresh one of the same command line and the same id."""
    logging.info("The worker starts anew")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves


def weighted(queues: list[str]) -> tuple[str, ...] | dict[str, float]:
    """Read ``--queue``: names, or names with their weights if one has a weight.

    Raises:
        SettingsError: A weight is no number.
    """
    if not any("=" in queue for queue in queues):
        return tuple(queues)
    found = {}
    for queue in queues:
        name, given, weight = queue.partition("=")
        try:
            found[name] = float(weight) if given else 1.0
        except ValueError as error:
            raise SettingsError(
                f"--queue {queue} has no number as its weight", hint=f"Such as --queue {name}=3"
            ) from error
    return found


async def _work(
    own: "Worker | None", target: Target, settings: dict[str, Any], real_replicate: bool
) -> None:
    from picture_queue._runtime.tasks import end_tasks

    try:
        if own is not None:
            _export(target)
            own.settings = replace(own.settings, **settings)
            await own.run()
        else:
            await _work_built_in(target, settings, real_replicate)
    except TimeoutError as error:
        raise ConnectionFailed("The project does not answer in time") from error
    except WorkerStuck as error:
        print_error(str(error))
        start_anew()  # from here: the end of the event loop would wait for threads
    finally:
        await end_tasks(_END_TIMEOUT)


async def _work_built_in(target: Target, settings: dict[str, Any], real_replicate: bool) -> None:
    from picture_queue import AsyncPictureQueue, WorkerSettings
    from picture_queue.generations.builtin import builtin_worker
    from picture_queue.generations.store import expect_storage

    chosen, replicate = WorkerSettings(**settings), _replicate(target, real_replicate)
    if replicate is not None:
        logging.info("Pictures come from %s", replicate.base_url)
    async with AsyncPictureQueue(target.url, target.key, database_url=target.database_url) as pq:
        if replicate is not None:
            await expect_storage(pq)
        await builtin_worker(pq, chosen, replicate).run()


def _replicate(target: Target, real: bool) -> "ReplicateSettings | None":
    """Return where pictures come from: beside an embedded stack the simulator, unless `real`.

    Raises:
        SettingsError: The real Replicate is wanted, and there is no token for it; or the project
            is on this machine and nothing says which Replicate is meant.
    """
    from picture_queue.settings import ReplicateSettings

    found = ReplicateSettings.from_env()
    if real:
        if found is None:
            raise SettingsError(
                "REPLICATE_API_TOKEN is not set, which --real-replicate needs",
                hint="Set it, or leave --real-replicate out to use the simulator",
            )
        return found
    url = target.url or os.environ.get("SUPABASE_URL")
    simulator = _simulator_of(target, url)
    if simulator is None and is_loopback_url(url):
        # A stack in another data directory: `local env` names its simulator.
        simulator = _simulator_of_environment()
        if simulator is None and found is not None and not is_loopback_url(found.base_url):
            raise SettingsError(
                f"The project {url} is on this machine, and REPLICATE_API_TOKEN is set",
                hint="Add --real-replicate to pay for its pictures, or run: "
                'eval "$(picture-queue local env)"',
            )
    return simulator or found


def _simulator_of(target: Target, url: str | None) -> "ReplicateSettings | None":
    """Return the simulator if a project is the embedded stack that runs here."""
    from picture_queue.settings import ReplicateSettings

    if target.replicate_url and target.replicate_token:
        return ReplicateSettings(target.replicate_token, target.replicate_url)
    stack = running_stack()
    if url is None or stack is None:
        return None
    if url.rstrip("/").replace("//localhost:", "//127.0.0.1:") != stack["API_URL"]:
        return None
    return ReplicateSettings(stack["REPLICATE_TOKEN"], stack["REPLICATE_URL"])


def _simulator_of_environment() -> "ReplicateSettings | None":
    """Return the simulator that `local env` named.

    Raises:
        SettingsError: Its token is missing.
    """
    from picture_queue.settings import ReplicateSettings

    url, token = os.environ.get("REPLICATE_URL"), os.environ.get("REPLICATE_TOKEN")
    if url and not token:
        raise SettingsError(
            "REPLICATE_TOKEN is not set, which the simulator of REPLICATE_URL asks for",
            hint='Run: eval "$(picture-queue local env)"',
        )
    return ReplicateSettings(token, url) if url and token else None


def _export(target: Target) -> None:
    """Put the project into the environment, where a worker without a client looks for it."""
    for name, value in (("SUPABASE_URL", target.url), ("SUPABASE_KEY", target.key)):
        if value:
            os.environ[name] = value
    if target.database_url is None:  # --url goes before the environment
        os.environ.pop("PICTURE_QUEUE_DATABASE_URL", None)


def load(app: str) -> "Worker":
    """Import a worker, looking in the current directory too.

    Args:
        app: ``module:name``.

    Raises:
        SettingsError: The module cannot be imported, or has no worker of that name.
    """
    from picture_queue import Worker

    module, colon, name = app.partition(":")
    if not (module and colon and name):
        raise SettingsError(f"--app is {app!r}, not MODULE:NAME", hint="Such as tasks:worker")
    # The program's own directory stands first in the path; users mean theirs.
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name, None)
    except PictureQueueError:
        raise
    except ModuleNotFoundError as error:
        top = module.split(".")[0]
        missing = error.name or top
        hint = f"Run this where {top} lies, or install it" if missing == top else None
        raise SettingsError(
            f"--app {app} cannot be imported",
            detail=str(error),
            hint=hint or f"Install {missing}, which {top} imports",
        ) from error
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SettingsError(
            f"--app {app} cannot be imported",
            detail=f"{type(error).__name__}: {text}",
            hint=f"See {_place(error)}",
        ) from error
    if not isinstance(found, Worker):
        what = "has no such name" if found is None else f"is of type {type(found).__name__}"
        raise SettingsError(
            f"--app {app} is no worker", detail=f"it {what}", hint=f"Write there: {name} = Worker()"
        )
    return found


def _place(error: Exception) -> str:
    """Return the file and line where an exception was raised, or the syntax is wrong."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
