"""The doctor's checks from outside the database: URL, key, API, Realtime, and migrations.

Each check returns findings, with a remedy for each problem. No check raises: a project that does
not answer is a finding too. The SQL function `queue_doctor()` has the checks inside the database.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
from pydantic import ValidationError

from picture_queue import __version__, _rpc
from picture_queue._loopback import direct_mounts, is_loopback
from picture_queue._resources import migrations
from picture_queue._transport.base import check_version
from picture_queue._transport.errors import require_usable_environment
from picture_queue.errors import PictureQueueError, VersionMismatch
from picture_queue.installation import state
from picture_queue.installation.keys import KeyKind, recognise_key
from picture_queue.installation.state import MigrationTool
from picture_queue.records import Finding, Version
from picture_queue.settings import DatabaseSettings, ProjectSettings

_TIMEOUT = 10.0  # seconds, for each answer
_INSTALL = (
    "picture-queue install && supabase db push, or: picture-queue migrate --db-url …; "
    "for an embedded stack, restart it"
)
_ADOPT = "picture-queue adopt --db-url … --preview"
Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Checkup:
    """The findings from outside the database.

    Args:
        findings: The findings, in the order of the checks.
        has_sql: True if the API has our functions in a compatible version.
        may_operate: True unless the key is known not to be a service key, which `queue_doctor()`
            requires.
    """

    findings: list[Finding]
    has_sql: bool
    may_operate: bool


async def examine_api(settings: ProjectSettings) -> Checkup:
    """Check a project from outside its database: URL, key, API and Realtime."""
    kind = recognise_key(settings.key, settings.url)
    findings = [_check_url(settings.url), _check_key(kind)]
    headers = {"apikey": settings.key}
    base = f"{settings.url}/rest/v1"
    with require_usable_environment():
        http = httpx.AsyncClient(
            base_url=base, headers=headers, timeout=_TIMEOUT, mounts=direct_mounts(base)
        )
    async with http:
        try:
            response = await http.post("/rpc/picture_queue_version", json={})
        except httpx.HTTPError as error:
            detail = f"{settings.url} does not answer: {str(error) or type(error).__name__}"
            remedy = "check SUPABASE_URL, and that the project is not paused"
            findings.append(_finding("api", "bad", detail, remedy))
            return Checkup(findings, has_sql=False, may_operate=False)
        has_sql, more_findings = await _check_installed(http, kind, response)
        findings += more_findings
        if response.status_code != 401 or kind.access == "users":
            findings.append(await _check_postgrest(http))
            findings.append(await _check_exposed(http))
            findings.append(await _check_realtime(settings, kind))
    return Checkup(findings, has_sql, kind.access != "users" and response.status_code != 401)


def examine_database(settings: DatabaseSettings | None) -> list[Finding]:
    """Check the migrations of a database: the tool that applies them, and whether any are pending.

    Args:
        settings: The URL of the database; None if it is unknown: nothing is checked.
    """
    if settings is None:
        detail = "not checked: set --db-url or PICTURE_QUEUE_DATABASE_URL"
        return [_finding("migrations", "ok", detail)]
    shipped = migrations()
    try:
        with state.connected(settings) as connection:
            installed = state.read(connection, shipped)
        installed.expect_known(shipped)
        if installed.tool in (MigrationTool.OTHER_QUEUE, MigrationTool.UNKNOWN):
            state.expect_tool(installed, MigrationTool.MIGRATE)
    except PictureQueueError as error:
        detail = f"{error.message}: {error.detail}" if error.detail else error.message
        return [_finding("migrations", "bad", detail, error.hint)]
    if installed.tool is MigrationTool.NONE:
        return [_finding("migrations", "bad", "picture-queue is not in the database", _INSTALL)]
    pending = [migration.name for migration in shipped if migration.name not in installed.applied]
    if pending:
        detail = f"not applied yet: {', '.join(pending)}"
        return [_finding("migrations", "bad", detail, state.COMMANDS[installed.tool])]
    detail = f"{len(shipped)} of {len(shipped)} applied, by `{installed.tool}`"
    return [_finding("migrations", "ok", detail)]


def _check_url(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.path.strip("/"):
        base = f"{parts.scheme}://{parts.netloc}"
        return _finding("address", "bad", f"{url} has a path", f"set SUPABASE_URL to {base}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        detail = f"{url}: keys and pictures are sent without encryption"
        return _finding("address", "warn", detail, "use https://")
    return _finding("address", "ok", url)


def _check_key(kind: KeyKind) -> Finding:
    if kind.problem:
        return _finding("key", "bad", f"{kind.name}: {kind.problem}", kind.remedy)
    if kind.access == "unknown":
        return _finding("key", "warn", kind.name, kind.remedy)
    if kind.access == "users":
        remedy = "use a secret or service_role key for workers, and for the rest of the doctor"
        detail = f"{kind.name}: it has only the privileges of signed-in users"
        return _finding("key", "warn", detail, remedy)
    return _finding("key", "ok", kind.name)


async def _check_installed(
    http: httpx.AsyncClient, kind: KeyKind, response: httpx.Response
) -> tuple[bool, list[Finding]]:
    """Check that the API accepts the key and has a compatible version of our functions."""
    body = _json(response)
    code = body.get("code") if isinstance(body, dict) else None
    remedy = "check that SUPABASE_URL is the URL of a Supabase project"
    accepted = _finding("api", "ok", "it answers, and accepts the key")
    if response.status_code == 200:
        try:
            has_sql, finding = _check_version(Version.model_validate(body))
        except ValidationError:
            detail = "it does not answer like a Supabase project: HTTP 200 without a version"
            return False, [_finding("api", "bad", detail, remedy)]
        return has_sql, [accepted, finding]
    if code == "42501" and kind.access == "users":
        # The function exists, and correctly refuses a caller who is not signed in.
        detail = "installed; the version is shown only with a service key"
        return True, [accepted, _finding("version", "ok", detail)]
    if code in ("PGRST202", "42883"):
        return False, [accepted, await _find_other_queue(http)]
    if response.status_code == 401:
        remedy = "copy the key from the project's API settings"
        detail = f"the key was refused: {_error_text(response)}"
        return False, [_finding("api", "bad", detail, remedy)]
    detail = f"HTTP {response.status_code}: {_error_text(response)}"
    return False, [_finding("api", "bad", detail, remedy)]


def _check_version(version: Version) -> tuple[bool, Finding]:
    try:
        check_version(version)
    except VersionMismatch as error:
        return False, _finding("version", "bad", error.message, error.hint)
    detail = f"SQL {version.version}, this package {__version__}, contract {_rpc.CONTRACT}"
    return True, _finding("version", "ok", detail)


async def _find_other_queue(http: httpx.AsyncClient) -> Finding:
    """Return the finding for missing functions, which differs if another job queue exists."""
    try:
        table = await http.get("/job_queue", params={"limit": "0"})
    except httpx.HTTPError:
        table = None
    if table is not None and table.status_code == 200:
        detail = "the project has another job queue: public.job_queue exists"
        return _finding("version", "bad", detail, _ADOPT)
    return _finding("version", "bad", "the project has no picture-queue functions", _INSTALL)


async def _check_postgrest(http: httpx.AsyncClient) -> Finding:
    # The OpenAPI document has the version of PostgREST; hosted gateways replace its header.
    try:
        body = _json(await http.get("/", headers={"Accept": "application/openapi+json"}))
        version = body["info"]["version"]
    except (httpx.HTTPError, KeyError, TypeError):
        return _finding("postgrest", "ok", "it does not report its version")
    return _finding("postgrest", "ok", f"version {version}")


async def _check_exposed(http: httpx.AsyncClient) -> Finding:
    """Check that the API does not expose the private schema."""
    headers = {"Accept-Profile": "picture_queue"}
    try:
        body = _json(await http.get("/queue", params={"limit": "0"}, headers=headers))
    except httpx.HTTPError:
        body = None
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(body, list) or str(code).startswith("42"):
        remedy = "remove it from the exposed schemas in the project's API settings"
        return _finding("schemas", "bad", "the API exposes the schema picture_queue", remedy)
    return _finding("schemas", "ok", "the schema picture_queue is not exposed")


async def _check_realtime(settings: ProjectSettings, kind: KeyKind) -> Finding:
    if kind.access == "users":
        detail = "not checked: a private channel needs a user's token or a service key"
        return _finding("realtime", "ok", detail)
    try:
        async with asyncio.timeout(_TIMEOUT):
            problem = await _join_channel(settings)
    except Exception as error:
        problem = f"no channel can be joined: {str(error) or type(error).__name__}"
    if problem:
        remedy = "enable Realtime with private channels in the project's settings"
        return _finding("realtime", "bad", f"{problem}; watches poll instead", remedy)
    return _finding("realtime", "ok", "a private channel was joined")


async def _join_channel(settings: ProjectSettings) -> str | None:
    """Join a private channel; return the reason if the join was refused, otherwise None."""
    from realtime import RealtimeSubscribeStates

    from picture_queue._transport.realtime import RealtimeClient

    refusal: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def on_state(status: RealtimeSubscribeStates, error: Exception | None) -> None:
        if not refusal.done():
            joined = status is RealtimeSubscribeStates.SUBSCRIBED
            refusal.set_result(None if joined else str(error or status.value))

    url = settings.url.replace("http", "ws", 1) + "/realtime/v1"
    client = RealtimeClient(url, token=settings.key, auto_reconnect=False)
    await client.set_auth(settings.access_token or settings.key)
    try:
        await client.connect()
        options: Any = {"config": {"broadcast": None, "presence": None, "private": True}}
        await client.channel(f"pq:doctor:{uuid4()}", options).subscribe(on_state)
        return await refusal
    finally:
        await client.close()


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _error_text(response: httpx.Response) -> str:
    body = _json(response)
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or response.text[:200] or response.reason_phrase)


def _finding(check: str, verdict: Verdict, detail: str, remedy: str | None = None) -> Finding:
    return Finding(check=check, verdict=verdict, detail=detail, remedy=remedy)


def is_bad(findings: Iterable[Finding]) -> bool:
    """Return whether one of the findings is bad."""
    return any(finding.verdict == "bad" for finding in findings)
