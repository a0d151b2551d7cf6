"""A search for secrets that a build of a web page would publish, or that every local user can read.

The findings name variables and files, but never contain a secret.
"""

import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from picture_queue.installation.keys import recognise_key
from picture_queue.records import Finding

# Prefixes of variables that bundlers copy into the code of a page.
_PUBLISHED_PREFIX = re.compile(
    r"(NEXT_PUBLIC|NUXT_PUBLIC|EXPO_PUBLIC|VITE|REACT_APP|VUE_APP|GATSBY|PUBLIC)_"
)
_ASSIGNMENT = re.compile(r"""\s*+(?:export\s++)?([A-Za-z_]\w*+)\s*+=\s*+["']?([^"'\s]*+)""")
_BUNDLE_DIRECTORIES = ("dist", "build", "out", "public", ".next/static", ".output/public")
# A secret key of Supabase, a token of Replicate, or a JWT. Other text that begins like a JWT also
# matches, without claims: so each part is read once, and the time is linear in the file's length.
_SECRET = re.compile(
    rb"(?P<key>sb_secret_[\w-]{10,100}+|\br8_\w{30,60}+)"
    rb"|eyJ[\w-]{10,}+(?:\.(?P<claims>[\w-]{10,2000}+)\.[\w-]{10})?+"
)
_DATABASE_URL = re.compile(r"postgres(?:ql)?+://[^/@:]*+:[^/@]++@")
_MAX_FILES = 2000
_MAX_FILE_SIZE = 5_000_000  # bytes
_MAX_TOTAL_SIZE = 50_000_000  # bytes of all files
_MAX_VALUE_LENGTH = 4096
# O_NONBLOCK: opening a FIFO would block until another process opens its other end.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_REMEDY = "remove the secret, and replace it by a new one: a visitor of the page may have copied it"


def examine_secrets(directory: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Search for secrets in variables and files that a bundler publishes or every user can read.

    Args:
        directory: The directory of a project; its ``.env`` files and the usual directories of
            bundles are read.
        environ: The environment variables.
    """
    problems = list(_find_problems(directory, environ))
    if problems:
        return problems
    detail = "no variable or file that a page would publish contains a secret"
    return [Finding(check="secrets", verdict="ok", detail=detail, remedy=None)]


def _find_problems(directory: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    for name, value in environ.items():
        if _PUBLISHED_PREFIX.match(name) and _is_secret(value):
            yield _bad(f"{name} in the environment holds a secret, and bundlers publish it")
    reader = _Reader()
    for file in sorted(directory.glob(".env*"))[:_MAX_FILES]:
        content, mode = reader.read(file)
        variables = list(_parse_variables(content))
        for name, value in variables:
            if _PUBLISHED_PREFIX.match(name) and _is_secret(value):
                yield _bad(f"{name} in {file.name} holds a secret, and bundlers publish it")
        if any(_is_secret(value) for _, value in variables) and mode & 0o004:
            detail = f"{file.name} holds a secret, and every user of this machine can read it"
            yield Finding(
                check="secrets", verdict="warn", detail=detail, remedy=f"chmod 600 {file.name}"
            )
    bundles = chain.from_iterable(_find_scripts(directory / name) for name in _BUNDLE_DIRECTORIES)
    for file in islice(bundles, _MAX_FILES):
        content, _ = reader.read(file)
        if any(_is_secret(_token(match)) for match in _SECRET.finditer(content)):
            yield _bad(f"{file.relative_to(directory)} holds a secret, and browsers load it")


def _find_scripts(directory: Path) -> Iterator[Path]:
    """Yield the scripts of a directory, which may be rebuilt meanwhile; symlinks are not followed.

    A directory may be a symlink to the whole disk.
    """
    if directory.is_symlink():
        return
    # `os.walk` skips a directory that vanishes or cannot be read.
    for parent, _, names in os.walk(directory):
        yield from (Path(parent, name) for name in names if name.endswith(".js"))


def _parse_variables(content: bytes) -> Iterator[tuple[str, str]]:
    for line in content.decode(errors="replace").splitlines():
        if match := _ASSIGNMENT.match(line):
            yield match[1], match[2]


class _Reader:
    """A reader of files that another process may replace; it limits the bytes of all files."""

    def __init__(self) -> None:
        self._remaining = _MAX_TOTAL_SIZE

    def read(self, file: Path) -> tuple[bytes, int]:
        """Return the content and the mode of a file; no content if it is large or not regular."""
        limit = min(_MAX_FILE_SIZE, self._remaining)
        try:
            with open(os.open(file, _OPEN_FLAGS), "rb", buffering=0) as stream:
                info = os.fstat(stream.fileno())
                if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
                    return b"", 0
                # The file may grow, and files of the kernel have no size.
                content = _read_at_most(stream, limit + 1)
        except OSError:  # this user may not read the file, or it is a symlink
            return b"", 0
        self._remaining = max(0, self._remaining - len(content))
        return (content, info.st_mode) if len(content) <= limit else (b"", 0)


def _read_at_most(stream: io.FileIO, size: int) -> bytes:
    pieces: list[bytes] = []
    while size > 0 and (piece := stream.read(min(size, 1_000_000))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _token(match: re.Match[bytes]) -> str:
    """Return the text of a key, or of a JWT with only its claims."""
    if match["key"]:
        return match["key"].decode()
    return f"eyJ.{match['claims'].decode()}." if match["claims"] else ""


def _is_secret(value: str) -> bool:
    if len(value) > _MAX_VALUE_LENGTH:
        return False
    if value.startswith("r8_") or _DATABASE_URL.match(value):
        return True
    try:
        return recognise_key(value, "").access == "service"
    except RecursionError:  # the claims of a JWT are deeply nested
        return False


def _bad(detail: str) -> Finding:
    return Finding(check="secrets", verdict="bad", detail=detail, remedy=_REMEDY)
