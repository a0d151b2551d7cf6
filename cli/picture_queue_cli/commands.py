"""Commands that accept valid text and finite numbers only, whatever their options are."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from picture_queue.errors import InvalidArgument

F = TypeVar("F", bound=Callable[..., Any])

_SECRETS = ("key", "db_url")  # options whose values are not printed


class Command(TyperCommand):
    """A command that checks the values of its parameters before it runs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            InvalidArgument: A value is not text, or not a finite number.
        """
        check_values(ctx)
        return super().invoke(ctx)


class Commands(typer.Typer):
    """A group of such commands."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **settings: Any
    ) -> Callable[[F], F]:
        """Add a command."""
        return super().command(name, cls=cls, **settings)


def check_values(ctx: Any) -> None:
    """Check the values of a command's parameters.

    Bytes of the command line that are not UTF-8 arrive as lone surrogates, which neither JSON nor
    Postgres takes. Paths may have them: file systems do.

    Args:
        ctx: The command's context.

    Raises:
        InvalidArgument: A value is not text, or not a finite number.
    """
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name)
        for one in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            if isinstance(one, str) and not is_text(one):
                shown = "" if parameter.name in _SECRETS else f"{one!r}, which is "
                problem, fix = f"{shown}not UTF-8 text", "Encode it as UTF-8"
            elif isinstance(one, float) and not math.isfinite(one):
                problem, fix = f"{one}, which is not a number", "Give a finite number"
            else:
                continue
            option = max(parameter.opts, key=len)
            named = option.startswith("-")
            field = option if named else (parameter.metavar or parameter.name).upper()
            raise InvalidArgument(f"{field} is {problem}", hint=fix)


def is_text(value: str) -> bool:
    """Return whether a string can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
