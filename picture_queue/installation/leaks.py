"""A search for secrets that a build of a web page would publish, or that every local user can read.

The findings name variables and files, but never contain a secret.
"""

import os
import re
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
# A secret key of Supabase, a token of Replicate, or a JWT.
_SECRET = re.compile(
    rb"sb_secret_[\w-]{10,100}|\br8_\w{30,60}|eyJ[\w-]{10,1000}\.[\w-]{10,2000}\.[\w-]{10,1000}"
)
_MAX_FILES = 2000
_MAX_FILE_SIZE = 5_000_000  # bytes
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
    for file in sorted(directory.glob(".env*")):
        variables = list(_read_variables(file))
        for name, value in variables:
            if _PUBLISHED_PREFIX.match(name) and _is_secret(value):
                yield _bad(f"{name} in {file.name} holds a secret, and bundlers publish it")
        if any(_is_secret(value) for _, value in variables) and file.stat().st_mode & 0o004:
            detail = f"{file.name} holds a secret, and every user of this machine can read it"
            yield Finding(
                check="secrets", verdict="warn", detail=detail, remedy=f"chmod 600 {file.name}"
            )
    bundles = chain.from_iterable(_find_scripts(directory / name) for name in _BUNDLE_DIRECTORIES)
    for file in islice(bundles, _MAX_FILES):
        if any(_is_secret(text.decode()) for text in _SECRET.findall(_read_file(file))):
            yield _bad(f"{file.relative_to(directory)} holds a secret, and browsers load it")


def _find_scripts(directory: Path) -> Iterator[Path]:
    """Yield the scripts of a directory, which may be rebuilt meanwhile; symlinks are not followed.

    A directory may be a symlink to the whole disk.
    """
    if directory.is_symlink():
        return
    # It skips a directory that vanishes or cannot be read.
    for parent, _, names in os.walk(directory):
        yield from (Path(parent, name) for name in names if name.endswith(".js"))


def _read_variables(file: Path) -> Iterator[tuple[str, str]]:
    for line in _read_file(file).decode(errors="replace").splitlines():
        if match := _ASSIGNMENT.match(line):
            yield match[1], match[2]


def _read_file(file: Path) -> bytes:
    try:
        if file.is_file() and file.stat().st_size <= _MAX_FILE_SIZE:
            return file.read_bytes()
    except OSError:  # this user may not read the file
        pass
    return b""


def _is_secret(value: str) -> bool:
    if value.startswith("r8_") or re.match(r"postgres(ql)?://[^/@]*:[^/@]+@", value):
        return True
    return recognise_key(value, "").access == "service"


def _bad(detail: str) -> Finding:
    return Finding(check="secrets", verdict="bad", detail=detail, remedy=_REMEDY)
