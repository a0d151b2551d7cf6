"""The doctor finds secrets in published pages, public variables and world-readable files."""

import base64
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from picture_queue.installation.leaks import examine_secrets


def make_jwt(role: str) -> str:
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"iss": "supabase", "role": role})
    )
    return f"{header}.{claims}.c2lnbmF0dXJlIG9mIHRoZSB0b2tlbg"


SECRETS = [
    "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz",
    "r8_" + "a1" * 18,
    make_jwt("service_role"),
]
PUBLIC_VALUES = [
    "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH",
    make_jwt("anon"),
    "https://x.supabase.co",
    "",
]


def run_check(directory: Path, **environ: str) -> list[tuple[str, str]]:
    """Return the verdict and the detail of each finding; check that no finding has a secret."""
    findings = examine_secrets(directory, environ)
    text = str(findings)
    assert not any(secret in text for secret in SECRETS)
    for finding in findings:
        assert finding.check == "secrets"
        assert finding.verdict == "ok" or finding.remedy
    return [(finding.verdict, finding.detail) for finding in findings]


@pytest.mark.parametrize("name", ["NEXT_PUBLIC_SUPABASE_KEY", "VITE_TOKEN", "PUBLIC_KEY"])
@pytest.mark.parametrize("value", [*SECRETS, "postgresql://postgres:pw@db.x.supabase.co/postgres"])
def test_a_secret_in_a_public_environment_variable_is_found(
    tmp_path: Path, name: str, value: str
) -> None:
    ((verdict, detail),) = run_check(tmp_path, **{name: value})
    assert (verdict, detail.split()[0]) == ("bad", name)
    file = tmp_path / ".env.local"
    file.write_text(f"# keys\nexport {name} = '{value}'\n")
    file.chmod(0o600)
    ((verdict, detail),) = run_check(tmp_path)
    assert verdict == "bad" and f"{name} in .env.local" in detail


@pytest.mark.parametrize("value", PUBLIC_VALUES)
def test_public_keys_are_accepted(tmp_path: Path, value: str) -> None:
    (tmp_path / ".env").write_text(f"NEXT_PUBLIC_KEY={value}\nSUPABASE_KEY={value}\n")
    assert [verdict for verdict, _ in run_check(tmp_path, VITE_KEY=value)] == ["ok"]


@pytest.mark.parametrize("value", SECRETS)
def test_a_world_readable_file_with_a_secret_is_found(tmp_path: Path, value: str) -> None:
    file = tmp_path / ".env"
    file.write_text(f'SUPABASE_KEY="{value}"\n')
    file.chmod(0o644)
    ((verdict, detail),) = run_check(tmp_path, SUPABASE_KEY=value)
    assert verdict == "warn" and "every user of this machine" in detail
    file.chmod(0o640)
    assert [verdict for verdict, _ in run_check(tmp_path, SUPABASE_KEY=value)] == ["ok"]


@pytest.mark.parametrize("value", SECRETS)
def test_a_secret_in_a_javascript_bundle_is_found(tmp_path: Path, value: str) -> None:
    chunks = tmp_path / ".next" / "static" / "chunks"
    chunks.mkdir(parents=True)
    (chunks / "app.js").write_text(f'createClient("https://x.supabase.co","{value}")')
    (chunks / "other.js").write_text(
        f'createClient("https://x.supabase.co","{PUBLIC_VALUES[0]}{PUBLIC_VALUES[1]}")'
    )
    assert run_check(tmp_path) == [
        ("bad", ".next/static/chunks/app.js holds a secret, and browsers load it")
    ]


def test_unreadable_files_are_skipped(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    (tmp_path / ".env.gone").symlink_to(tmp_path / "nothing")
    (tmp_path / ".env.bytes").write_bytes(b"\xff\xfe=\0\nA\n=1\n")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "large.js").write_bytes(b"eyJ" * 1_700_000)
    assert [verdict for verdict, _ in run_check(tmp_path)] == ["ok"]


def test_files_that_are_not_regular_are_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    (tmp_path / ".env.kernel").symlink_to("/proc/self/environ")
    (tmp_path / "dist").mkdir()
    os.mkfifo(tmp_path / "dist" / "page.js")
    assert [verdict for verdict, _ in run_check(tmp_path)] == ["ok"]


def test_a_symlink_to_a_file_of_variables_is_read(tmp_path: Path) -> None:
    """Bundlers follow it, for example to a file that several packages share."""
    (tmp_path / "shared").write_text(f"VITE_KEY={SECRETS[0]}")
    (tmp_path / ".env").symlink_to(tmp_path / "shared")
    assert "bad" in [verdict for verdict, _ in run_check(tmp_path)]


def test_a_file_that_becomes_a_fifo_or_grows_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may replace a file between its check and its opening."""
    file = tmp_path / ".env"
    file.write_text(f"VITE_KEY={SECRETS[0]}\n")
    really_open, really_stat = os.open, os.fstat

    def replace(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path) == str(file):
            file.unlink()
            os.mkfifo(file)
        return really_open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", replace)
        assert [verdict for verdict, _ in run_check(tmp_path)] == ["ok"]
    file.unlink()
    file.write_text(f"VITE_KEY={SECRETS[0]}\n")

    def grow(descriptor: int) -> os.stat_result:
        info = really_stat(descriptor)
        os.truncate(file, 1 << 40)
        return info

    monkeypatch.setattr(os, "fstat", grow)
    assert [verdict for verdict, _ in run_check(tmp_path)] == ["ok"]


def test_the_bytes_of_all_files_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picture_queue.installation.leaks._MAX_TOTAL_SIZE", 1000)
    (tmp_path / ".env").write_text("#" * 900 + "\n")
    (tmp_path / ".env.local").write_text(f"VITE_KEY={SECRETS[0]}\n")
    (tmp_path / ".env.local").chmod(0o600)
    assert [verdict for verdict, _ in run_check(tmp_path)] == ["bad"]
    (tmp_path / ".env").write_text("#" * 990 + "\n")
    assert [verdict for verdict, _ in run_check(tmp_path)] == ["ok"]


@pytest.mark.parametrize(
    "content",
    [
        "X=postgres://" + ":" * 1_000_000,
        "X=eyJ." + "a" * 4_000_000 + ".b",
        ("X=postgres://" + ":" * 4000 + "\n") * 1000,
        ("X=eyJ." + "W1tb" * 1000 + ".b\n") * 100,
        "eyJ" * 1_600_000,
        ("eyJ" * 300 + "." + "eyJ" * 600 + ".") * 1700,
        "eyJaaaaaaaaaa." * 350_000,
        "sb_secret_" * 400_000,
    ],
)
def test_the_time_is_linear_in_the_size_of_a_file(tmp_path: Path, content: str) -> None:
    (tmp_path / ".env").write_text(content)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "page.js").write_text(content)
    start = time.process_time()
    examine_secrets(tmp_path, {"VITE_KEY": content})
    assert time.process_time() - start < 5


def test_a_token_after_other_text_is_found(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    for text in ("eyJ" * 1000, "eyJaaaaaaaaaa,", "eyJaaaaaaaaaa.b "):
        (tmp_path / "dist" / "page.js").write_text(text + SECRETS[2])
        assert [verdict for verdict, _ in run_check(tmp_path)] == ["bad"]


def test_a_bundle_directory_that_vanishes_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build deletes and creates directories while the doctor searches them."""
    for name in ("a", "b"):
        (tmp_path / "dist" / name).mkdir(parents=True)
        (tmp_path / "dist" / name / "page.js").write_text("1")
    scandir = os.scandir

    def vanish(path: Any) -> Any:
        if str(path).endswith("/a"):
            shutil.rmtree(path, ignore_errors=True)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    (finding,) = examine_secrets(tmp_path, {})
    assert finding.verdict == "ok"


def test_a_bundle_directory_that_is_a_symlink_is_not_searched(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "page.js").write_text('"sb_secret_abcdefghijklmnop"')
    (tmp_path / "dist").symlink_to(elsewhere)
    (finding,) = examine_secrets(tmp_path, {})
    assert finding.verdict == "ok"
