"""Pages of another site, in a real browser, cannot use a running stack."""

import json
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import jwt
import pytest

from picture_queue.local.stack import LocalSupabase

from .conftest import Chromium

pytestmark = [pytest.mark.extra, pytest.mark.timeout(180)]

# The test browser resolves this name to loopback, where the attacker's page and the stack run.
FOREIGN_HOST = "evil.example"
# Returns the parts of a response that the page can read, or the error.
FETCH = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return { type: answer.type, status: answer.status, body: await answer.text() };
  } catch (error) { return { error: String(error) }; }
}"""
# Opens a WebSocket and sends a frame. Returns the received frames.
SOCKET = """async ([url, frame]) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  const received = [];
  socket.onopen = () => socket.send(frame);
  socket.onmessage = ({ data }) => { received.push(data); socket.close(); };
  socket.onclose = () => resolve(received);
})"""
# Submits a form with a field, as text.
FORM = """([url, name, value]) => {
  const form = document.createElement("form");
  Object.assign(form, { action: url, method: "POST", enctype: "text/plain" });
  form.append(Object.assign(document.createElement("input"), { name, value }));
  document.body.append(form);
  setTimeout(() => form.submit());
}"""
# Loads an image. Returns its width, or 0 after an error.
LOAD_IMAGE = """(url) => new Promise((resolve) => {
  const picture = new Image();
  picture.onload = () => resolve(picture.naturalWidth);
  picture.onerror = () => resolve(0);
  picture.src = url;
})"""


@pytest.fixture(scope="module")
def target_stack() -> Iterator[LocalSupabase]:
    """A stack for these tests only."""
    with LocalSupabase() as stack:
        yield stack


@pytest.fixture(scope="module")
def browser(node: str, node_modules: Path, chromium: str) -> Iterator[Chromium]:
    """A browser that resolves the attacker's name to loopback."""
    driver = Path(__file__).parent / "driver.mjs"
    rules = f"--host-resolver-rules=MAP {FOREIGN_HOST} 127.0.0.1"
    chromium_browser = Chromium([node, str(driver), str(node_modules), chromium, rules])
    try:
        yield chromium_browser
    finally:
        chromium_browser.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server on loopback that serves an empty page for any host name."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>page</title><body></body>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


class BrowserPage:
    """A page in the browser."""

    def __init__(self, browser: Chromium) -> None:
        self._browser = browser

    async def open(self, url: str) -> "BrowserPage":
        await self._browser.call("driver", "open", {})
        await self._browser.call("page", "goto", url)
        return self

    async def page(self, method: str, *arguments: Any) -> Any:
        return await self._browser.call("page", method, *arguments)

    async def run(self, script: str, *arguments: Any) -> Any:
        return await self._browser.call("page", "evaluate", f"({script})({json.dumps(*arguments)})")

    async def fetch(self, url: str, **options: Any) -> dict[str, Any]:
        response: dict[str, Any] = await self.run(FETCH, [url, options])
        return response


@pytest.fixture
async def foreign_page(browser: Chromium, port: int) -> BrowserPage:
    return await BrowserPage(browser).open(f"http://{FOREIGN_HOST}:{port}/")


@pytest.fixture
async def unchanged(target_stack: Any) -> AsyncIterator[None]:
    """Check that the test changes no job, no user and no fault switch."""

    async def state() -> Any:
        sql = await asyncpg.connect(target_stack.db_url, timeout=10)
        counts = await sql.fetchrow(
            "select (select count(*) from job_queue), (select count(*) from auth.users)"
        )
        await sql.close()
        key = {"apikey": target_stack.secret_key}
        simulator = target_stack.replicate_url.removesuffix("/v1") + "/_simulator/faults"
        async with httpx.AsyncClient(headers=key) as http:
            switches = (await http.get(f"{target_stack.api_url}/_faults")).json()
            return tuple(counts or ()), switches, (await http.get(simulator)).json()

    before = await state()
    yield
    assert await state() == before


def list_requests(stack: Any) -> list[tuple[str, str, dict[str, str], Any]]:
    """Return method, address, headers and body of requests that change or read data with a key."""
    api, simulator = stack.api_url, stack.replicate_url.removesuffix("/v1")
    secret = {"apikey": stack.secret_key, "content-type": "application/json"}
    service = {
        "apikey": stack.service_role_key,
        "authorization": f"Bearer {stack.service_role_key}",
        "content-type": "application/json",
    }
    user = {"email": "evil@example.com", "password": "correct horse battery"}
    return [
        ("POST", f"{api}/rest/v1/rpc/enqueue_job", secret, {"job_type": "evil"}),
        ("POST", f"{api}/rest/v1/rpc/enqueue_job", service, {"job_type": "evil"}),
        ("GET", f"{api}/rest/v1/job_queue", service, None),
        ("POST", f"{api}/auth/v1/admin/users", service, user),
        ("POST", f"{api}/auth/v1/signup", {"apikey": stack.publishable_key}, user),
        ("POST", f"{api}/_faults", secret, {"network_cut": True}),
        ("POST", f"{simulator}/_simulator/faults", secret, {"kind": "fail"}),
        ("POST", f"{simulator}/_simulator/reset", secret, None),
        ("GET", f"{api}/storage/v1/bucket", service, None),
    ]


async def test_requests_of_a_foreign_page_with_all_keys_fail(
    foreign_page: BrowserPage, target_stack: Any, unchanged: None
):
    for method, url, headers, body in list_requests(target_stack):
        for mode in ("cors", "no-cors"):
            options: dict[str, Any] = {"method": method, "headers": headers, "mode": mode}
            if body is not None:
                options["body"] = json.dumps(body)
            response = await foreign_page.fetch(url, **options)
            # The browser gives the page no response, or an opaque response.
            assert response.get("error") or response["type"] == "opaque", (url, mode, response)
            assert not response.get("body"), (url, mode, response)


async def test_a_foreign_page_cannot_change_a_fault_switch(
    foreign_page: BrowserPage, target_stack: Any, unchanged: None
):
    """Send simple requests and forms; a browser sends no preflight request before these."""
    simulator = target_stack.replicate_url.removesuffix("/v1")
    for url, text in (
        (f"{target_stack.api_url}/_faults", '{"network_cut":true}'),
        (f"{simulator}/_simulator/faults", '{"kind":"fail"}'),
        (f"{simulator}/_simulator/reset", ""),
    ):
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            await foreign_page.fetch(
                url, method="POST", mode="no-cors", headers={"content-type": kind}, body=text
            )
        await foreign_page.run(FORM, [url, text[:-1] + ',"a":"', '"}'])
        await foreign_page.page("waitForURL", url)
        await foreign_page.page("goBack")


async def test_a_foreign_page_cannot_join_a_topic(foreign_page: BrowserPage, target_stack: Any):
    url = target_stack.api_url.replace("http", "ws", 1) + "/realtime/v1/websocket"
    for key in (
        target_stack.secret_key,
        target_stack.service_role_key,
        target_stack.publishable_key,
    ):
        payload = {"config": {"private": True}, "access_token": target_stack.service_role_key}
        frame = {"topic": "realtime:pq:queue:default", "event": "phx_join", "ref": "1"}
        text = json.dumps(frame | {"payload": payload})
        assert await foreign_page.run(SOCKET, [f"{url}?apikey={key}&vsn=1.0.0", text]) == []


async def test_requests_with_dns_rebinding_fail(
    browser: Chromium, target_stack: Any, unchanged: None
):
    """To the browser, the page and the stack have the same origin."""
    port = urlsplit(target_stack.api_url).port
    page = await BrowserPage(browser).open(f"http://{FOREIGN_HOST}:{port}/")
    for method, url, headers, body in list_requests(target_stack):
        if urlsplit(url).port != port:
            continue
        options: dict[str, Any] = {"method": method, "headers": headers}
        if body is not None:
            options["body"] = json.dumps(body)
        response = await page.fetch(url.replace("127.0.0.1", FOREIGN_HOST), **options)
        assert response["status"] == 403 and "foreign_page" in response["body"], (url, response)
    query = f"apikey={target_stack.secret_key}&vsn=1.0.0"
    url = f"ws://{FOREIGN_HOST}:{port}/realtime/v1/websocket?{query}"
    assert await page.run(SOCKET, [url, "{}"]) == []


async def test_requests_of_a_sandboxed_frame_fail(
    foreign_page: BrowserPage, target_stack: Any, unchanged: None
):
    """A sandboxed frame sends `Origin: null`."""
    script = """([url, key]) => new Promise((resolve) => {
      const frame = document.createElement("iframe");
      frame.sandbox = "allow-scripts";
      frame.srcdoc = `<script>fetch(${JSON.stringify(url)}, {
        method: "POST", body: '{"job_type": "evil"}',
        headers: { apikey: ${JSON.stringify(key)}, "content-type": "application/json" } })
        .then((answer) => answer.text()).catch(() => "")
        .then((text) => parent.postMessage(text, "*"))</` + "script>";
      addEventListener("message", ({ data }) => resolve(data), { once: true });
      document.body.append(frame);
    })"""
    url = f"{target_stack.api_url}/rest/v1/rpc/enqueue_job"
    assert await foreign_page.run(script, [url, target_stack.secret_key]) == ""


async def test_requests_of_a_local_page_without_a_key_fail(
    browser: Chromium, target_stack: Any, port: int, unchanged: None
):
    """Another user of the machine, or another local program, can serve such a page."""
    page = await BrowserPage(browser).open(f"http://localhost:{port}/")
    account = {"email": "eve@example.com", "password": "correct horse battery"}
    claims = {"sub": "00000000-0000-4000-8000-000000000000", "role": "authenticated"}
    token = jwt.encode(claims, target_stack.jwt_secret)  # signed, but without a session
    json_body, bearer = {"content-type": "application/json"}, {"authorization": f"Bearer {token}"}
    for path, body in (
        ("/auth/v1/signup", account),
        ("/auth/v1/token?grant_type=password", account),
        ("/auth/v1/admin/users", account),
        ("/rest/v1/rpc/start_generation", {"prompt": "a cat"}),
        ("/realtime/v1/api/broadcast", {"messages": []}),
        ("/storage/v1/object/list/pictures", {"prefix": ""}),
    ):
        for headers in (
            json_body,
            {**json_body, **bearer},
            {**json_body, **bearer, "apikey": token},
        ):
            response = await page.fetch(
                target_stack.api_url + path, method="POST", headers=headers, body=json.dumps(body)
            )
            expected = 400 if headers is json_body and path.startswith("/storage/") else 401
            assert response["status"] == expected, (path, headers, response)
        text = {"content-type": "text/plain"}
        await page.fetch(
            target_stack.api_url + path,
            method="POST",
            mode="no-cors",
            headers=text,
            body=json.dumps(body),
        )
    url = target_stack.api_url.replace("http", "ws", 1) + "/realtime/v1/websocket?vsn=1.0.0"
    payload = {"config": {"private": False}, "access_token": token}
    frame = {"topic": "realtime:room", "event": "phx_join", "ref": "1", "payload": payload}
    for key in ("", f"&apikey={token}"):
        assert await page.run(SOCKET, [url + key, json.dumps(frame)]) == []
    simulator = f"{target_stack.replicate_url}/predictions"
    headers = {"authorization": "Bearer r8_simulator"}
    assert (await page.fetch(simulator, headers=headers)).get("status") in (None, 401)


@pytest.mark.parametrize("page_host", ["localhost", "127.0.0.1", "app.localhost"])
@pytest.mark.parametrize("api_host", ["localhost", "127.0.0.1"])
async def test_a_local_page_with_the_publishable_key_works(
    browser: Chromium, target_stack: Any, port: int, page_host: str, api_host: str
):
    """Sign up, generate an image, follow the user's topic, and show a stored image."""
    page = await BrowserPage(browser).open(f"http://{page_host}:{port}/")
    api = target_stack.api_url.replace("127.0.0.1", api_host)
    key = {"apikey": target_stack.publishable_key, "content-type": "application/json"}
    account = {"email": f"{page_host}-{api_host}@example.com", "password": "correct horse battery"}
    signed_up = await page.fetch(
        f"{api}/auth/v1/signup", method="POST", headers=key, body=json.dumps(account)
    )
    session = json.loads(signed_up["body"])
    user = key | {"authorization": f"Bearer {session['access_token']}"}
    started = await page.fetch(
        f"{api}/rest/v1/rpc/start_generation",
        method="POST",
        headers=user,
        body=json.dumps({"prompt": "a cat"}),
    )
    assert started["status"] == 200
    payload = {"config": {"private": True}, "access_token": session["access_token"]}
    topic = f"realtime:pq:user:{session['user']['id']}"
    frame = json.dumps({"topic": topic, "event": "phx_join", "ref": "1", "payload": payload})
    url = f"{api.replace('http', 'ws', 1)}/realtime/v1/websocket?apikey={key['apikey']}&vsn=1.0.0"
    (reply,) = await page.run(SOCKET, [url, frame])
    assert json.loads(reply)["payload"]["status"] == "ok"
    picture = f"{api}/storage/v1/object/pictures/{session['user']['id']}/1.svg"
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"><rect/></svg>'
    secret = {
        "apikey": target_stack.secret_key,
        "content-type": "image/svg+xml",
        "x-upsert": "true",
    }
    async with httpx.AsyncClient() as http:
        (await http.post(picture, content=svg, headers=secret)).raise_for_status()
    signed = await page.fetch(
        picture.replace("/object/", "/object/sign/"),
        method="POST",
        headers=user,
        body=json.dumps({"expiresIn": 60}),
    )
    signed_url = f"{api}/storage/v1{json.loads(signed['body'])['signedURL']}"
    assert await page.run(LOAD_IMAGE, signed_url) == 7  # the width of the SVG


async def test_an_opened_svg_runs_no_script(browser: Chromium, target_stack: Any):
    url = f"{target_stack.api_url}/storage/v1/object/pictures/nobody/script.svg"
    secret = {
        "apikey": target_stack.secret_key,
        "content-type": "image/svg+xml",
        "x-upsert": "true",
    }
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg"><script>document.documentElement.setAttribute('
        '"data-ran", location.origin)</script></svg>'
    )
    async with httpx.AsyncClient(headers=secret) as http:
        (await http.post(url, content=svg)).raise_for_status()
        signed = await http.post(
            url.replace("/object/", "/object/sign/"),
            json={"expiresIn": 60},
            headers={"content-type": "application/json"},
        )
    await browser.call("driver", "open", {})
    await browser.call(
        "page", "goto", f"{target_stack.api_url}/storage/v1{signed.json()['signedURL']}"
    )
    script_result = "document.documentElement.getAttribute('data-ran')"
    assert await browser.call("page", "evaluate", script_result) is None
    assert await browser.call("page", "evaluate", "self.origin") == "null"
