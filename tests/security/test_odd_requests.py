"""Malformed requests: no body, header or path causes a 500, and errors name the problem."""

import json
import os
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from picture_queue.local.stack import LocalSupabase
from tests.security.sample_project import SampleProject, owner_image_path

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"
#: JSON texts that are malformed, or that Python cannot read or write faithfully.
ODD_JSON = (
    b"", b"null", b"[]", b'""', b"0", b"{", b"\xff", b"\x00", b'{"a":NaN}', b'{"a":-Infinity}',
    b'{"a":1e999}', b"1" * 5000, b'{"a":' + b"1" * 5000 + b"}", b"[" * 90 + b"]" * 90,
    b"[" * 900 + b"]" * 900, b"[" * 5000 + b"]" * 5000, b"[" * 100_000,
    b'{"a":' * 500 + b"1" + b"}" * 500, b'"\\ud800"', b'{"\\udfff":1}', b'{"a":"\\u0000"}',
    b'{"a":"\\ud83d\\ude00"}', b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a":1,"a":2}',
)  # fmt: skip
ODD_VALUES = (
    b"null", b"[]", b"{}", b"true", b"-1", b"1e300", b"1" * 400, b'"\\u0000"', b'"\\ud800"', b'""',
    b'"' + b"9" * 400 + b'GB"', b'{"column": {}}', b'{"column":"name","order":[]}', b"[[]]",
    b'["\\u0000"]', b"[" * 60 + b"]" * 60, b'"' + b"a" * 5000 + b'@b.co"', b'{"since": 1e308}',
    b'"' + b"9" * 5000 + b'"',
)  # fmt: skip
#: Valid values of the fields that the services read from a body, by the beginning of the path.
FIELDS: dict[str, dict[str, Any]] = {
    "/auth/": {
        "email": "fuzz@example.com", "password": "correct horse", "data": {}, "phone": None,
        "refresh_token": "x", "id": None, "app_metadata": {}, "user_metadata": {}, "role": None,
        "email_confirm": True, "ban_duration": None, "should_soft_delete": False,
    },
    "/realtime/": {"messages": [], "topic": "t", "event": "e", "payload": {}, "private": False},
    "/storage/": {
        "name": "fuzz", "id": "fuzz", "public": False, "file_size_limit": 1, "prefix": "",
        "allowed_mime_types": [], "limit": 1, "offset": 0, "sortBy": None, "search": "",
        "cursor": None, "with_delimiter": False, "prefixes": ["x"], "paths": ["x"],
        "expiresIn": 60, "transform": None, "bucketId": "pictures", "sourceKey": "a",
        "destinationKey": "b", "destinationBucket": None, "copyMetadata": False, "metadata": {},
    },
    "/rest/": {"prompt": "a cat", "model_id": None, "input": {}, "options": {}},
    "/v1/": {"input": {"prompt": "a cat"}, "version": "x", "stream": False},
    "/_simulator/": {"kind": "fail", "count": 1, "on": "get", "seconds": 1, "message": "x"},
    "/_faults": {
        "network_cut": False, "delay_seconds": 1.0, "close_channels": "", "path": "/",
        "drop_messages": 0,
    },
}  # fmt: skip
#: Method and path; `{}` is replaced by a malformed segment. "simulator:" marks its routes.
ROUTES = [
    tuple(line.split())
    for line in """
    POST /auth/v1/signup
    POST /auth/v1/token
    POST /auth/v1/token?grant_type=password
    POST /auth/v1/token?grant_type=refresh_token
    GET /auth/v1/user
    PUT /auth/v1/user
    POST /auth/v1/logout
    GET /auth/v1/admin/users
    POST /auth/v1/admin/users
    GET /auth/v1/admin/users/{}
    PUT /auth/v1/admin/users/{}
    PUT /auth/v1/admin/users/<other_user>
    DELETE /auth/v1/admin/users/{}
    GET /auth/v1/{}
    POST /realtime/v1/api/broadcast
    POST /realtime/v1/api/broadcast/{}/events/{}
    GET /storage/v1/bucket
    POST /storage/v1/bucket
    GET /storage/v1/bucket/{}
    PUT /storage/v1/bucket/pictures
    PUT /storage/v1/bucket/{}
    DELETE /storage/v1/bucket/{}
    POST /storage/v1/bucket/{}/empty
    POST /storage/v1/object/list/pictures
    POST /storage/v1/object/list/{}
    POST /storage/v1/object/list-v2/pictures
    POST /storage/v1/object/move
    POST /storage/v1/object/copy
    POST /storage/v1/object/sign/pictures
    POST /storage/v1/object/sign/pictures/{}
    GET /storage/v1/object/sign/pictures/{}
    POST /storage/v1/object/upload/sign/pictures/{}
    PUT /storage/v1/object/upload/sign/pictures/{}
    POST /storage/v1/object/pictures/{}
    PUT /storage/v1/object/pictures/fuzz/{}
    GET /storage/v1/object/pictures/<picture>
    HEAD /storage/v1/object/pictures/<picture>
    GET /storage/v1/object/info/pictures/{}
    GET /storage/v1/object/public/{}/{}
    DELETE /storage/v1/object/pictures
    DELETE /storage/v1/object/{}/{}
    GET /storage/v1/{}
    GET /rest/v1/job_queue
    GET /rest/v1/{}
    POST /rest/v1/rpc/start_generation
    POST /rest/v1/rpc/{}
    PATCH /rest/v1/job_queue
    GET /{}
    GET /_faults
    POST /_faults
    GET simulator:/v1/predictions
    POST simulator:/v1/predictions
    POST simulator:/v1/models/black-forest-labs/flux-schnell/predictions
    POST simulator:/v1/models/{}/{}/predictions
    GET simulator:/v1/models
    QUERY simulator:/v1/models
    GET simulator:/v1/models/{}/{}
    GET simulator:/v1/models/{}/{}/versions
    GET simulator:/v1/models/{}/{}/versions/{}
    POST simulator:/v1/files
    GET simulator:/v1/files/{}
    DELETE simulator:/v1/files/{}
    GET simulator:/v1/predictions/{}
    POST simulator:/v1/predictions/{}/cancel
    GET simulator:/files/{}/{}
    POST simulator:/_simulator/faults
    GET simulator:/{}
    """.strip().splitlines()
]
ROLES = ("owner", "service")

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(string.printable, max_size=20),
    st.sampled_from(
        ["\0", "\ud800", "\U0001f600", "a" * 3000, "9" * 400, "9" * 5000, "1e999", "-1", "NaN",
         "..", "%", "a@b.c", "\r\nx: y", "\u202e", "'", '"']
    ),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**300, 10**400]),
        st.floats(allow_nan=True),
        TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
NAMES = sorted({name for fields in FIELDS.values() for name in fields} | {"column", "order"})
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["accept", "range", "prefer", "if-none-match", "if-modified-since", "content-type",
         "x-upsert", "x-metadata", "x-robots-tag", "cache-control", "authorization", "apikey",
         "x-client-info", "x-supabase-api-version", "cancel-after", "accept-profile",
         "content-profile", "sec-fetch-site", "cookie", "x-forwarded-host"]
    ),
    st.one_of(
        st.text(
            st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"),
            max_size=30,
        ),
        st.sampled_from(
            ["bytes=0-" + "9" * 5000, "bytes=-0", "bytes=" + "9" * 5000 + "-", "x" * 3000,
             "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "9" * 5000 + "h",
             "999999999h", "application/json", "multipart/form-data", "Bearer",
             "multipart/form-data; boundary=x", "multipart/form-data; boundary=" + "x" * 3000,
             "Bearer a.b.c"]
        ),
    ),
    max_size=3,
)  # fmt: skip
QUERIES = st.dictionaries(
    st.sampled_from(
        ["page", "per_page", "grant_type", "scope", "limit", "offset", "sortColumn", "sortOrder",
         "search", "token", "download", "private", "select", "order", "id", "cursor",
         "created_after", "created_before", "apikey"]
    ),
    TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
    max_size=3,
)  # fmt: skip
SEGMENTS = st.one_of(
    st.sampled_from(
        [b"%00", b"%ff", b"%c3%28", b"%", b"%zz", b"..", b".", b"", b"%2e%2e", b"%0d%0a", b"\xff",
         b"%ed%a0%80", b"a" * 3000, b"9" * 5000, b"%F0%9F%98%80", b";", b"*", b"{}"]
    ),
    st.text(string.ascii_letters + string.digits + "-_~", min_size=1, max_size=10).map(str.encode),
)  # fmt: skip


class RequestSender:
    """A client that sends malformed requests to one stack."""

    def __init__(self, project: SampleProject, sandbox: Any) -> None:
        self._project = project
        self._simulator = sandbox.replicate_url.removesuffix("/v1")
        self._key = sandbox.secret_key
        self._token = sandbox.replicate_token
        self._http = httpx.Client(timeout=30)

    def expect_no_server_error(
        self,
        route: Any,
        role: str,
        content: bytes,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        segments: tuple[bytes, ...] = (b"fuzz", b"fuzz", b"fuzz"),
    ) -> None:
        """Check that the answer to a request has no status above 500 except 501."""
        method, pattern = route
        base, sent_headers = self._project.api_url, dict(self._project.keys[role])
        if pattern.startswith("simulator:"):
            base, pattern = self._simulator, pattern.removeprefix("simulator:")
            sent_headers |= {"authorization": f"Bearer {self._token}", "apikey": self._key}
        pattern = pattern.replace("<other_user>", self._project.users["other_user"])
        pattern = pattern.replace("<picture>", owner_image_path(self._project))
        constant_parts = pattern.encode().split(b"{}")
        variable_parts = (*segments[: len(constant_parts) - 1], b"")
        target = b"".join(
            constant + variable
            for constant, variable in zip(constant_parts, variable_parts, strict=True)
        )
        if query:
            target += (b"&" if b"?" in target else b"?") + str(httpx.QueryParams(query)).encode()
        sent_headers |= {"content-type": "application/json"} | (headers or {})
        raw = [(name.encode(), value.encode("latin-1")) for name, value in sent_headers.items()]
        try:
            answer = self._http.request(
                method, base, headers=raw, content=content, extensions={"target": target}
            )
        except httpx.LocalProtocolError:
            return  # The client refuses to send this request.
        assert answer.status_code < 500 or answer.status_code == 501, (
            answer.text[:300], method, target, role, content[:200], headers
        )  # fmt: skip

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSupabase]:
    """A separate stack, because the requests would change buckets and users of other tests."""
    with LocalSupabase() as stack:
        yield stack


@pytest.fixture(scope="module")
def sender(shared_project: SampleProject, sandbox: Any) -> Iterator[RequestSender]:
    request_sender = RequestSender(shared_project, sandbox)
    yield request_sender
    request_sender.close()


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_malformed_json_is_refused(sender: RequestSender, route: Any):
    for text in ODD_JSON:
        for role in ROLES:
            sender.expect_no_server_error(route, role, text)


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route[0] in ("POST", "PUT", "DELETE")], ids=" ".join
)
def test_a_malformed_value_is_refused(sender: RequestSender, route: Any):
    """Give the other fields valid values, so that the service reads the malformed one."""
    target = route[1].removeprefix("simulator:")
    valid = next(fields for prefix, fields in FIELDS.items() if target.startswith(prefix))
    # Hashing a password is slow, so send it only to the routes that require it.
    tested = set(valid) - {"password"}
    if "signup" in target or "token" in target:
        tested = {"email", "password", "data", "refresh_token"}
    for field in tested | {"password"} & valid.keys():
        other_fields = {name: value for name, value in valid.items() if name in tested - {field}}
        rest = json.dumps(other_fields).encode()[1:]  # without the opening brace
        for value in ODD_VALUES:
            text = b'{"' + field.encode() + b'": ' + value + b", " + rest
            sender.expect_no_server_error(route, "service", text)
            if route == ("PUT", "/auth/v1/user"):
                sender.expect_no_server_error(route, "other_user", text)


@given(
    route=st.sampled_from(ROUTES),
    role=st.sampled_from(ROLES),
    body=BODIES,
    headers=HEADERS,
    query=QUERIES,
    segments=st.tuples(SEGMENTS, SEGMENTS, SEGMENTS),
)
@settings(
    max_examples=20_000 if LONG else 400,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    database=None,
)
@pytest.mark.timeout(7200 if LONG else 300)
def test_malformed_requests_cause_no_500(
    sender: RequestSender,
    route: Any,
    role: str,
    body: dict[str, Any],
    headers: dict[str, str],
    query: dict[str, str],
    segments: tuple[bytes, bytes, bytes],
):
    sender.expect_no_server_error(route, role, json.dumps(body).encode(), headers, query, segments)


@pytest.mark.parametrize(
    "call",
    (
        "start_generation?prompt=x",
        "cancel_job?job_id={pending}",
        "cancel_generation?generation_id={generation}",
        "retry_job?job_id={failed}",
        "complete_job?job_id={pending}&lease_id={pending}",
        "enqueue_job?job_type=x",
    ),
)
async def test_a_get_of_a_function_that_writes_is_refused_as_read_only(
    project: SampleProject, call: str
):
    answer = await project.request("service", "GET", f"/rest/v1/rpc/{call.format_map(project.ids)}")
    assert (answer.status, answer.code) == (405, "25006"), answer
