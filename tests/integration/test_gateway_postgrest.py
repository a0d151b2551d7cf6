"""PostgREST behind the gateway answers as on Supabase, except for the differences listed here.

`recordings.json` has requests and answers of PostgREST 14.12 on PostgreSQL 15. Each line is an
independent case. If PostgREST 16.2 answers differently, the field `v16` has the difference.
`schema.sql` creates the database of the recordings. The bundled PostgREST is 12.0.2. Every request
has an anon key, because the gateway requires a key, as Supabase's gateway does.
"""

import asyncio
import base64
import contextlib
import hmac
import http.client
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import jwt
import pytest

from picture_queue.local.binaries import find_postgrest
from picture_queue.local.datadir import DataDir
from picture_queue.local.programs import PostgREST
from picture_queue.local.stack import LocalSupabase

from ..databases import role_url

FIXTURES = Path(__file__).parents[1] / "fixtures" / "postgrest"
# The compared headers. Proxy-Status is not compared, since PostgREST 12 does not send it. Headers
# of CORS are not compared, since the gateway adds them.
HEADERS = (
    "Allow",
    "Cache-Control",
    "Content-Location",
    "Content-Profile",
    "Content-Range",
    "Content-Type",
    "Location",
    "Preference-Applied",
    "WWW-Authenticate",
    "Warning",
)
SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
ROLES = {
    None: {"role": "anon"},
    "authenticated": {
        "role": "authenticated",
        "sub": "11111111-1111-1111-1111-111111111111",
    },
    "service_role": {"role": "service_role"},
}


# The reason of each difference, the parts of the answer that differ, and the cases.
# 12 and 14 are versions of PostgREST.
DIFFERENCES = (
    (
        "12 does not check that a table exists: PostgreSQL reports 42P01, or the body is {}",
        "body",
        "call-47 read-13 read-14 read-15 insert-41 update-41 delete-16 http-04",
    ),
    ("12 answers {} for an invalid path", "body", "call-45 call-46 http-15 http-16"),
    ("12 answers 404 and {} to a write to the root", "body status", "http-12 http-20"),
    (
        "12 has another error text, and another type, if a single object is not exactly one row",
        "body headers",
        "result-48 result-49 result-50 read-153 read-154 insert-09 update-10 update-11 update-12"
        " delete-09",
    ),
    (
        "12 has another error text with the same code",
        "body",
        "read-42 read-165 read-167 insert-15 insert-16 update-21 dberror-107 dberror-108"
        " dberror-109 dberror-110 dberror-111 dberror-112",
    ),
    ("12 gives a hint where 14 finds no similar name", "body", "choice-34"),
    (
        "12 answers 415, and 14 answers 406, to an Accept without an available type",
        "status",
        "result-72 result-73 result-74 read-160 read-161 http-14",
    ),
    ("12 has no max-affected", "body", "result-92 result-93 result-94 update-31 delete-14"),
    ("12 has no max-affected", "body headers status", "result-91 update-32"),
    ("12 still has params=single-object", "headers", "result-79"),
    (
        "12 can filter and order the rows of a function by selected columns only",
        "body headers status",
        "result-37 result-38 result-60 result-87",
    ),
    ("12 has no is.not_null", "body headers status", "read-39"),
    ("12 cannot spread a to-many embedding", "body headers status", "embed-22"),
    ("12 reads JSON in a query string as text", "body", "args-25"),
    ("12 reads JSON in a query string as text", "body headers status", "args-26"),
    (
        "12 maps some SQLSTATEs to another status",
        "status",
        "dberror-39 dberror-46 dberror-51 dberror-60 upsert-11",
    ),
    (
        "12 answers 400 if the role does not exist",
        "headers status",
        "dberror-86 jwt-20 jwt-23 jwt-24 jwt-25",
    ),
    ("12 retries 40001 but not 40P01", "body headers status", "dberror-93"),
    (
        "the search_path of the stack has `extensions`, like that of Supabase",
        "body",
        "call-39 context-01 context-02 context-03 context-04 context-05",
    ),
    (
        "the gateway sends the standard reason phrase, not a message of the database",
        "reason",
        "dberror-03 dberror-04 dberror-05 dberror-06 dberror-07 dberror-08 dberror-09 dberror-10"
        " dberror-11 dberror-12 dberror-13 dberror-14 dberror-15 dberror-100 dberror-101"
        " dberror-102 dberror-103 dberror-105",
    ),
    (
        "the gateway answers 500 if the status is not valid in HTTP",
        "reason status",
        "dberror-16 dberror-17",
    ),
    ("the gateway answers a browser's preflight", "body headers", "http-07"),
    (
        "the server of the gateway accepts only the methods of HTTP",
        "body headers status",
        "http-10 http-11",
    ),
    (
        "without a token in Authorization the key in `apikey` counts, as on Supabase",
        "body headers status",
        "jwt-32 jwt-33 jwt-37 jwt-41",
    ),
    (
        "recorded with another configuration, which the stack does not have",
        "not sent",
        " ".join(f"config-{n:02}" for n in range(1, 27)),
    ),
)


def encode_base64url(data: bytes | str) -> str:
    """Return the URL-safe Base64 without padding that tokens use."""
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_token(header: dict[str, Any], payload: str, described: dict[str, Any]) -> str:
    """Return the token that a case describes; it may be invalid."""
    secret = "another secret of 32 characters or more" if "secret" in described else SECRET
    algorithm = described.get("alg", "HS256")
    body = f"{encode_base64url(json.dumps(header))}.{encode_base64url(payload)}"
    if algorithm == "none":
        return body + "."
    signature = hmac.digest(secret.encode(), body.encode(), algorithm.replace("HS", "sha"))
    return f"{body}.{encode_base64url(signature)}"


def authorization_header(case: dict[str, Any]) -> str | None:
    """Return the Authorization header of a case; None if the case has no token."""
    described = case.get("jwt")
    if described is None:
        role = case.get("role")
        return role and f"Bearer {jwt.encode(ROLES[role], SECRET, algorithm='HS256')}"
    if "raw" in described:
        return str(described["raw"])
    claims = dict(described.get("claims", {}))
    for name in ("exp", "nbf", "iat"):
        if f"{name}_in" in described:
            claims[name] = int(time.time()) + described[f"{name}_in"]
    algorithm = described.get("alg_header", described.get("alg", "HS256"))
    header = {"alg": algorithm, "typ": "JWT"} | (
        {"kid": described["kid"]} if "kid" in described else {}
    )
    token = make_token(header, described.get("payload_raw", json.dumps(claims)), described)
    scheme = described.get("scheme", "Bearer")
    return f"{scheme} {token}" if scheme else token


class Replay:
    """A replay of the recorded requests: it sends them to a gateway and compares the answers.

    Args:
        url: The address of the gateway.
        key: The anon key of the gateway, for every request.
        sql: A connection to the database of the recordings, as the superuser.
    """

    def __init__(self, url: str, key: str, sql: "asyncpg.Connection[asyncpg.Record]") -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=20
        )
        self._sql = sql
        self._state_after_reset: object = None
        self._key = key

    async def reset(self) -> None:
        """Restore the data if something has been written since the last reset."""
        # A write gets a transaction id, but a sequence can advance without one.
        state = (
            "select pg_snapshot_xmax(pg_current_snapshot())::text, sum(last_value)"
            " from pg_sequences"
        )
        if await self._sql.fetchrow(state) != self._state_after_reset:
            await self._sql.execute("select fixture.reset()")
            self._state_after_reset = await self._sql.fetchrow(state)

    async def differences(self, case: dict[str, Any]) -> set[str]:
        """Send the request of a case; return the parts of the answer that differ."""
        await self.reset()
        async with self._with_locked_row(case):
            status, reason, headers, body = await asyncio.to_thread(self._send, case)
        recorded = case["answer"]
        recorded_headers = recorded["headers"]
        pairs = {
            "status": (status, recorded["status"]),
            "reason": (reason, recorded.get("reason", reason)),
            "headers": (
                {name: ", ".join(headers.get_all(name)) for name in HEADERS if name in headers},
                {name: recorded_headers[name] for name in HEADERS if name in recorded_headers},
            ),
            "body": (parse_body(body), parse_body(recorded["body"])),
        }
        if "Content-Range" in case.get("volatile", []):
            del pairs["headers"], pairs["status"]
        different = {part for part, (actual, expected) in pairs.items() if actual != expected}
        if "db_after" in case:
            after = await self._sql.fetchval(case["db_after"]["sql"])
            if ("" if after is None else str(after)) != case["db_after"]["result"]:
                different.add("rows")
        return different

    @contextlib.asynccontextmanager
    async def _with_locked_row(self, case: dict[str, Any]) -> AsyncIterator[None]:
        """Lock a row from another connection if the case requires it."""
        if "before" not in case:
            yield
            return
        async with self._sql.transaction():
            await self._sql.execute("select 1 from public.owners where id = 1 for update")
            yield

    def close(self) -> None:
        """Close the connection to the gateway."""
        self._connection.close()

    def _send(self, case: dict[str, Any]) -> tuple[int, str, http.client.HTTPMessage, str]:
        """Send a request exactly as it was recorded; most clients would normalise its path."""
        connection = self._connection
        method, _, path = case["request"].partition(" ")
        connection.putrequest(method, "/rest/v1" + path, skip_accept_encoding=True)
        headers = {"apikey": self._key} | case.get("headers", {})
        authorization = authorization_header(case)
        if authorization is not None:
            headers["Authorization"] = authorization
        for name, value in headers.items():
            connection.putheader(name, value)
        body = case.get("body")
        data = None if body is None else body.encode()
        if data is not None or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(data or b"")))
        connection.endheaders(data)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.will_close:
            connection.close()
        return answer.status, answer.reason, answer.headers, text


def parse_body(text: str) -> Any:
    """Return a JSON body as a value with exact numbers, and any other body as text."""
    try:
        return json.loads(text, parse_float=lambda digits: ("number", digits))
    except ValueError:
        return text


@contextlib.contextmanager
def run_postgrest(data: DataDir, database_url: str, jwt_secret: str) -> Iterator[Path]:
    """Run PostgREST for the database of the recordings; yield its socket."""
    server = PostgREST(
        find_postgrest(), database_url=database_url, jwt_secret=jwt_secret, data=data
    )
    process = server.launch()
    try:
        asyncio.run(server.wait_until_ready(process))
        yield server.socket
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def recorded_gateway(new_platform: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The URL of a gateway, and its platform with the schema of the recordings.

    The platform is on a separate cluster, because the schema changes the statement timeouts of
    roles, which apply to the whole cluster.
    """

    async def load(platform: Any) -> None:
        async with platform.connect() as connection:
            await connection.execute((FIXTURES / "schema.sql").read_text(encoding="utf-8"))

    data = DataDir(tmp_path_factory.mktemp("postgrest"))
    data.make_subdirectories()
    with LocalSupabase() as stack, new_platform(stack) as platform:
        asyncio.run(load(platform))
        database = urlsplit(platform.superuser_url).path[1:]
        with (
            run_postgrest(
                data, role_url(stack, "authenticator", database), platform.settings.jwt_secret
            ) as socket,
            platform.serve(postgrest_socket=socket, allowed_origins=("http://example.com",)) as url,
        ):
            yield url, platform


async def test_postgrest_answers_as_recorded(recorded_gateway):
    url, platform = recorded_gateway
    different = {}
    async with platform.connect() as sql:
        replay = Replay(url, platform.settings.anon_key, sql)
        with contextlib.closing(replay):
            for case in json.loads((FIXTURES / "recordings.json").read_text(encoding="utf-8")):
                parts = {"not sent"} if "config" in case else await replay.differences(case)
                if parts:
                    different[case["id"]] = " ".join(sorted(parts))
    listed = {name: parts for _, parts, cases in DIFFERENCES for name in cases.split()}
    unexpected = {
        name: (different.get(name), listed.get(name))
        for name in different.keys() | listed.keys()
        if different.get(name) != listed.get(name)
    }
    assert not unexpected, f"differences (found, listed): {unexpected}"
