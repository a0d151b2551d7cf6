"""Base classes of commands and groups: help with an example, checked values, translated errors."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from picture_queue.errors import InvalidArgument, PictureQueueError
from picture_queue_cli.translate import label, translate_error

F = TypeVar("F", bound=Callable[..., Any])

# Typer ships click under a module name that depends on its version, so get the class from typer.
UsageError: Any = typer.BadParameter.__base__
_SECRETS = ("key", "db_url")  # options whose values are not printed


class _Base:
    """Methods that commands and groups share."""

    epilog: str | None
    name: str | None

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the command line; set the context of a usage error, from which it is reported."""
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example without line breaks, so that it can be copied."""
        if self.epilog:
            formatter.write(f"\nExample:\n  {self.epilog}\n")


class Command(_Base, TyperCommand):
    """A command that checks the values of its parameters before it runs."""

    def make_parser(self, ctx: Any) -> Any:
        """Return a parser that refuses a repeated filter option such as ``--queue``."""
        parser: Any = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            values, rest, used_parameters = parse(args=args)
            for parameter in set(used_parameters):
                # The help of every filter option begins with these words.
                if getattr(parameter, "help", "").startswith("Select jobs"):
                    _expect_one_value(ctx, parameter, used_parameters.count(parameter))
            return values, rest, used_parameters

        parser.parse_args = parse_args
        return parser

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line."""
        pieces = ["[OPTIONS]"]
        for parameter in self.params:
            if not parameter.opts[0].startswith("-"):
                name = label(parameter) + ("..." if parameter.nargs == -1 else "")
                pieces.append(name if parameter.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of arguments and options, without the names of Python types."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_option = parameter.opts[0].startswith("-")
                name = record[0] if is_option else label(parameter)
                sections["Options" if is_option else "Arguments"].append((name, record[1]))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            PictureQueueError: The call failed; the text names options and commands of the CLI
                instead of parameters and functions of SQL.
        """
        check_values(ctx)
        try:
            return super().invoke(ctx)
        except PictureQueueError as error:
            translate_error(error, ctx)
            raise


class Group(_Base, TyperGroup):
    """A group of commands, whose help has a section for each panel."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the commands and a line of help for each."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            line = (command.help or "").partition("\n")[0]
            panels.setdefault(command.rich_help_panel or "Commands", []).append((name, line))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


class Commands(typer.Typer):
    """A typer app whose commands are of class `Command` and whose groups are of class `Group`."""

    def __init__(self, *, example: str, cls: type[TyperGroup] = Group, **settings: Any) -> None:
        super().__init__(
            cls=cls,
            no_args_is_help=True,
            # Show Python's traceback of an unexpected error instead of typer's.
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            epilog=_example(example),
            **settings,
        )

    def command(  # type: ignore[override]
        self, name: str | None = None, *, example: str, **settings: Any
    ) -> Callable[[F], F]:
        """Add a command, whose help ends with an example."""
        return super().command(name, cls=Command, epilog=_example(example), **settings)


def _example(text: str) -> str:
    return text if "picture-queue " in text else f"picture-queue {text}"


def _expect_one_value(ctx: Any, parameter: Any, count: int) -> None:
    """Check that a filter option was given only once.

    Otherwise ``--queue a --queue b`` would silently select the jobs of queue b only.
    """
    if count > 1:
        raise typer.BadParameter(f"given {count} times; use it once", ctx=ctx, param=parameter)


def check_values(ctx: Any) -> None:
    """Check the values of a command's parameters.

    Python decodes command-line bytes that are not UTF-8 as lone surrogates, which neither JSON nor
    Postgres accepts. Paths are not checked, since file names may contain such bytes.

    Args:
        ctx: The command's context.

    Raises:
        InvalidArgument: A text is not valid UTF-8, or a number is not finite.
    """
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name)
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for item in items:
            if isinstance(item, str) and not is_utf8(item):
                value_text = "" if parameter.name in _SECRETS else f"{item!r}, which is "
                raise InvalidArgument(
                    f"{label(parameter)} is {value_text}not UTF-8 text", hint="Encode it as UTF-8"
                )
            if isinstance(item, float) and not math.isfinite(item):
                raise InvalidArgument(
                    f"{label(parameter)} is {item}, which is not a number",
                    hint="Use a finite number",
                )


def is_utf8(value: str) -> bool:
    """Return whether a string can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
