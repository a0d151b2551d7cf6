"""``picture-queue worker``: run a worker until Ctrl-C or SIGTERM."""

import importlib
import logging
import os
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from picture_queue._loopback import is_loopback_url
from picture_queue.errors import (
    ConnectionFailed,
    PictureQueueError,
    SettingsError,
    WorkerStuck,
)
from picture_queue_cli.logs import LogFormat, configure_logging
from picture_queue_cli.parsing import expect_filled, parse_duration, whole_number
from picture_queue_cli.project import Target, resolve, run, running_stack
from picture_queue_cli.render import print_error, print_line

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from picture_queue import Worker
    from picture_queue.settings import ReplicateSettings

_MAX_WEIGHT = 1_000_000  # as in WorkerSettings, whose import would slow down the start
_CLEANUP_TIMEOUT = 5.0  # seconds for tasks that handlers left running


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
            help="Run this many jobs at the same time.",
        ),
    ] = None,
    lease: Annotated[
        float | None,
        typer.Option(
            metavar="DURATION",
            parser=parse_duration,
            help="Set the duration of a lease.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=expect_filled, help="Set the name of this worker."),
    ] = None,
    drains: Annotated[
        bool,
        typer.Option("--drain", "--once", help="Run the jobs that are due, then exit."),
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="DURATION",
            parser=parse_duration,
            help="Start no job after this time; needs --drain.",
        ),
    ] = None,
    max_jobs: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            parser=whole_number(1, 1_000_000_000),
            help="Exit after this many jobs; --processes restarts.",
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            parser=whole_number(1, 256),
            help="Run this many processes, and restart failed ones.",
        ),
    ] = 1,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a Python file changes.")
    ] = False,
    child: Annotated[str | None, typer.Option(hidden=True, help="Run as a child process.")] = None,
    real_replicate: Annotated[
        bool,
        typer.Option(
            "--real-replicate", help="Use the real Replicate, which charges for pictures."
        ),
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(metavar="text|json", help="Write the log as text or as lines of JSON."),
    ] = "text",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log each job that finishes.")
    ] = False,
) -> None:
    """Run jobs until Ctrl-C or SIGTERM.

    Running jobs get time to finish. The built-in worker generates pictures
    and needs REPLICATE_API_TOKEN. With an embedded stack it uses the
    simulator, unless --real-replicate is given.
    """
    if time_limit is not None and not drains:
        raise SettingsError("--time-limit is given without --drain", hint="Add --drain")
    # Imported here, since the help of the program must not wait for the import of asyncio.
    from picture_queue_cli.processes import end_with_parent, parse_child, supervise

    if child is None and (processes > 1 or reload):
        configure_logging(verbose, log_format)
        supervise(processes, restarts=not drains, reload=reload)
    if child is not None:
        index, reader = parse_child(child)
        end_with_parent(reader)
        name = name and f"{name}-{index}"
    options = {
        "queues": parse_weights(queues) if queues else None,
        "concurrency": concurrency,
        "lease": lease,
        "name": name,
        "max_jobs": max_jobs,
    }
    settings = {setting: value for setting, value in options.items() if value is not None}
    own_worker = load_worker(app) if app is not None else None
    target = resolve(ctx)
    configure_logging(verbose, log_format)
    drain = Drain(time_limit) if drains else None
    run(_work(own_worker, target, settings, real_replicate, drain), loop_factory())


def loop_factory() -> "Callable[[], AbstractEventLoop] | None":
    """Return a function that creates event loops of uvloop; None if uvloop is not installed.

    With uvloop, a job takes a tenth less CPU time.
    """
    try:
        import uvloop
    except ImportError:  # uvloop is not available on Windows
        return None
    return uvloop.new_event_loop


def restart() -> NoReturn:
    """Replace this process by a new one with the same command line and process id."""
    logging.info("Restarting the worker")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this program


def parse_weights(queues: list[str]) -> tuple[str, ...] | dict[str, float]:
    """Parse the values of ``--queue``: return names, or weights by name if any queue has a weight.

    Raises:
        SettingsError: A weight is not a number above 0, or a queue is named more than once.
    """
    weights: dict[str, float] = {}
    for queue in queues:
        name, equals, text = queue.partition("=")
        try:
            weight = float(text) if equals else 1.0
        except ValueError as error:
            raise SettingsError(
                f"--queue {queue}: the weight is not a number",
                hint=f"Write it as --queue {name}=3",
            ) from error
        if not 0 < weight <= _MAX_WEIGHT:
            raise SettingsError(
                f"--queue {queue}: the weight is not above 0, up to {_MAX_WEIGHT:,}",
                hint=f"Write it as --queue {name}=3",
            )
        if name in weights:
            raise SettingsError(f"--queue {name} is given more than once", hint="Name it once")
        weights[name] = weight
    return weights if any("=" in queue for queue in queues) else tuple(weights)


@dataclass(frozen=True)
class Drain:
    """The option ``--drain`` with its time limit in seconds."""

    time_limit: float | None


async def _run_or_drain(worker: "Worker", drain: Drain | None) -> None:
    if drain is None:
        await worker.run()
    else:
        result = await worker.drain(time_limit=drain.time_limit, handles_signals=True)
        print_line(f"{result.processed} processed, {result.errors} failed")


async def _work(
    own_worker: "Worker | None",
    target: Target,
    settings: dict[str, Any],
    real_replicate: bool,
    drain: Drain | None,
) -> None:
    from picture_queue._runtime.tasks import end_tasks

    try:
        if own_worker is not None:
            export_target(target)
            own_worker.settings = replace(own_worker.settings, **settings)
            await _run_or_drain(own_worker, drain)
        else:
            await _work_built_in(target, settings, real_replicate, drain)
    except TimeoutError as error:
        raise ConnectionFailed("The project does not answer in time") from error
    except WorkerStuck as error:
        print_error(str(error))
        restart()  # before the event loop ends, because its end waits for the stuck threads
    finally:
        await end_tasks(_CLEANUP_TIMEOUT)


async def _work_built_in(
    target: Target, settings: dict[str, Any], real_replicate: bool, drain: Drain | None
) -> None:
    from picture_queue import AsyncPictureQueue, WorkerSettings
    from picture_queue.generations.builtin import builtin_worker
    from picture_queue.generations.store import expect_storage

    worker_settings = WorkerSettings(**settings)
    replicate = replicate_settings(target, real_replicate)
    if replicate is not None:
        logging.info("Pictures come from %s", replicate.base_url)
    async with AsyncPictureQueue(target.url, target.key, database_url=target.database_url) as pq:
        if replicate is not None:
            await expect_storage(pq)
        await _run_or_drain(builtin_worker(pq, worker_settings, replicate), drain)


def replicate_settings(target: Target, real: bool) -> "ReplicateSettings | None":
    """Return the settings of the source of pictures: Replicate or the simulator.

    A worker of an embedded stack uses the simulator, unless `real` is true.

    Raises:
        SettingsError: `real` is true and there is no token; or the project is on this machine, has
            no known simulator, and `real` is false.
    """
    from picture_queue.settings import ReplicateSettings

    replicate = ReplicateSettings.from_env()
    if real:
        if replicate is None:
            raise SettingsError(
                "REPLICATE_API_TOKEN is not set, which --real-replicate needs",
                hint="Set it, or omit --real-replicate to use the simulator",
            )
        return replicate
    url = target.url or os.environ.get("SUPABASE_URL")
    simulator = _find_simulator(target, url)
    if simulator is None and is_loopback_url(url):
        # A stack with another data directory is used. `local env` prints the variables that have
        # the URL and the token of its simulator.
        simulator = _simulator_from_environment()
        is_real = replicate is not None and not is_loopback_url(replicate.base_url)
        if simulator is None and is_real:
            raise SettingsError(
                f"The project {url} is on this machine, and REPLICATE_API_TOKEN is set",
                hint="To pay for its pictures add --real-replicate; to use its simulator run: "
                'eval "$(picture-queue local env)"',
            )
    return simulator or replicate


def _find_simulator(target: Target, url: str | None) -> "ReplicateSettings | None":
    """Return the settings of the simulator if the project is the running embedded stack."""
    if target.replicate_url and target.replicate_token:
        return _with_webhooks(target.replicate_token, target.replicate_url)
    stack = running_stack()
    if url is None or stack is None:
        return None
    if url.rstrip("/").replace("//localhost:", "//127.0.0.1:") != stack["API_URL"]:
        return None
    return _with_webhooks(stack["REPLICATE_TOKEN"], stack["REPLICATE_URL"])


def _simulator_from_environment() -> "ReplicateSettings | None":
    """Return the settings of the simulator from the variables that `local env` prints.

    Raises:
        SettingsError: The token of the simulator is missing.
    """
    url, token = os.environ.get("REPLICATE_URL"), os.environ.get("REPLICATE_TOKEN")
    if url and not token:
        raise SettingsError(
            "REPLICATE_TOKEN is not set, which the simulator at REPLICATE_URL needs",
            hint='Run: eval "$(picture-queue local env)"',
        )
    return _with_webhooks(token, url) if url and token else None


def _with_webhooks(token: str, url: str) -> "ReplicateSettings":
    """Return settings with the webhooks of the environment."""
    from picture_queue.settings import ReplicateSettings

    return ReplicateSettings(
        token,
        url,
        os.environ.get("REPLICATE_WEBHOOK_URL") or None,
        os.environ.get("REPLICATE_WEBHOOK_SECRET") or None,
    )


def export_target(target: Target) -> None:
    """Set the environment variables from which the user's own worker creates its client."""
    for name, value in (("SUPABASE_URL", target.url), ("SUPABASE_KEY", target.key)):
        if value:
            os.environ[name] = value
    if target.database_url is None:  # --url overrides the environment
        os.environ.pop("PICTURE_QUEUE_DATABASE_URL", None)


def load_worker(app: str) -> "Worker":
    """Import a worker; modules in the current directory can be imported too.

    Args:
        app: ``module:name``.

    Raises:
        SettingsError: The module cannot be imported, or has no worker of that name.
    """
    from picture_queue import Worker

    module, colon, name = app.partition(":")
    if not (module and colon and name):
        raise SettingsError(
            f"--app is {app!r}, not MODULE:NAME", hint="Write it as --app tasks:worker"
        )
    # The first entry of sys.path is the directory of this program, not the current directory.
    sys.path.insert(0, os.getcwd())
    try:
        value = getattr(importlib.import_module(module), name, None)
    except PictureQueueError:
        raise
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        missing = error.name or package
        raise SettingsError(
            f"--app {app} cannot be imported",
            detail=str(error),
            hint=f"Run this command in the directory of {package}, or install {package}"
            if missing == package
            else f"Install {missing}, which {package} imports",
        ) from error
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SettingsError(
            f"--app {app} cannot be imported",
            detail=f"{type(error).__name__}: {text}",
            hint=f"See {_location(error)}",
        ) from error
    if not isinstance(value, Worker):
        type_name = type(value).__name__
        problem = f"{module} has no such name" if value is None else f"it is of type {type_name}"
        raise SettingsError(
            f"--app {app} is not a Worker",
            detail=problem,
            hint=f"Define it in {module}: {name} = Worker()",
        )
    return value


def _location(error: Exception) -> str:
    """Return the file and line of an exception or of a syntax error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"
