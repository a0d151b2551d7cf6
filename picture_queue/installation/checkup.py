"""The doctor's checks from outside: address, key, API, Realtime, and the migrations.

Each check returns findings, with a remedy if something is wrong, and none raises: a project that
does not answer is a finding too. The checks inside the database are in `queue_doctor()`.
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
from picture_queue._transport.errors import needs_usable_environment
from picture_queue.errors import PictureQueueError, VersionMismatch
from picture_queue.installation import state
from picture_queue.installation.keys import KeyKind, kind_of
from picture_queue.installation.state import MigrationTool
from picture_queue.records import Finding, Version
from picture_queue.settings import DatabaseSettings, ProjectSettings

_TIMEOUT = 10.0  # seconds, for each answer
_INSTALL = (
    "picture-queue install && supabase db push, or: picture-queue migrate --db-url …; "
    "an embedded stack applies them when it starts again"
)
_ADOPT = "picture-queue adopt --db-url … --preview"
Verdict = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Checkup:
    """The findings from outside the database.

    Args:
        findings: The findings, in the order of the checks.
        has_sql: True if the API has our functions, in a version that fits this client.
        may_operate: True if the key is a service key, which `queue_doctor()` requires.
    """

    findings: list[Finding]
    has_sql: bool
    may_operate: bool


async def examine_api(settings: ProjectSettings) -> Checkup:
    """Check a project through its API."""
    kind = kind_of(settings.key, settings.url)
    findings = [_address(settings.url), _key(kind)]
    headers = {"apikey": settings.key}
    base = f"{settings.url}/rest/v1"
    with needs_usable_environment():
        http = httpx.AsyncClient(
            base_url=base, headers=headers, timeout=_TIMEOUT, mounts=direct_mounts(base)
        )
    async with http:
        try:
            answer = await http.post("/rpc/picture_queue_version", json={})
        except httpx.HTTPError as error:
            findings.append(_unreachable(settings.url, error))
            return Checkup(findings, has_sql=False, may_operate=False)
        has_sql, found = await _installed(http, kind, answer)
        findings += found
        if answer.status_code != 401 or kind.access == "users":
            findings.append(await _postgrest(http))
            findings.append(await _exposed(http))
            findings.append(await _realtime(settings, kind))
    return Checkup(findings, has_sql, kind.access != "users" and answer.status_code != 401)


def examine_database(settings: DatabaseSettings | None) -> list[Finding]:
    """Check which tool applies the migrations of a database, and which are pending."""
    if settings is None:
        detail = "not checked: set --db-url or PICTURE_QUEUE_DATABASE_URL"
        return [_finding("migrations", "ok", detail)]
    shipped = migrations()
    try:
        with state.connected(settings) as connection:
            found = state.read(connection, shipped)
        found.expect_known(shipped)
        if found.tool in (MigrationTool.OTHER_QUEUE, MigrationTool.UNKNOWN):
            state.expect_tool(found, MigrationTool.MIGRATE)
    except PictureQueueError as error:
        return [_finding("migrations", "bad", _said(error), error.hint)]
    left = [file.name for file in shipped if file.name not in found.applied]
    commands = {
        MigrationTool.MIGRATE: "picture-queue migrate",
        MigrationTool.CLI: "picture-queue install && supabase db push",
        MigrationTool.EMBEDDED: "picture-queue local stop, then picture-queue local start",
    }
    if found.tool is MigrationTool.NONE:
        return [_finding("migrations", "bad", "picture-queue is not in the database", _INSTALL)]
    if left:
        detail = f"not applied yet: {', '.join(left)}"
        return [_finding("migrations", "bad", detail, commands[found.tool])]
    detail = f"all {len(shipped)} applied, by `{found.tool}`"
    return [_finding("migrations", "ok", detail)]


def _address(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.path.strip("/"):
        base = f"{parts.scheme}://{parts.netloc}"
        return _finding("address", "bad", f"{url} has a path", f"set SUPABASE_URL to {base}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        detail = f"{url}: keys and pictures travel readable for everybody"
        return _finding("address", "warn", detail, "use https://")
    return _finding("address", "ok", url)


def _key(kind: KeyKind) -> Finding:
    if kind.problem:
        return _finding("key", "bad", f"{kind.name}: {kind.problem}", kind.remedy)
    if kind.access == "unknown":
        return _finding("key", "warn", kind.name, kind.remedy)
    if kind.access == "users":
        remedy = "use a secret or service_role key for workers, and for the rest of the doctor"
        return _finding("key", "warn", f"{kind.name}: it may do what signed-in users may", remedy)
    return _finding("key", "ok", kind.name)


def _unreachable(url: str, error: httpx.HTTPError) -> Finding:
    detail = f"{url} does not answer: {str(error) or type(error).__name__}"
    remedy = "check SUPABASE_URL, and that the project is not paused"
    return _finding("api", "bad", detail, remedy)


async def _installed(
    http: httpx.AsyncClient, kind: KeyKind, answer: httpx.Response
) -> tuple[bool, list[Finding]]:
    """Check that the API accepts the key and has a compatible version of our functions."""
    body = _json(answer)
    code = body.get("code") if isinstance(body, dict) else None
    remedy = "check that SUPABASE_URL is a Supabase project's"
    if answer.status_code == 200:
        try:
            return _version(Version.model_validate(body))
        except ValidationError:
            detail = "it does not answer like a Supabase project: HTTP 200 without a version"
            return False, [_finding("api", "bad", detail, remedy)]
    took = _finding("api", "ok", "it answers, and takes the key")
    if code == "42501" and kind.access == "users":
        # Known, and closed to whoever is not signed in, as it should be.
        return True, [took, _finding("version", "ok", "installed; anon may not ask for more")]
    if code in ("PGRST202", "42883"):
        return False, [took, await _not_installed(http)]
    if answer.status_code == 401:
        remedy = "copy the key from the project's API settings"
        return False, [_finding("api", "bad", f"the key was refused: {_text(answer)}", remedy)]
    return False, [_finding("api", "bad", f"HTTP {answer.status_code}: {_text(answer)}", remedy)]


def _version(found: Version) -> tuple[bool, list[Finding]]:
    took = _finding("api", "ok", "it answers, and takes the key")
    detail = f"SQL {found.version}, this package {__version__}, contract {_rpc.CONTRACT}"
    try:
        check_version(found)
    except VersionMismatch as error:
        return False, [took, _finding("version", "bad", error.message, error.hint)]
    return True, [took, _finding("version", "ok", detail)]


async def _not_installed(http: httpx.AsyncClient) -> Finding:
    try:
        table = await http.get("/job_queue", params={"limit": "0"})
    except httpx.HTTPError:
        table = None
    if table is not None and table.status_code == 200:
        detail = "the project has another job queue: public.job_queue exists"
        return _finding("version", "bad", detail, _ADOPT)
    return _finding("version", "bad", "the project has no picture-queue functions", _INSTALL)


async def _postgrest(http: httpx.AsyncClient) -> Finding:
    # The OpenAPI document has the server's version; hosted gateways replace the header.
    try:
        body = _json(await http.get("/", headers={"Accept": "application/openapi+json"}))
        version = body["info"]["version"]
    except (httpx.HTTPError, KeyError, TypeError):
        return _finding("postgrest", "ok", "it does not report its version")
    return _finding("postgrest", "ok", f"version {version}")


async def _exposed(http: httpx.AsyncClient) -> Finding:
    """Check that the API does not expose the private schema."""
    headers = {"Accept-Profile": "picture_queue"}
    try:
        body = _json(await http.get("/queue", params={"limit": "0"}, headers=headers))
    except httpx.HTTPError:
        body = None
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(body, list) or str(code).startswith("42"):
        remedy = "take it out of the exposed schemas in the project's API settings"
        return _finding("schemas", "bad", "the API exposes the schema picture_queue", remedy)
    return _finding("schemas", "ok", "the schema picture_queue is not exposed")


async def _realtime(settings: ProjectSettings, kind: KeyKind) -> Finding:
    remedy = "turn Realtime on in the project's settings, with private channels"
    if kind.access == "users":
        return _finding(
            "realtime", "ok", "not tried: a private channel needs a user's token or a service key"
        )
    try:
        async with asyncio.timeout(_TIMEOUT):
            refused = await _join(settings)
    except Exception as error:
        refused = f"no channel can be opened: {str(error) or type(error).__name__}"
    if refused:
        return _finding("realtime", "bad", f"{refused}; watches poll instead", remedy)
    return _finding("realtime", "ok", "a private channel was joined")


async def _join(settings: ProjectSettings) -> str | None:
    """Join a private channel of our own; return why that was refused."""
    from realtime import RealtimeSubscribeStates

    from picture_queue._transport.realtime import RealtimeClient

    answered: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def on_state(status: RealtimeSubscribeStates, error: Exception | None) -> None:
        if not answered.done():
            joined = status is RealtimeSubscribeStates.SUBSCRIBED
            answered.set_result(None if joined else str(error or status.value))

    url = settings.url.replace("http", "ws", 1) + "/realtime/v1"
    client = RealtimeClient(url, token=settings.key, auto_reconnect=False)
    await client.set_auth(settings.access_token or settings.key)
    try:
        await client.connect()
        options: Any = {"config": {"broadcast": None, "presence": None, "private": True}}
        await client.channel(f"pq:doctor:{uuid4()}", options).subscribe(on_state)
        return await answered
    finally:
        await client.close()


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError):
        return None


def _text(answer: httpx.Response) -> str:
    body = _json(answer)
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or answer.text[:200] or answer.reason_phrase)


def _said(error: PictureQueueError) -> str:
    return f"{error.message}: {error.detail}" if error.detail else error.message


def _finding(check: str, verdict: Verdict, detail: str, remedy: str | None = None) -> Finding:
    return Finding(check=check, verdict=verdict, detail=detail, remedy=remedy)


def is_bad(findings: Iterable[Finding]) -> bool:
    """Return whether one of the findings is bad."""
    return any(finding.verdict == "bad" for finding in findings)
