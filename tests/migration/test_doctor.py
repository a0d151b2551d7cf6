"""`picture-queue doctor`: the checks of the address, the key, the API and the database."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from picture_queue.installation.keys import recognise_key

Cli = Callable[..., Result]
HOST = "https://abcdefghijkl.supabase.co"
KEYS = {
    "service_role_key": "legacy key of role service_role",
    "secret_key": "secret key (sb_secret_)",
    "anon_key": "legacy key of role anon",
    "publishable_key": "publishable key (sb_publishable_)",
}


def examine(cli: Cli, url: str, key: str, *args: str) -> dict[str, list[dict[str, Any]]]:
    """Return the findings of the doctor by check; assert that the exit code matches them."""
    done = cli("--url", url, "--key", key, "doctor", "--json", *args)
    findings = json.loads(done.stdout)
    by_check: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        by_check.setdefault(finding["check"], []).append(finding)
        assert finding["verdict"] == "ok" or finding["remedy"]
    has_bad = any(finding["verdict"] == "bad" for finding in findings)
    assert done.exit_code == (1 if has_bad else 0), done.stderr
    return by_check


def token(**claims: Any) -> str:
    """Return a key in the format of a JWT, without a valid signature."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.x"


@pytest.mark.parametrize("kind", ["service_role_key", "secret_key"])
def test_with_a_service_key_every_check_runs(cli: Cli, stack: Any, kind: str) -> None:
    findings = examine(cli, stack.api_url, getattr(stack, kind), "--db-url", stack.db_url)
    assert findings["key"] == [
        {"check": "key", "verdict": "ok", "detail": KEYS[kind], "remedy": None}
    ]
    for check in ("address", "api", "version", "postgrest", "realtime", "migrations", "postgres"):
        assert [finding["verdict"] for finding in findings[check]] == ["ok"], findings[check]
    for check in ("privileges", "realtime in SQL", "storage", "clock"):
        assert [finding["verdict"] for finding in findings[check]] == ["ok"], findings[check]
    assert findings["postgrest"][0]["detail"].startswith("version 1")
    assert findings["realtime"][0]["detail"] == "a private channel was joined"
    assert findings["migrations"][0]["detail"].endswith("by `picture-queue local start`")
    assert {"workers", "maintenance", "indexes", "counts"} <= findings.keys()


@pytest.mark.parametrize("kind", ["anon_key", "publishable_key"])
def test_with_a_public_key_only_the_public_checks_run(cli: Cli, stack: Any, kind: str) -> None:
    findings = examine(cli, stack.api_url, getattr(stack, kind))
    (key,) = findings["key"]
    assert key["verdict"] == "warn" and key["detail"].startswith(KEYS[kind])
    assert findings["version"][0]["detail"].startswith("installed")
    assert "privileges" not in findings


def test_a_wrong_key_is_a_finding(cli: Cli, stack: Any) -> None:
    findings = examine(cli, stack.api_url, "sb_secret_of_another_project")
    assert findings["api"][0]["verdict"] == "bad"
    assert "refused" in findings["api"][0]["detail"]


def test_an_unreachable_project_is_a_finding(cli: Cli) -> None:
    findings = examine(cli, "http://127.0.0.1:9", "sb_secret_x")
    assert findings["api"][0]["verdict"] == "bad"
    assert "http://127.0.0.1:9 does not answer" in findings["api"][0]["detail"]


def test_the_remedy_for_an_address_with_a_path_is_the_address_without_it(
    cli: Cli, stack: Any
) -> None:
    findings = examine(cli, f"{stack.api_url}/rest/v1", stack.secret_key)
    assert findings["address"][0]["remedy"] == f"set SUPABASE_URL to {stack.api_url}"


def test_an_unencrypted_address_is_a_warning(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = examine(cli, "http://picture-queue.invalid", "sb_secret_x")
    assert findings["address"][0]["verdict"] == "warn"


def test_a_missing_address_is_a_finding(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picture_queue_cli.project.running_stack", lambda: None)
    done = cli("doctor")
    assert done.exit_code == 1
    assert "SUPABASE_URL is not set" in done.stdout


def test_the_database_can_be_checked_without_the_api(
    cli: Cli, new_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("picture_queue_cli.project.running_stack", lambda: None)
    empty = cli("doctor", "--db-url", new_database.url)
    assert empty.exit_code == 1
    assert "picture-queue is not in the database" in empty.stdout
    assert cli("migrate", "--db-url", new_database.url).exit_code == 0
    done = cli("doctor", "--db-url", new_database.url, "--json")
    assert done.exit_code == 0, done.stdout
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert findings["migrations"]["detail"].endswith("by `picture-queue migrate`")
    assert findings["privileges"]["verdict"] == "ok"
    assert findings["workers"]["verdict"] == "warn"


def test_an_unapplied_migration_is_a_finding_with_the_command(
    cli: Cli, new_database: Any, ship: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from picture_queue._resources import Migration, migrations
    from picture_queue.installation import checkup

    assert cli("migrate", "--db-url", new_database.url).exit_code == 0
    later = Migration("20990101000000_post_later.sql", "select 1;")
    monkeypatch.setattr(checkup, "migrations", lambda: [*migrations(), later])
    (finding,) = checkup.examine_database(new_database.settings)
    assert (finding.verdict, finding.remedy) == ("bad", "picture-queue migrate")
    assert later.name in finding.detail


@pytest.mark.parametrize(
    ("key", "access", "problem"),
    [
        ("sb_secret_1", "service", None),
        ("sb_publishable_1", "users", None),
        (token(role="anon", ref="abcdefghijkl"), "users", None),
        (token(role="service_role", exp=9e9), "service", None),
        (token(role="service_role", exp=1e9), "service", "it has expired"),
        (token(role="anon", ref="other"), "users", "it belongs to project other"),
        (token(role="authenticated", sub="u"), "unknown", "a signed-in user's token"),
        (token(), "unknown", "a signed-in user's token"),
        ("secret", "unknown", None),
        ("a.b.c", "unknown", None),
        ("a.W10.c", "unknown", None),
    ],
)
def test_the_kind_of_a_key_is_recognised(key: str, access: str, problem: str | None) -> None:
    kind = recognise_key(key, HOST)
    assert kind.access == access
    assert (problem is None) == (kind.problem is None)
    assert (problem or "") in (kind.problem or "")
    assert key not in kind.name


def test_the_checklist_in_the_docs_names_existing_checks(cli: Cli, stack: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
    section = page.partition("\n## Before you go live\n")[2].partition(
        "\nDo the following yourself:"
    )[0]
    names = {
        name
        for line in section.splitlines()
        if line.startswith("- ")
        for name in re.findall(r"`([^`]+)`", line.partition(":")[0])
    }
    findings = examine(cli, stack.api_url, stack.secret_key, "--db-url", stack.db_url)
    assert len(names) >= 10
    assert names <= findings.keys()
    for check in ("exposure", "schemas", "secrets"):
        assert [finding for finding in findings[check] if finding["verdict"] == "bad"] == []
