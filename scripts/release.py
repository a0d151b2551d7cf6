"""Check, build and tag the version of ``picture_queue/__init__.py``.

``python scripts/release.py`` checks that the tree can be released. With ``--tag`` it also builds
wheel and sdist into ``dist/``, checks their content and creates the tag. It pushes and uploads
nothing.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
_SQL_VERSION = re.compile(r"'version', '([^']+)'")


def version(root: Path) -> str:
    """Return the version of the package."""
    match = _VERSION.search((root / "picture_queue" / "__init__.py").read_text("utf-8"))
    if match is None:
        raise SystemExit("picture_queue/__init__.py: __version__ is not of the form 1.2.3")
    return match[1]


def problems(root: Path) -> Iterator[str]:
    """Yield each problem that prevents a release, with its remedy."""
    number = version(root)
    if _git(root, "status", "--porcelain"):
        yield "the tree has changes: commit or stash them"
    if _git(root, "tag", "--list", f"v{number}"):
        yield f"the tag v{number} exists: increase __version__ in picture_queue/__init__.py"
    changelog = (root / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## \[{re.escape(number)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        yield f"CHANGELOG.md has no heading '## [{number}] - <date>': rename [Unreleased]"
    for file in (root / "supabase" / "schemas").glob("*_function_version.sql"):
        match = _SQL_VERSION.search(file.read_text("utf-8"))
        if match is None or match[1] != number:
            yield f"{file.name} has another version than {number}: change it, run make format"
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    if not project.get("urls"):
        yield "pyproject.toml has no [project.urls]: add the address of the repository"


def build(root: Path) -> list[Path]:
    """Build wheel and sdist into ``dist/``, and check that both contain all migrations."""
    number = version(root)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(root / "dist")]
    subprocess.run([*command, str(root)], check=True)
    (wheel,) = (root / "dist").glob(f"*-{number}-*.whl")
    (sdist,) = (root / "dist").glob(f"*-{number}.tar.gz")
    with zipfile.ZipFile(wheel) as content:
        in_wheel = content.namelist()
    with tarfile.open(sdist) as content:
        in_sdist = content.getnames()
    for file in (root / "supabase" / "migrations").glob("*.sql"):
        if f"picture_queue/_sql/migrations/{file.name}" not in in_wheel:
            raise SystemExit(f"{wheel.name} lacks {file.name}")
        if not any(name.endswith(f"/{file.name}") for name in in_sdist):
            raise SystemExit(f"{sdist.name} lacks {file.name}")
    return [wheel, sdist]


def _git(root: Path, *words: str) -> str:
    result = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Check the tree; with ``--tag`` build and tag. Return 1 if it cannot be released."""
    parser = argparse.ArgumentParser(description="Check, build and tag a release.")
    parser.add_argument("--tag", action="store_true", help="build, and create the tag")
    wants_tag = parser.parse_args(arguments).tag
    number = version(root)
    obstacles = list(problems(root))
    for problem in obstacles:
        print(f"! {problem}")
    if obstacles:
        print(f"{number} cannot be released.")
        return 1
    if not wants_tag:
        print(f"{number} can be released: python scripts/release.py --tag")
        return 0
    for file in build(root):
        print(file.relative_to(root))
    _git(root, "tag", "-a", f"v{number}", "-m", f"Release {number}")
    print(f"Tagged v{number}. Next: git push origin v{number}, then upload dist/ to PyPI")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
