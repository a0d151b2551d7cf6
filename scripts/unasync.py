"""Generate the sync half of the library from the async half.

The rules apply in the order in which they are listed. A rule that matches nothing is an error, so
that obsolete rules are removed.

``python scripts/unasync.py [--check]``. With --check it writes nothing, and exits with 1 if a file
is out of date.
"""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "picture_queue"
SOURCES = {
    **{
        PACKAGE / "_transport" / f"{name}.py": PACKAGE / "_transport" / f"{name}_sync.py"
        for name in ("postgres", "postgrest", "backend")
    },
    **{file: PACKAGE / "_sync" / file.name for file in sorted((PACKAGE / "_async").glob("*.py"))},
}
HEADER = "# Written by scripts/unasync.py from {source}: edit that file.\n\n"
RULES = [
    (r"\basync (def|with|for)", r"\1"),
    (r"\bawait ", ""),
    # The prefix of a class is removed: AsyncJobs, httpx.AsyncClient, AsyncRetrying.
    (r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"Awaitable, ", ""),
    (r"Awaitable\[(\w+)\]", r"\1"),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\ba(close|iter_bytes)\b", r"\1"),
    (r"\basyncio\b", "threading"),
    (r"LoopOwner, ProcessOwner", "ProcessOwner"),
    (r"LoopOwner", "ProcessOwner"),
    (r"connect_async", "connect_sync"),
    # A module is replaced by its sync half.
    (r"_async\b", "_sync"),
    (r"_realtime\.follow", "_realtime.sync_follow"),
    (r"_transport\.(postgrest|postgres|backend)\b", r"_transport.\1_sync"),
    (r"(import |= )postgres\b", r"\1postgres_sync"),
]


def translate(text: str, used: set[str]) -> str:
    """Return the sync half of a source; add the rules that matched to `used`."""
    for pattern, replacement in RULES:
        text, count = re.subn(pattern, replacement, text)
        if count:
            used.add(pattern)
    return text


def main() -> int:
    """Write the files that are out of date; with --check only list them."""
    used: set[str] = set()
    stale = []
    for source, target in SOURCES.items():
        text = translate(source.read_text("utf-8"), used)
        text = HEADER.format(source=source.relative_to(PACKAGE.parent).as_posix()) + text
        if not target.exists() or target.read_text("utf-8") != text:
            stale.append(target.relative_to(PACKAGE.parent))
            if "--check" not in sys.argv:
                target.parent.mkdir(exist_ok=True)
                target.write_text(text, "utf-8")
    unused = [pattern for pattern, _ in RULES if pattern not in used]
    if unused:
        print(f"rules that match nothing: {unused}")
    for path in stale:
        print(f"{'out of date' if '--check' in sys.argv else 'written'}: {path}")
    return int(bool(unused or (stale and "--check" in sys.argv)))


if __name__ == "__main__":
    sys.exit(main())
