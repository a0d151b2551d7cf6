"""``picture-queue serve``: serve the HTTP routes of a project until Ctrl-C or SIGTERM."""

import errno
import logging
import os
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from picture_queue.errors import PortTaken, SettingsError, WorkerStuck
from picture_queue_cli.logs import configure_logging
from picture_queue_cli.parsing import expect_filled, whole_number
from picture_queue_cli.project import Target, resolve, run, running_stack
from picture_queue_cli.worker import (
    export_target,
    load_worker,
    loop_factory,
    parse_weights,
    replicate_settings,
    restart,
)

if TYPE_CHECKING:
    from picture_queue import AsyncPictureQueue, Worker
    from picture_queue.settings import ReplicateSettings
    from picture_queue.web import WebSettings

_BACKLOG = 1024  # connections that wait to be accepted
_CLEANUP_TIMEOUT = 5.0  # seconds for tasks that handlers left running


def serve(
    ctx: typer.Context,
    *,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", callback=expect_filled, help="Listen on this address."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(metavar="PORT", parser=whole_number(0, 65_535), help="Listen on this port."),
    ] = 8080,
    runs_worker: Annotated[
        bool, typer.Option("--worker", help="Run a worker in this process.")
    ] = False,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:NAME", help="Use your own worker instead of the built-in one."
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
    real_replicate: Annotated[
        bool,
        typer.Option(
            "--real-replicate", help="Use the real Replicate, which charges for pictures."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log each request and each job.")
    ] = False,
) -> None:
    """Serve the HTTP routes until Ctrl-C or SIGTERM.

    Users start generations, services run jobs, and Replicate delivers
    webhooks. Secrets come from PICTURE_QUEUE_PROCESS_SECRET and
    SUPABASE_JWT_SECRET. Without --worker jobs run only for /process-jobs.
    """
    options = {"queues": parse_weights(queues) if queues else None, "concurrency": concurrency}
    settings = {setting: value for setting, value in options.items() if value is not None}
    own_worker = load_worker(app) if app is not None else None
    target = resolve(ctx)
    configure_logging(verbose)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    work_options = _Options(
        own_worker, settings, replicate_settings(target, real_replicate), runs_worker
    )
    with _listen(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        logging.info("Listening on %s", url)
        run(_serve(listener, target, work_options, verbose), loop_factory())


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        PortTaken: Another program listens on the port.
        SettingsError: This machine has no such address, or the port needs more privileges.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise PortTaken(f"Port {port} is in use", hint="Pass another --port") from error
        raise SettingsError(
            f"--host {host} with --port {port} cannot be used", detail=str(error)
        ) from error


@dataclass(frozen=True)
class _Options:
    """The options of the command that concern the worker."""

    own_worker: "Worker | None"
    settings: dict[str, Any]
    replicate: "ReplicateSettings | None"
    runs_worker: bool


async def _serve(
    listener: socket.socket, target: Target, options: _Options, logs_requests: bool
) -> None:
    from picture_queue import AsyncPictureQueue
    from picture_queue._runtime.tasks import end_tasks

    try:
        from picture_queue.web import BackgroundWorker, create_app
        from picture_queue.web.server import run_server
    except ImportError as error:
        raise SettingsError(
            "serve needs packages that are not installed",
            detail=str(error),
            hint='Run: pip install "picture-queue[web]"',
        ) from error
    settings = _web_settings(target)
    try:
        async with AsyncPictureQueue(
            target.url, target.key, database_url=target.database_url
        ) as client:
            await client.version()  # refuses a wrong address or key at the start
            worker = await _create_worker(client, target, options)
            background = None
            if options.runs_worker:
                background = BackgroundWorker(worker, handles_signals=True)
            app = create_app(
                client, options.replicate, settings=settings, worker=background or worker
            )
            async with app.router.lifespan_context(app):
                await run_server(app, listener, background, logs_requests=logs_requests)
    except WorkerStuck:
        restart()  # before the event loop ends, because its end waits for the stuck threads
    finally:
        await end_tasks(_CLEANUP_TIMEOUT)


async def _create_worker(
    client: "AsyncPictureQueue", target: Target, options: _Options
) -> "Worker":
    from picture_queue import WorkerSettings
    from picture_queue.generations.builtin import builtin_worker
    from picture_queue.generations.store import expect_storage

    worker = options.own_worker
    if worker is not None:
        export_target(target)
        worker.settings = replace(worker.settings, **options.settings)
        return worker
    if options.runs_worker and options.replicate is not None:
        await expect_storage(client)
    return builtin_worker(client, WorkerSettings(**options.settings), options.replicate)


def _web_settings(target: Target) -> "WebSettings":
    """Return the settings of the environment; with the embedded stack also its secret."""
    from picture_queue.web import WebSettings

    settings = WebSettings.from_env()
    stack = running_stack()
    url = target.url or os.environ.get("SUPABASE_URL")
    if settings.jwt_secret is None and stack is not None and url == stack["API_URL"]:
        return replace(settings, jwt_secret=stack["JWT_SECRET"])
    return settings
