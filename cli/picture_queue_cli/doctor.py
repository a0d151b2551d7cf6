"""``picture-queue doctor``: check the connection to a project, and its database."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from picture_queue.errors import PictureQueueError, SettingsError
from picture_queue_cli.errors import ExitCode
from picture_queue_cli.health import is_late
from picture_queue_cli.migrate import DatabaseUrl
from picture_queue_cli.options import JsonFlag
from picture_queue_cli.parsing import expect_filled
from picture_queue_cli.project import Target, resolve
from picture_queue_cli.render import out, plain, print_json, styled, table

if TYPE_CHECKING:
    from picture_queue.records import Finding
    from picture_queue.settings import DatabaseSettings, ProjectSettings

# The checks of this package, outside the database.
_CHECKS_BY_PACKAGE = (
    "address",
    "key",
    "api",
    "version",
    "postgrest",
    "schemas",
    "realtime",
    "migrations",
    "secrets",
    "workers",
)
# The checks of the SQL function queue_doctor; a newer database may have more checks.
_CHECKS_BY_DATABASE = (
    "held snapshots",
    "locks",
    "dead rows",
    "indexes",
    "orphans",
    "counts",
    "overdue jobs",
    "pruning",
    "failed steps",
    "privileges",
    "exposure",
    "maintenance",
    "pg_cron",
    "pg_cron runs",
    "worker calls",
    "realtime in SQL",
    "storage",
    "settings",
    "postgres",
    "clock",
)
CHECKS = _CHECKS_BY_PACKAGE + _CHECKS_BY_DATABASE
_VERDICTS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "bad": ("bad", "bold red")}


def doctor(
    ctx: typer.Context,
    *,
    db_url: DatabaseUrl = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK",
            callback=expect_filled,
            help="Run only this check, which must be ok; repeatable.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the project and print remedies for problems.

    The exit code is 1 if a check is bad, or, with --check, if one of these checks is not ok.
    """
    from picture_queue.settings import DatabaseSettings

    database = DatabaseSettings(db_url) if db_url else None
    if database is None and check and "migrations" in check:
        raise SettingsError(
            "--check migrations needs a direct database connection",
            hint="Set --db-url or PICTURE_QUEUE_DATABASE_URL",
        )
    findings = [
        _name_typed_option(finding, ctx) if finding.check == "migrations" else finding
        for finding in _run_checks(resolve(ctx), database)
    ]
    accepted = {"ok"} if check else {"ok", "warn"}
    if check:
        findings = _select_checks(findings, check)
    if as_json:
        print_json([plain(finding) for finding in findings])
    else:
        _show(findings)
    if any(finding.verdict not in accepted for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _name_typed_option(finding: "Finding", ctx: typer.Context) -> "Finding":
    from picture_queue_cli.translate import name_typed_options

    remedy = finding.remedy and name_typed_options(finding.remedy, ctx)
    detail = name_typed_options(finding.detail, ctx)
    return finding.model_copy(update={"detail": detail, "remedy": remedy})


def _select_checks(findings: "list[Finding]", names: list[str]) -> "list[Finding]":
    done_checks = {finding.check for finding in findings}
    for name in names:
        if name not in done_checks and name not in CHECKS:
            known = ", ".join(dict.fromkeys([*CHECKS, *sorted(done_checks)]))
            raise typer.BadParameter(f"{name!r} is not a check; use {known}", param_hint="--check")
    return [finding for finding in findings if finding.check in names] + [
        _finding(name, "bad", "did not run", "picture-queue doctor shows the reason")
        for name in names
        if name not in done_checks
    ]


def _run_checks(target: Target, database: "DatabaseSettings | None") -> "list[Finding]":
    import asyncio
    import os
    from pathlib import Path

    from picture_queue.installation import checkup
    from picture_queue.installation.leaks import examine_secrets

    findings = checkup.examine_database(database)
    # If the migrations are fine, the database has the SQL function with the checks.
    can_run_checks = not checkup.is_bad(findings)
    findings += examine_secrets(Path.cwd(), os.environ)
    try:
        settings = _resolve_settings(target)
    except SettingsError as error:
        verdict = "warn" if database else "bad"
        findings = [_finding("address", verdict, error.message, error.hint), *findings]
        if database and can_run_checks:
            findings += _run_database_checks(None, database)
        return findings
    api = asyncio.run(checkup.examine_api(settings))
    findings = api.findings + findings
    if api.has_sql and api.may_operate:
        findings += _run_database_checks(settings, None)
    elif database and can_run_checks:
        findings += _run_database_checks(None, database)
    return findings


def _resolve_settings(target: Target) -> "ProjectSettings":
    from picture_queue.settings import ProjectSettings

    return ProjectSettings.resolve(target.url, target.key)


def _run_database_checks(
    settings: "ProjectSettings | None", database: "DatabaseSettings | None"
) -> "list[Finding]":
    """Run the checks in the database, and look for running workers."""
    from picture_queue import PictureQueue

    try:
        with PictureQueue(
            settings.url if settings else None,
            settings.key if settings else None,
            database_url=database.url if database else None,
        ) as pq:
            running = sum(not is_late(worker) for worker in pq.health().workers)
            return [*pq.doctor(), _check_workers(running)]
    except PictureQueueError as error:
        detail = f"{error.message}: {error.detail}" if error.detail else error.message
        return [_finding("queue_doctor", "bad", detail, error.hint)]


def _check_workers(running: int) -> "Finding":
    if running:
        return _finding("workers", "ok", f"{running} running")
    return _finding("workers", "warn", "no worker is running", "start one: picture-queue worker")


def _finding(check: str, verdict: str, detail: str, remedy: str | None = None) -> "Finding":
    from picture_queue.records import Finding

    return Finding.model_validate(
        {"check": check, "verdict": verdict, "detail": detail, "remedy": remedy}
    )


def _show(findings: "list[Finding]") -> None:
    listing = table("", "check", "finding")
    for finding in findings:
        verdict, style = _VERDICTS[finding.verdict]
        detail = styled(finding.detail)
        if finding.remedy and finding.verdict != "ok":
            detail.append(styled(f"\n{finding.remedy}", "cyan"))
        listing.add_row(Text(verdict, style=style), finding.check, detail)
    out().print(listing)
