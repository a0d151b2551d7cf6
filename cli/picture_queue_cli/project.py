"""Find the project of a command: in options, the environment, or a running embedded stack."""

import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from picture_queue.errors import PictureQueueError, SettingsError
from picture_queue_cli.render import info

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from picture_queue import AsyncPictureQueue, PictureQueue

Row = TypeVar("Row")


@dataclass(frozen=True)
class Target:
    """The project of a command; for a value of None the client reads the environment.

    Args:
        url: ``--url``, or the address of the embedded stack.
        key: ``--key``, or the service role key of the embedded stack.
        replicate_url: The address of the Replicate simulator in the embedded stack.
        replicate_token: The token of the simulator.
        database_url: ``PICTURE_QUEUE_DATABASE_URL``, for direct calls to the database.
    """

    url: str | None = None
    key: str | None = field(default=None, repr=False)
    replicate_url: str | None = None
    replicate_token: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)


def resolve(ctx: typer.Context) -> Target:
    """Return the project of the command line or the environment, else a running embedded stack.

    Raises:
        SettingsError: A key or a token is set, but direct calls to the database ignore it.
    """
    target = ctx.find_object(Target) or Target()
    direct = os.environ.get("PICTURE_QUEUE_DATABASE_URL")
    if direct and not target.url:
        _check_no_key_is_ignored(target)
        return replace(target, database_url=direct)
    if target.url or os.environ.get("SUPABASE_URL"):
        return target
    stack = running_stack()
    if stack is None:
        return target
    info(f"Using the embedded stack at {stack['API_URL']}")
    key = target.key or stack["SERVICE_ROLE_KEY"]
    return Target(stack["API_URL"], key, stack["REPLICATE_URL"], stack["REPLICATE_TOKEN"])


def _check_no_key_is_ignored(target: Target) -> None:
    for name, value in (
        ("--key", target.key),
        ("SUPABASE_ACCESS_TOKEN", os.environ.get("SUPABASE_ACCESS_TOKEN")),
    ):
        if value:
            raise SettingsError(
                f"{name} is set together with PICTURE_QUEUE_DATABASE_URL, and has no effect then",
                hint="Unset PICTURE_QUEUE_DATABASE_URL, or use --url to call the API",
            )


def running_stack() -> dict[str, str] | None:
    """Return the status of the stack in the default data directory; None if it is not running."""
    try:
        from picture_queue.local.stack import status

        return status()
    except (ImportError, PictureQueueError):
        return None


def run(
    work: Coroutine[Any, Any, None],
    loop_factory: "Callable[[], AbstractEventLoop] | None" = None,
) -> None:
    """Run a coroutine to its end; Ctrl-C cancels it."""
    import asyncio

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(work)


def connect(ctx: typer.Context) -> "PictureQueue":
    """Return a client of the project.

    Raises:
        SettingsError: The address or the key is missing or invalid.
    """
    # The import takes half a second, so only commands that call a project do it.
    from picture_queue import PictureQueue

    target = resolve(ctx)
    return PictureQueue(target.url, target.key, database_url=target.database_url)


def connect_async(ctx: typer.Context) -> "AsyncPictureQueue":
    """Return an async client of the project, for commands that follow events.

    Raises:
        SettingsError: The address or the key is missing or invalid.
    """
    from picture_queue import AsyncPictureQueue

    target = resolve(ctx)
    return AsyncPictureQueue(target.url, target.key, database_url=target.database_url)


def read_all_pages(read: Callable[..., list[Row]], name: str) -> list[Row]:
    """Read all pages of a list; a page begins after the attribute `name` of the last row."""
    rows: list[Row] = []
    while page := read(after=getattr(rows[-1], name) if rows else None):
        rows += page
    return rows
