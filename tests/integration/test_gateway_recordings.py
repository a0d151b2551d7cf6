"""The gateway answers Storage requests like the real server, except for the listed differences.

`recordings.json` has requests and answers of storage-api v1.70.6 with its file backend, and some
SQL statements. Each line is a case. The cases run in order, because a case may need objects of
earlier cases. Tests with two connections, or with a broken connection, are in
`test_gateway_storage`. In a case, `<jwt {header}.{claims}>` stands for a token with these claims,
and `<SERVICE>`, `<ANON>`, `<USER_A>` and `<USER_B>` stand for the tokens in `TOKENS`. `volatile`
has JSON pointers to values that differ in each run.
"""

import base64
import http.client
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import jwt

from .conftest import RECORDED

CASES = Path(__file__).parents[1] / "fixtures" / "storage" / "recordings.json"
SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"
TEST_PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(56))
COMPARED_HEADERS = (
    "accept-ranges",
    "cache-control",
    "content-disposition",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "x-robots-tag",
)

POLICIES = """
create policy own_folder on storage.objects for all to authenticated
  using (bucket_id = 'pictures' and (storage.foldername(name))[1] = (select auth.uid())::text)
  with check (bucket_id = 'pictures' and (storage.foldername(name))[1] = (select auth.uid())::text);
create policy ops_i on storage.objects for insert to authenticated
  with check (bucket_id in ('ops-i', 'ops-is', 'ops-iu', 'ops-isu'));
create policy ops_s on storage.objects for select to authenticated
  using (bucket_id in ('ops-s', 'ops-is', 'ops-su', 'ops-isu', 'ops-sd'));
create policy ops_u on storage.objects for update to authenticated
  using (bucket_id in ('ops-iu', 'ops-su', 'ops-isu'));
create policy ops_d on storage.objects for delete to authenticated
  using (bucket_id in ('ops-d', 'ops-sd'));
create policy see_public_pics on storage.buckets for select to authenticated
  using (id = 'public-pics');
"""

_GATEWAY = "recorded without the API gateway of Supabase, which replaces a key by a token"
_DOTS = "the message of the server contains a path of its file backend"
_ESCAPED = "the token escapes a letter that is not ASCII"
_NO_VERSIONS = "the gateway lacks the column `versioning_status`, which the server does not use yet"
_RESUMABLE = "501: resumable uploads"

DIFFERENCES = {
    "auth-apikey-only": _GATEWAY,
    "auth-sb-secret": _GATEWAY,
    "auth-role-authenticator": "another message: the gateway knows only the three roles of the API",
    "auth-unknown-role": "400 instead of 500: the gateway knows only the three roles of the API",
    "bucket-list-old-client": "the gateway sends the key `type` to old clients too",
    "list2-created-desc-cursor": "the cursor contains the time of the recording",
    "list-name-desc": "the server has a bug: it omits a folder in this order",
    "name-dot": _DOTS,
    "name-dotdot": _DOTS,
    "name-dotdot-deep": _DOTS,
    "name-dotdot-encoded": _DOTS,
    "name-long-segment": "the gateway names its files by ids, so it accepts a long name",
    "other-health": "the gateway lacks this endpoint, which is for operators",
    "other-options": "the gateway answers a browser's preflight",
    "render-disabled": "501: image transformations; they were disabled in the recorded server",
    "sign-transform": "501: signing for a transformed image",
    "signup-create-bad-name": _ESCAPED,
    "sql-insert-bucket": _NO_VERSIONS,
    **dict.fromkeys(
        (
            *("tus-options", "tus-create", "tus-create-existing", "tus-create-other"),
            *("tus-create-too-large", "tus-head-0", "tus-head-32", "tus-no-auth"),
            *("tus-patch-1", "tus-patch-2", "tus-patch-wrong-offset"),
        ),
        _RESUMABLE,
    ),
    "tus-download": "the object of a resumable upload does not exist",
}


TOKENS = {
    "<SERVICE>": '<jwt {"alg": "HS256", "typ": "JWT"}.{"iss": "supabase-demo",'
    ' "role": "service_role", "exp": 1983812996}>',
    "<ANON>": '<jwt {"alg": "HS256", "typ": "JWT"}.{"iss": "supabase-demo",'
    ' "role": "anon", "exp": 1983812996}>',
    "<USER_A>": '<jwt {"alg": "HS256", "typ": "JWT"}.{"iss": "http://127.0.0.1/auth/v1",'
    ' "sub": "a0000000-0000-4000-8000-00000000000a", "aud": "authenticated",'
    ' "role": "authenticated", "iat": "now", "exp": "iat+3600"}>',
    "<USER_B>": '<jwt {"alg": "HS256", "typ": "JWT"}.{"iss": "http://127.0.0.1/auth/v1",'
    ' "sub": "b0000000-0000-4000-8000-00000000000b", "aud": "authenticated",'
    ' "role": "authenticated", "iat": "now", "exp": "iat+3600"}>',
}
TOKEN = re.compile(r"<jwt (\{.*?\})\.(\{.*?\})(, [a-z ]+)?>")


def make_token(match: re.Match[str]) -> str:
    """Return the token for a placeholder."""
    header, claims, note = json.loads(match[1]), json.loads(match[2]), match[3] or ""
    now = int(time.time())
    for name in ("iat", "exp", "nbf"):
        if isinstance(claims.get(name), str):
            base, offset = claims[name][:3], int(claims[name][3:] or 0)
            claims[name] = (now if base == "now" else claims["iat"]) + offset
    if header["alg"] == "none":
        return jwt.encode(claims, None, algorithm="none")
    secret = "some other secret of 32 characters" if "another secret" in note else SECRET
    secret *= 2 if header["alg"] == "HS512" else 1
    typ = {} if "typ" in header else {"typ": None}
    token = jwt.encode(claims, secret, algorithm=header["alg"], headers=typ)
    return token[:-6] if "cut short" in note else token


def replace_placeholders(text: str) -> str:
    """Return a text with its placeholders replaced."""
    for name, token in TOKENS.items():
        text = text.replace(name, token)
    return TOKEN.sub(make_token, text)


def decode_data(described: dict[str, Any]) -> bytes:
    """Return the bytes that a case describes."""
    if "fill" not in described:
        if "base64" in described:
            return base64.b64decode(described["base64"])
        return described["text"].encode()
    beginning = TEST_PNG if "PNG" in described["fill"] else b""
    fill = b"\0" if beginning else b"a"
    return beginning.ljust(described["length"], fill)


def encode_body(case: dict[str, Any]) -> tuple[bytes | None, str | None]:
    """Return the body and the content type of the request of a case."""
    body = case.get("body")
    if body is None:
        return None, None
    if body["kind"] == "json":
        return json.dumps(body["json"]).encode(), "application/json"
    if body["kind"] == "bytes":
        return decode_data(body), None
    parts = b""
    for part in body["parts"]:
        disposition = f'form-data; name="{part["name"]}"'
        if "filename" in part:
            disposition += f'; filename="{part["filename"]}"'
        head = f"Content-Disposition: {disposition}\r\n"
        if "content_type" in part:
            head += f"Content-Type: {part['content_type']}\r\n"
        parts += f"--zz\r\n{head}\r\n".encode() + decode_data(part["data"]) + b"\r\n"
    return parts + b"--zz--\r\n", "multipart/form-data; boundary=zz"


def send_request(url: str, case: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """Send a request exactly as it was recorded; most clients would normalise its path."""
    body, content_type = encode_body(case)
    headers = {name: replace_placeholders(value) for name, value in case.get("headers", {}).items()}
    if content_type is not None:
        headers["Content-Type"] = content_type
    if "authorization" in map(str.lower, headers):
        # Send a key with every token, as the client libraries do.
        headers.setdefault("apikey", RECORDED.anon_key)
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    try:
        path = quote(
            "/storage/v1" + replace_placeholders(case["path"]),
            safe="%/:?=&#[]@!$'()*+,;~.-_<>{}|^`",
        )
        connection.putrequest(case["method"], path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        chunked = headers.get("Transfer-Encoding") == "chunked"
        if body is not None and not chunked:
            connection.putheader("Content-Length", str(len(body)))
        elif body is None and case["method"] in ("POST", "PUT"):
            connection.putheader("Content-Length", "0")
        connection.endheaders(body, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


class Comparison:
    """A comparison of answers. Ids differ in each run, but equal ids must stay equal."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def differences(
        self, case: dict[str, Any], status: int, headers: dict[str, str], body: bytes
    ) -> list[str]:
        """Return the differences from the recording."""
        different = []
        if status != case["status"]:
            different.append(f"status {status}, not {case['status']}")
        recorded = case.get("response_headers", {})
        for name in COMPARED_HEADERS:
            if recorded.get(name) != headers.get(name):
                different.append(f"{name} {headers.get(name)!r}, not {recorded.get(name)!r}")
        for name in ("expires", "last-modified"):  # their values differ in each run
            if (name in recorded) != (name in headers):
                different.append(f"{name} is {headers.get(name)!r}")
        return different + self.body(case, body)

    def body(self, case: dict[str, Any], body: bytes) -> list[str]:
        """Return the differences of the body from the recording."""
        recorded = case.get("response_body")
        if recorded is None:
            return ["an unexpected body"] if body else []
        if isinstance(recorded, dict) and recorded.keys() == {"bytes"}:
            return [] if body == decode_data(recorded["bytes"]) else ["other bytes"]
        try:
            actual = dict(flatten(json.loads(body)))
        except ValueError:
            return [f"not JSON: {body[:200]!r}"]
        volatile = case.get("volatile", [])
        expected = dict(flatten(recorded))
        if expected.keys() != actual.keys():
            return [f"other keys: {sorted(expected.keys() ^ actual.keys())}"]
        return [
            f"{pointer} is {actual[pointer]!r}, not {expected[pointer]!r}"
            for pointer in expected
            if not self._is_equal(
                pointer, expected[pointer], actual[pointer], "/response_body" + pointer in volatile
            )
        ]

    def _is_equal(self, pointer: str, expected: Any, actual: Any, volatile: bool) -> bool:
        if volatile and pointer.endswith(("/id", "/Id", "/version")):
            return self._ids.setdefault(expected, actual) == actual
        if volatile:
            return type(actual) is type(expected)
        if isinstance(expected, str) and "<jwt " in expected:
            return have_equal_tokens(expected, actual)
        return bool(expected == actual)


def flatten(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the JSON pointer and the value of each leaf of a JSON value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{pointer}/{key}")
    elif isinstance(value, list) and value:
        for n, inner in enumerate(value):
            yield from flatten(inner, f"{pointer}/{n}")
    else:
        yield pointer, value


def have_equal_tokens(expected: str, actual: str) -> bool:
    """Return whether both texts have a token with the same header and claims in the same place."""
    match = TOKEN.search(expected)
    assert match
    before, token = actual[: match.start()], actual[match.start() :]
    expected_claims = json.loads(match[2])
    claims = jwt.decode(token, SECRET, algorithms=["HS256"])
    expected_claims["exp"] = claims["iat"] + int(expected_claims["exp"].removeprefix("iat"))
    expected_claims["iat"] = claims["iat"]
    return (
        before == expected[: match.start()]
        and jwt.get_unverified_header(token) == json.loads(match[1])
        and claims == expected_claims
    )


async def run_statement(sql: Any, case: dict[str, Any]) -> str:
    """Run a recorded statement in its role; return its result or its error as JSON."""
    try:
        async with sql.transaction():
            await sql.execute(f"set local role {case['role']}")
            return await sql.fetchval(case["sql"]) or ""
    except asyncpg.PostgresError as error:
        lines = [f"ERROR {error.sqlstate}: {error.args[0]}"]
        lines += [
            f"{name}:  {text}"
            for name, text in (
                ("DETAIL", getattr(error, "detail", None)),
                ("HINT", getattr(error, "hint", None)),
            )
            if text
        ]
        return json.dumps("\n".join(lines))


async def test_storage_answers_as_recorded(platform):
    comparison = Comparison()
    different = {}
    async with platform.connect() as sql:
        await sql.execute(POLICIES)
        with platform.serve() as url:
            for case in json.loads(CASES.read_text(encoding="utf-8")):
                if "sql" in case:
                    differences = comparison.body(case, (await run_statement(sql, case)).encode())
                else:
                    differences = comparison.differences(case, *send_request(url, case))
                if differences:
                    different[case["id"]] = differences
    unexpected = {name: parts for name, parts in different.items() if name not in DIFFERENCES}
    assert not unexpected, json.dumps(unexpected, indent=1)
    assert sorted(DIFFERENCES.keys() - different.keys()) == [], (
        "these listed differences no longer exist"
    )
