"""The embedded stack: a Supabase project on loopback, with a real Postgres and a real PostgREST.

`LocalSupabase` runs a stack for the duration of a `with` block. `picture_queue.local.stack` also
has the functions behind `picture-queue local`, which runs a stack in the background.
"""

import importlib.util
import os
from typing import TYPE_CHECKING

from picture_queue.errors import LocalStackError, MissingProgram

if TYPE_CHECKING:
    from picture_queue.local.stack import LocalSupabase

__all__ = ["LocalSupabase"]

_REQUIRED_MODULES = (
    "asyncpg",
    "httptools",
    "jwt",
    "PIL",
    "platformdirs",
    "psutil",
    "starlette",
    "uvicorn",
)

if os.name != "posix":
    raise LocalStackError(
        "The embedded stack needs Linux or macOS", hint="On Windows, run it in WSL."
    )
_missing = [name for name in _REQUIRED_MODULES if importlib.util.find_spec(name) is None]
if _missing:
    raise MissingProgram(
        "The embedded stack is not installed",
        detail=f"Missing: {', '.join(_missing)}",
        hint="Install it with `pip install 'picture-queue[local]'`.",
    )


if not TYPE_CHECKING:  # with `__getattr__` a type checker would accept every misspelt import

    def __getattr__(name: str) -> object:
        # Import the stack lazily: `local.fetch` and `local.daemon` do not need it.
        if name == "LocalSupabase":
            from picture_queue.local.stack import LocalSupabase

            return LocalSupabase
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
