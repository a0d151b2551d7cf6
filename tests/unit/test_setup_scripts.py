"""The setup scripts install only packages whose hash is known, and ignore settings of other users.

uv reads settings in all directories above the clone. For a clone below /tmp, another user may have
created /tmp/uv.toml, which names another package index.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with the scripts, and programs that only record their arguments in `calls`."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", clone / "scripts")
    shutil.copy(ROOT / "Makefile", clone)
    for path in ("bin/uv", "venv/bin/python", ".venv-highest/bin/python"):
        program = clone / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(
            f'#!/bin/sh\necho "{program.name} $* token=$REPLICATE_API_TOKEN" >> {clone}/calls\n'
        )
        program.chmod(0o755)
    return clone


def record_installs(clone: Path, *command: str) -> list[str]:
    """Run a command, and return the calls of uv and pip."""
    environment = {
        **os.environ,
        "PATH": f"{clone}/bin:{os.environ['PATH']}",
        "VENV": "venv",
        "PYTHON": "python3",
        "REPLICATE_API_TOKEN": "sesame",
    }
    subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
    calls = (clone / "calls").read_text().splitlines()
    return [call for call in calls if call.startswith("uv ") or " -m pip " in call]


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("sh scripts/setup.sh", 3),
        ("sh scripts/test_versions.sh highest", 2),
        ("make lock", 1),
    ],
)
def test_uv_reads_no_settings_above_the_clone(clone: Path, command: str, count: int) -> None:
    calls = record_installs(clone, *command.split())
    assert len(calls) == count
    for call in calls:
        assert " --no-config " in call
        assert " --no-project " in call or " --no-sources " in call or " --require-hashes " in call


def test_setup_installs_only_packages_with_a_hash_and_without_the_users_token(clone: Path) -> None:
    installs = [
        call for call in record_installs(clone, "sh", "scripts/setup.sh") if " install " in call
    ]
    for call in installs:
        assert " --require-hashes " in call or " --no-deps --no-build-isolation " in call
        assert call.endswith(" token=")
    assert len(installs) == 2
    assert "\nhatchling==" in (ROOT / "requirements" / "dev.txt").read_text()
