"""A Supabase project on loopback, from real Postgres and real PostgREST, for trying and testing.

`stack` is what programs use: `LocalSupabase` in a `with` block, or a stack in the background.
"""

import importlib.util
import os

from picture_queue.errors import LocalStackError, MissingProgram

_NEEDED = ("asyncpg", "httptools", "jwt", "PIL", "platformdirs", "psutil", "starlette", "uvicorn")

if os.name != "posix":
    raise LocalStackError(
        "The embedded stack needs Linux or macOS", hint="On Windows, run it in WSL."
    )
_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    raise MissingProgram(
        "The embedded stack is not installed",
        detail=f"Missing: {', '.join(_missing)}",
        hint="Install it with `pip install 'picture-queue[local]'`.",
    )
