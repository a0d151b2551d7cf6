"""``picture-queue local``: the embedded Supabase."""

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from picture_queue._visible import escape_invisible
from picture_queue.errors import LocalStackError, MissingProgram, NotFound
from picture_queue_cli.commands import Commands
from picture_queue_cli.options import JsonFlag, YesFlag, expect_terminal
from picture_queue_cli.parsing import parse_directory, whole_number
from picture_queue_cli.render import err, info, out, print_json

app = Commands(help="Run Supabase on this machine, without Docker.", example="local start")

DataDirectory = Annotated[
    Path | None,
    typer.Option(metavar="DIR", parser=parse_directory, help="Use this data directory."),
]
RealReplicate = Annotated[
    bool,
    typer.Option("--real-replicate", help="Use the real Replicate, which charges for pictures."),
]
# The source of pictures, without and with --real-replicate.
REPLICATE = {False: "the simulator", True: "the real Replicate, with REPLICATE_API_TOKEN"}
_LABELS = {
    "API_URL": "API",
    "DB_URL": "Database",
    "REPLICATE_URL": "Replicate simulator",
    "DATA_DIR": "Data",
    "POSTGRES": "Postgres",
    "POSTGREST": "PostgREST",
    "PUBLISHABLE_KEY": "Publishable key",
    "SECRET_KEY": "Secret key",
    "ANON_KEY": "Anon key",
    "SERVICE_ROLE_KEY": "Service key",
    "JWT_SECRET": "JWT secret",
    "REPLICATE_TOKEN": "Simulator token",
}
_LABEL_WIDTH = 22
# Text of characters that have no special meaning between double quotes, in a shell and in a .env
# file.
_PLAIN_TEXT = re.compile(r"[\w./:@?=&%+-]+", re.ASCII)
#: The variables of `supabase status -o env`, then the variables that this package reads.
_VARIABLES = (
    *("API_URL", "DB_URL", "PUBLISHABLE_KEY", "SECRET_KEY", "ANON_KEY", "SERVICE_ROLE_KEY"),
    *("JWT_SECRET", "REPLICATE_URL", "REPLICATE_TOKEN"),
    *("SUPABASE_URL", "SUPABASE_SERVICE_ROLE_KEY"),
)


def expect_installed() -> None:
    """Check that the embedded stack is installed.

    Raises:
        MissingProgram: The package was installed without the extra.
    """
    try:
        import picture_queue.local.stack  # noqa: F401
    except ImportError as error:
        raise MissingProgram(
            "The embedded stack is not installed",
            detail=f"there is no {error.name}",
            hint="Run: pip install 'picture-queue[local]'",
        ) from error


@app.command(example="local start --port 54321")
def start(
    *,
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            parser=whole_number(0, 65_535),
            help="Serve the API on this port; 0 chooses a free one.",
        ),
    ] = 54321,
    data_dir: DataDirectory = None,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Run a worker too, or none.")
    ] = True,
    real_replicate: RealReplicate = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of this origin call the API; repeatable."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start the stack in the background."""
    expect_installed()
    from picture_queue.local.origin_check import is_origin
    from picture_queue.local.stack import start_background

    for origin in allow_origin or ():
        if not is_origin(origin):
            raise typer.BadParameter(
                f"{origin!r} is not an origin like https://app.test:3000 (without a path)",
                param_hint="--allow-origin",
            )
    with err().status("Starting Supabase …"):
        addresses = start_background(
            data_dir,
            port=port,
            worker=worker,
            real_replicate=real_replicate,
            allowed_origins=tuple(allow_origin or ()),
            notice=info,
        )
    if as_json:
        print_json(addresses)
        return
    show_status(addresses)
    if worker:
        info(f"\nA worker is running. Its pictures come from {REPLICATE[real_replicate]}.")
    info("\nFor your own programs:")
    out().print(Text(f"export SUPABASE_URL={addresses['API_URL']}"), soft_wrap=True)
    out().print(Text(f"export SUPABASE_KEY={addresses['SECRET_KEY']}"), soft_wrap=True)
    info(f"\nStop it with: picture-queue local stop{_data_dir_option(data_dir)}")


def _data_dir_option(data_dir: Path | None) -> str:
    return f" --data-dir {data_dir}" if data_dir else ""


@app.command(example="local stop")
def stop(*, data_dir: DataDirectory = None) -> None:
    """Stop the stack and keep its data."""
    expect_installed()
    from picture_queue.local import stack

    with err().status("Stopping …"):
        stack.stop(data_dir)
    info("Stopped. The data is kept for the next start.")


@app.command(example="local status --json")
def status(*, data_dir: DataDirectory = None, as_json: JsonFlag = False) -> None:
    """Show the addresses and keys of the stack."""
    expect_installed()
    from picture_queue.local import stack

    addresses = stack.status(data_dir)
    if as_json:
        print_json(addresses)
    else:
        show_status(addresses)


@app.command(example='eval "$(picture-queue local env)"')
def env(*, data_dir: DataDirectory = None) -> None:
    """Print addresses and keys for a shell or a .env file.

    For a shell: eval "$(picture-queue local env)". For a file that only you can read:
    (umask 077; picture-queue local env > .env).
    """
    expect_installed()
    from picture_queue.local import stack

    addresses = stack.status(data_dir)
    addresses |= {
        "SUPABASE_URL": addresses["API_URL"],
        "SUPABASE_SERVICE_ROLE_KEY": addresses["SERVICE_ROLE_KEY"],
    }
    for name in _VARIABLES:
        # Root's shell may evaluate this output. The values come from state.json, which the stack's
        # unprivileged user can change.
        if not _PLAIN_TEXT.fullmatch(addresses[name]):
            raise LocalStackError(
                f"{name} of the running stack is {addresses[name]!r}, which is not a valid value",
                hint="Another program changed state.json; stop the stack and start it again",
            )
    for name in _VARIABLES:
        out().print(Text(f'export {name}="{addresses[name]}"'), soft_wrap=True)


@app.command(example="local reset --yes")
def reset(
    *,
    data_dir: DataDirectory = None,
    yes: YesFlag = False,
) -> None:
    """Stop the stack and delete its data."""
    expect_installed()
    from picture_queue.local import stack
    from picture_queue.local.paths import default_data_dir

    directory = data_dir or default_data_dir()
    if not stack.has_stack(directory):
        raise NotFound(
            "There is no stack in this directory",
            detail=f"--data-dir is {directory}",
            hint="Name the data directory of a stack with --data-dir, or start one: "
            "picture-queue local start",
        )
    if not yes:
        expect_terminal(f"deleting {directory}")
        typer.confirm(
            escape_invisible(f"Delete all data of the stack in {directory}?"), abort=True, err=True
        )
    with err().status("Deleting …"):
        stack.reset(data_dir)
    info("Deleted.")


def show_status(addresses: dict[str, str]) -> None:
    """Print addresses and keys with labels, for people instead of programs."""
    console = out()
    for name, label in _LABELS.items():
        line = Text.assemble((f"{label:<{_LABEL_WIDTH}}", "dim"), addresses[name])
        # With soft_wrap the line has no line breaks, so a long key can be copied whole.
        console.print(line, soft_wrap=True)
