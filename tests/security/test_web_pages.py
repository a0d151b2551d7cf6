"""Cross-origin requests: a page of another site cannot use the local stack."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from starlette.applications import Starlette

from picture_queue.errors import LocalStackError
from picture_queue.local.origin_check import OriginCheck
from picture_queue.local.stack import LocalSupabase
from tests.security.realtime_socket import RealtimeSocket
from tests.security.sample_project import SampleProject, owner_image_path

FOREIGN_ORIGINS = (
    "https://evil.example",
    "http://127.0.0.1.evil.example",
    "http://localhost.evil.example:54321",
    "http://evil.example:54321",
    "http://0.0.0.0:54321",
    "http://192.168.1.5:5173",
    "http://10.0.0.1",
    "http://[::]:1",
    "http://localhost@evil.example",
    "http://evillocalhost",
    "file://localhost",
    "capacitor://localhost",
    "null",
    "",
)
LOCALHOST_ORIGINS = (
    "http://localhost:5173",
    "http://127.0.0.1:3000",
    "https://localhost",
    "http://[::1]:8080",
    "http://app.localhost:5173",
    "http://LOCALHOST:1",
)
REBOUND_HOSTS = (
    "evil.example",
    "evil.example:54321",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "localhost:1@evil.example",
    "192.168.1.5",
    "0.0.0.0",
    "",
)
APP = "https://app.example"  # The origin that `stack_with_app_origin` allows.
HANDSHAKE = "/realtime/v1/websocket"


@pytest.fixture(scope="module")
def stack_with_app_origin() -> Iterator[LocalSupabase]:
    """A stack that also allows requests from pages of the origin `APP`."""
    with LocalSupabase(allowed_origins=(APP,)) as stack:
        yield stack


def sensitive_requests(
    project: SampleProject, sandbox: Any
) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, URL and content of requests that read or change data of the stack."""
    simulator = sandbox.replicate_url.removesuffix("/v1")
    token = {"authorization": f"Bearer {sandbox.replicate_token}"}
    fault = {"json": {"kind": "fail"}}
    text = {"content": '{"kind": "fail"}', "headers": {"content-type": "text/plain"}}
    return [
        ("GET", "/rest/v1/job_queue", {}),
        ("POST", "/rest/v1/rpc/start_generation", {"json": {"prompt": "a cat"}}),
        ("POST", "/auth/v1/token?grant_type=password", {"json": {}}),
        ("GET", "/auth/v1/admin/users", {}),
        ("POST", "/auth/v1/admin/users", {"json": {"email": "evil@example.com"}}),
        ("POST", "/realtime/v1/api/broadcast", {"json": {"messages": []}}),
        ("GET", "/storage/v1/bucket", {}),
        ("GET", f"/storage/v1/object/pictures/{owner_image_path(project)}", {}),
        ("GET", "/_faults", {}),
        ("POST", "/_faults", {"json": {"network_cut": True}}),
        ("POST", f"{simulator}/_simulator/faults", fault),
        ("POST", f"{simulator}/_simulator/faults", text),
        ("POST", f"{simulator}/_simulator/reset", {}),
        ("GET", f"{sandbox.replicate_url}/predictions", {"headers": token}),
    ]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_foreign_origin_is_refused_everywhere(
    project: SampleProject, sandbox: Any, origin: str
):
    for method, url, content in sensitive_requests(project, sandbox):
        for role in ("anon", "owner", "service"):
            content_with_header = content | {
                "headers": {**content.get("headers", {}), "origin": origin}
            }
            answer = await project.request(role, method, url, **content_with_header)
            assert (answer.status, answer.code) == (403, "foreign_page"), (method, url, answer)
            assert "access-control-allow-origin" not in answer.headers
    preflight = {"access-control-request-method": "POST", "origin": origin}
    answer = await project.request("anon", "OPTIONS", "/rest/v1/job_queue", headers=preflight)
    assert answer.status == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", REBOUND_HOSTS)
async def test_dns_rebinding_is_refused(project: SampleProject, sandbox: Any, host: str):
    for method, url, content in sensitive_requests(project, sandbox):
        content_with_header = content | {"headers": {**content.get("headers", {}), "host": host}}
        answer = await project.request("service", method, url, **content_with_header)
        assert (answer.status, answer.code) == (403, "foreign_page"), (method, url, answer)


@pytest.mark.parametrize(
    "hosts", [(), ("localhost", "evil.example"), ("evil.example", "localhost")]
)
async def test_every_host_header_is_checked(sandbox: Any, hosts: tuple[str, ...]):
    address = urlsplit(sandbox.api_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = "GET /auth/v1/health HTTP/1.1\r\nconnection: close\r\n"
    writer.write((head + "".join(f"host: {host}\r\n" for host in hosts) + "\r\n").encode())
    assert (await reader.readline()).split()[1] in (b"400", b"403")
    writer.close()


@pytest.mark.parametrize("origin", LOCALHOST_ORIGINS)
async def test_a_page_on_localhost_may_call_the_api(
    project: SampleProject, sandbox: Any, origin: str
):
    for role in ("owner", "service"):
        answer = await project.request(
            role, "POST", "/rest/v1/rpc/list_jobs", json={}, headers={"origin": origin}
        )
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] in ("*", origin)
        assert "Origin" in answer.headers["vary"]
    async with open_socket(sandbox, sandbox.publishable_key, origin=origin) as socket:
        assert await socket.join("room", project.tokens["owner"], private=False) is None


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_socket_of_a_foreign_page_is_refused(
    project: SampleProject, sandbox: Any, origin: str
):
    for key in (
        sandbox.publishable_key,
        sandbox.secret_key,
        sandbox.anon_key,
        sandbox.service_role_key,
    ):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with open_socket(sandbox, key, origin=origin):
                pass
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:54321"])
async def test_a_socket_with_dns_rebinding_is_refused(sandbox: Any, host: str):
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with open_socket(sandbox, sandbox.secret_key, host=host):
            pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "cross_site",
    [
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        # Chromium sends this for the speculation rules of any page.
        {"sec-fetch-site": "none", "sec-purpose": "prefetch;prerender"},
    ],
    ids=["cross-site", "speculative"],
)
async def test_another_site_without_an_origin_header_may_only_show_images(
    project: SampleProject, sandbox: Any, cross_site: dict[str, str]
):
    for method, url, content in sensitive_requests(project, sandbox):
        if "/storage/v1/object/" in url:
            continue
        content_with_header = content | {"headers": {**content.get("headers", {}), **cross_site}}
        answer = await project.request("service", method, url, **content_with_header)
        assert (answer.status, answer.code) == (403, "foreign_page"), (method, url, answer)
    sign_url = f"/storage/v1/object/sign/pictures/{owner_image_path(project)}"
    signed = await project.request("owner", "POST", sign_url, json={"expiresIn": 60})
    url = "/storage/v1" + signed.json["signedURL"]
    # The page is on localhost and the stack on 127.0.0.1. For a browser these are two sites.
    assert (await project.http.get(url, headers=cross_site)).status_code == 200
    written = await project.http.post(sign_url, headers=cross_site, json={"expiresIn": 60})
    assert written.status_code == 403


async def test_control_endpoints_accept_only_json(project: SampleProject, sandbox: Any):
    simulator = sandbox.replicate_url.removesuffix("/v1")
    for url, text in (
        ("/_faults", '{"network_cut": true}'),
        (f"{simulator}/_simulator/faults", '{"kind": "fail"}'),
        (f"{simulator}/_simulator/reset", ""),
    ):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            headers = {"content-type": f"{kind}; a=application/json"}
            answer = await project.request("service", "POST", url, content=text, headers=headers)
            assert answer.status == 415, (url, kind, answer)
    assert (await project.request("service", "GET", "/_faults")).json["network_cut"] is False
    assert (await project.request("service", "GET", f"{simulator}/_simulator/faults")).json == []


@pytest.mark.parametrize("role", ["nobody", "anon", "owner"])
async def test_the_control_endpoints_of_the_simulator_need_the_secret_key(
    project: SampleProject, sandbox: Any, role: str
):
    simulator = sandbox.replicate_url.removesuffix("/v1") + "/_simulator"
    headers = project.keys.get(role, {})
    for method, name in (
        ("GET", "faults"),
        ("POST", "faults"),
        ("POST", "reset"),
        ("GET", "predictions"),
    ):
        content = {"json": {"kind": "fail"}} if method == "POST" else {}
        answer = await project.http.request(
            method, f"{simulator}/{name}", headers=headers, **content
        )
        assert answer.status_code == 403, (name, answer.text)
    answer = await project.request("service", "GET", f"{simulator}/faults")
    assert (answer.status, answer.json) == (200, [])


async def test_an_allowed_origin_may_make_all_requests_of_users(stack_with_app_origin: Any):
    stack = stack_with_app_origin
    page = {"origin": APP}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=page) as http:
        account = {"email": "a@example.com", "password": "correct horse battery"}
        signup = await http.post(
            "/auth/v1/signup", json=account, headers={"apikey": stack.publishable_key}
        )
        token = signup.json()["access_token"]
        user = {"apikey": stack.publishable_key, "authorization": f"Bearer {token}"}
        answer = await http.post("/rest/v1/rpc/list_jobs", json={}, headers=user)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] in ("*", APP)
        for method, url, headers in (
            ("POST", "/rest/v1/rpc/list_jobs", {"apikey": stack.secret_key}),
            ("POST", "/rest/v1/rpc/list_jobs", {"apikey": stack.service_role_key}),
            (
                "POST",
                "/rest/v1/rpc/list_jobs",
                {
                    "apikey": stack.publishable_key,
                    "authorization": f"bearer {stack.service_role_key}",
                },
            ),
            ("GET", "/storage/v1/bucket", {"authorization": stack.service_role_key}),
            (
                "GET",
                "/storage/v1/bucket",
                {
                    "apikey": stack.publishable_key,
                    "authorization": f"Bearer{stack.service_role_key}",
                },
            ),
            ("GET", "/auth/v1/admin/users", user),
            ("GET", "/_faults", user),
        ):
            answer = await http.request(method, url, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign_page"), url
        other = await http.get("/auth/v1/health", headers={"origin": "https://other.example"})
        assert other.status_code == 403
    async with open_socket(stack, stack.publishable_key, origin=APP) as socket:
        assert await socket.join("room", token, private=False) is None
        refusal = await socket.join("pq:queue:default", stack.service_role_key)
        assert refusal is not None and refusal.startswith("Unauthorized: ")
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with open_socket(stack, stack.secret_key, origin=APP):
            pass
    assert refused.value.response.status_code == 403


@asynccontextmanager
async def open_socket(stack: Any, key: str, **headers: str) -> AsyncIterator[RealtimeSocket]:
    """Open a Realtime socket with the headers that a browser sends for a page."""
    port = urlsplit(stack.api_url).port
    host = headers.pop("host", None)
    url = f"ws://{host or '127.0.0.1'}{HANDSHAKE}?apikey={key}&vsn=1.0.0"
    async with websockets.connect(
        url, host="127.0.0.1", port=port, additional_headers=headers, open_timeout=15
    ) as socket:
        yield RealtimeSocket(socket)


def test_the_refusal_is_json_that_every_client_can_parse(sandbox: Any):
    headers = {"origin": "https://evil.example"}
    answer = httpx.get(f"{sandbox.api_url}/rest/v1/job_queue", headers=headers)
    body = json.loads(answer.text)
    assert "'https://evil.example'" in body["message"] == body["msg"]
    assert "--allow-origin" in body["hint"]


@pytest.mark.parametrize(
    "origin", ["app.test", "https://app.test/", "https://a/b", "*", "null", ""]
)
def test_a_malformed_origin_cannot_be_allowed(origin: str):
    """A malformed origin would never match the header of a browser."""
    with pytest.raises(LocalStackError, match="is not an origin"):
        OriginCheck(Starlette(), pictures="/", allowed_origins=(origin,))
