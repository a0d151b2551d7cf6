"""scripts/release.py prints every reason against a release; only `--tag` changes the project."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "release.py"
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "picture-queue"
requires-python = ">=3.11"
dynamic = ["version"]
urls = { Repository = "https://example.com" }

[tool.hatch.version]
path = "picture_queue/__init__.py"

[tool.hatch.build.targets.wheel.force-include]
"supabase/migrations" = "picture_queue/_sql/migrations"
"""
FILES = {
    "pyproject.toml": PYPROJECT,
    "picture_queue/__init__.py": '__version__ = "1.2.3"\n',
    "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2030-01-31\n",
    "supabase/schemas/360_function_version.sql": "select 'version', '1.2.3'\n",
    "supabase/migrations/1_pre.sql": "select 1;\n",
    ".gitignore": "dist/\n__pycache__/\n",
}


def git(root: Path, *arguments: str) -> str:
    author = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    result = subprocess.run(
        ["git", *author, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return result.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that can be released."""
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "release.py").write_text(SCRIPT.read_text())
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.name", "t")
    git(tmp_path, "config", "user.email", "t@example.com")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "All")
    return tmp_path


def run_release(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/release.py", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)


def test_without_an_option_the_script_changes_nothing(project: Path) -> None:
    result = run_release(project)
    assert (result.returncode, result.stderr) == (0, "")
    assert "1.2.3 can be released" in result.stdout
    assert (git(project, "tag"), (project / "dist").exists()) == ("", False)


@pytest.mark.timeout(150)
def test_the_tag_option_builds_the_release_files_and_creates_a_tag(project: Path) -> None:
    result = run_release(project, "--tag")
    assert result.returncode == 0, result.stdout + result.stderr
    assert git(project, "tag").split() == ["v1.2.3"]
    names = sorted(file.name for file in (project / "dist").iterdir())
    assert names == ["picture_queue-1.2.3-py3-none-any.whl", "picture_queue-1.2.3.tar.gz"]
    second = run_release(project, "--tag")
    assert (second.returncode, "the tag v1.2.3 exists" in second.stdout) == (1, True)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("CHANGELOG.md", "## [Unreleased]\n", "CHANGELOG.md has no heading '## [1.2.3]"),
        ("supabase/schemas/360_function_version.sql", "'version', '1'", "has another version"),
        ("pyproject.toml", PYPROJECT.replace("urls", "# urls"), "no [project.urls]"),
    ],
)
def test_each_reason_against_a_release_is_printed(
    project: Path, name: str, text: str, expected: str
) -> None:
    (project / name).write_text(text)
    assert "the tree has changes" in run_release(project, "--tag").stdout
    git(project, "commit", "-qam", "Change")
    result = run_release(project, "--tag")
    assert (result.returncode, git(project, "tag")) == (1, "")
    assert expected in result.stdout and "the tree has changes" not in result.stdout
