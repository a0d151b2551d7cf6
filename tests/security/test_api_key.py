"""Every service of the local stack requires one of its API keys; a user's token is not enough.

Without this check, any user of the machine and any program that can connect to 127.0.0.1 could
sign up.
"""

import asyncio
import os
import subprocess
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import jwt
import pytest
import websockets

from tests.security.realtime_socket import open_socket
from tests.security.sample_project import SampleProject, owner_image_path

NO_KEY = {
    "message": "No API key found in request",
    "hint": "No `apikey` request header or url param was found.",
}
PASSWORD = "correct horse battery"
KEYS = ("publishable_key", "secret_key", "anon_key", "service_role_key")
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


def account() -> dict[str, str]:
    return {"email": f"{uuid4().hex}@example.com", "password": PASSWORD}


def requests(project: SampleProject) -> list[tuple[str, str, Any]]:
    """Return method, URL and body of requests that are refused without an API key."""
    name = owner_image_path(project)
    return [
        ("POST", "/auth/v1/signup", account()),
        ("POST", "/auth/v1/token?grant_type=password", account()),
        ("POST", "/auth/v1/token?grant_type=refresh_token", {"refresh_token": "x"}),
        ("GET", "/auth/v1/user", None),
        ("PUT", "/auth/v1/user", {"data": {"name": "Eve"}}),
        ("POST", "/auth/v1/logout", None),
        ("GET", "/auth/v1/settings", None),
        ("GET", "/auth/v1/admin/users", None),
        ("POST", "/auth/v1/admin/users", account()),
        ("POST", "/auth/v1/otp", account()),
        ("GET", "/auth/v1/nothing", None),
        ("GET", "/rest/v1/", None),
        ("GET", "/rest/v1/job_queue", None),
        ("OPTIONS", "/rest/v1/job_queue", None),
        ("POST", "/rest/v1/rpc/start_generation", {"prompt": "a cat"}),
        ("POST", "/rest/v1/rpc/list_jobs", {}),
        ("POST", "/realtime/v1/api/broadcast", {"messages": []}),
        ("POST", "/realtime/v1/api/broadcast/room/events/x", {}),
        ("GET", "/storage/v1/bucket", None),
        ("POST", "/storage/v1/object/list/pictures", {"prefix": ""}),
        ("GET", f"/storage/v1/object/pictures/{name}", None),
        ("GET", f"/storage/v1/object/authenticated/pictures/{name}", None),
        ("GET", f"/storage/v1/object/info/pictures/{name}", None),
        ("POST", f"/storage/v1/object/sign/pictures/{name}", {"expiresIn": 60}),
    ]


def bad_keys(project: SampleProject, sandbox: Any) -> list[str]:
    """Return tokens and other texts that are not API keys of this stack."""
    claims = {"iss": "supabase-demo", "role": "anon", "exp": 4102444800}
    return [
        "x",
        "ü",
        "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH",  # Every `supabase start` has this key.
        sandbox.publishable_key[:-1],
        sandbox.publishable_key + "x",
        sandbox.anon_key.rpartition(".")[0] + ".",
        project.tokens["owner"],
        jwt.encode(claims, "another-secret-of-at-least-32-characters"),
        # The signature is valid, but the stack did not issue this token as a key.
        jwt.encode(claims, sandbox.jwt_secret),
    ]


async def test_the_token_of_a_user_alone_is_refused(project: SampleProject):
    bearer = {"authorization": f"Bearer {project.tokens['owner']}"}
    for method, url, body in requests(project):
        answer = await project.http.request(method, url, headers=bearer, json=body)
        assert (answer.status_code, answer.json()) == (401, NO_KEY), (method, url)
        assert "www-authenticate" in answer.headers


async def test_requests_without_key_and_token_are_refused(project: SampleProject):
    for method, url, body in requests(project):
        answer = await project.http.request(method, url, json=body)
        if url.startswith("/storage/"):  # The Storage server has its own error format.
            assert answer.status_code == 400, (method, url)
        else:
            assert (answer.status_code, answer.json()) == (401, NO_KEY), (method, url)


async def test_keys_of_other_stacks_and_malformed_keys_are_refused(
    project: SampleProject, sandbox: Any
):
    bearer = {"authorization": f"Bearer {project.tokens['owner']}"}
    for key in bad_keys(project, sandbox):
        for extra in ({}, bearer, {"authorization": f"Bearer {key}".encode()}):
            headers = httpx.Headers({"apikey": key.encode(), **extra})
            for method, url, body in requests(project):
                answer = await project.http.request(method, url, headers=headers, json=body)
                assert answer.status_code == 401, (key, method, url)
                assert answer.json()["message"] == "Invalid API key"
        for method, url, body in requests(project):
            url_with_key = httpx.URL(url).copy_merge_params({"apikey": key})
            answer = await project.http.request(method, url_with_key, headers=bearer, json=body)
            assert (answer.status_code, answer.json()["message"]) == (401, "Invalid API key")


async def test_two_keys_in_a_request_are_refused(project: SampleProject, sandbox: Any):
    # The gateway and a service might each read a different one of the two keys.
    pairs = [("apikey", sandbox.publishable_key), ("apikey", sandbox.secret_key)]
    for method, url, body in requests(project):
        answer = await project.http.request(method, url, headers=pairs, json=body)
        assert (answer.status_code, answer.json()["message"]) == (401, "Duplicate API key found")
    answer = await project.http.get("/rest/v1/job_queue", params=pairs)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "url",
    [
        "//auth/v1/signup",
        "/auth/v1//signup",
        "/auth/v1/verify/../signup",
        "/auth/v1/health/../signup",
        "/auth/v1/.well-known/jwks.json/../../signup",
        "/auth/v1/callback%2f..%2fsignup",
        "/%61uth/v1/signup",
        "/auth%2fv1/signup",
        "/AUTH/v1/signup",
        "/auth/v1/signup/",
        "/rest/v1/../../auth/v1/signup",
        "/storage/v1/object/public/../../../../auth/v1/signup",
    ],
)
async def test_unusual_spellings_of_a_path_do_not_bypass_the_check(sandbox: Any, url: str):
    address = urlsplit(sandbox.api_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = b'{"email": "eve@example.com", "password": "correct horse battery"}'
    head = f"POST {url} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    assert int(answer.split()[1]) in (400, 401, 404, 405, 501), answer
    assert b"access_token" not in answer


@pytest.mark.parametrize("key", KEYS)
async def test_each_key_is_accepted_in_each_header_and_in_the_query(
    project: SampleProject, sandbox: Any, key: str
):
    value = getattr(sandbox, key)
    for credentials in (
        {"headers": {"apikey": value}},
        {"headers": {"apiKey": value, "authorization": f"Bearer {value}"}},
        {"headers": {"authorization": f"Bearer {value}"}},
        {"params": {"apikey": value}},
    ):
        answer = await project.http.post("/auth/v1/signup", json=account(), **credentials)
        assert answer.status_code == 200, answer.text
        answer = await project.http.get("/rest/v1/", **credentials)
        assert answer.status_code == 200, answer.text
        answer = await project.http.get("/storage/v1/bucket", **credentials)
        assert answer.status_code == 200, answer.text
        url = "/realtime/v1/api/broadcast"
        answer = await project.http.post(url, json={"messages": []}, **credentials)
        assert answer.status_code == 202, answer.text
        answer = await project.http.get("/auth/v1/admin/users", **credentials)
        is_service = key in ("secret_key", "service_role_key")
        assert answer.status_code == (200 if is_service else 403), answer.text


async def test_public_endpoints_and_signed_urls_need_no_key(project: SampleProject, sandbox: Any):
    for url, status in (
        ("/auth/v1/health", 200),
        ("/auth/v1/.well-known/jwks.json", 200),
        ("/auth/v1/verify", 501),
        ("/auth/v1/callback", 501),
        ("/auth/v1/authorize", 501),
        ("/storage/v1/status", 200),
        ("/storage/v1/object/public/nothing/a.png", 400),
    ):
        answer = await project.http.get(url)
        assert answer.status_code == status, (url, answer.text)
    bucket, key = f"open-{project.queue}", {"apikey": sandbox.secret_key}
    definition = {"name": bucket, "public": True}
    created = await project.http.post("/storage/v1/bucket", json=definition, headers=key)
    assert created.status_code == 200
    png = {"content": b"png", "headers": {**key, "content-type": "image/png"}}
    assert (await project.http.post(f"/storage/v1/object/{bucket}/a", **png)).status_code == 200
    for url in (f"/storage/v1/object/public/{bucket}/a", f"/storage/v1/object/{bucket}/a"):
        assert (await project.http.get(url)).content == b"png"
    sign = {"json": {"expiresIn": 60}, "headers": key}
    signed = await project.http.post(f"/storage/v1/object/sign/{bucket}/a", **sign)
    answer = await project.http.get("/storage/v1" + signed.json()["signedURL"])
    assert answer.content == b"png"
    signed = await project.http.post(f"/storage/v1/object/upload/sign/{bucket}/b", headers=key)
    answer = await project.http.put("/storage/v1" + signed.json()["url"], content=b"png")
    assert answer.status_code == 200


async def test_a_socket_without_a_key_is_refused(project: SampleProject, sandbox: Any):
    url = sandbox.api_url.replace("http", "ws", 1) + "/realtime/v1/websocket?vsn=1.0.0"
    for key in ("", *bad_keys(project, sandbox)):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with open_socket(sandbox.api_url, key):
                pass
        assert refused.value.response.status_code == 401
    bearer = {"authorization": f"Bearer {project.tokens['owner']}"}
    for headers in ({}, bearer, {"apikey": project.tokens["owner"]}):
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websockets.connect(url, additional_headers=headers):
                pass
        assert refused.value.response.status_code == 401
    async with websockets.connect(url, additional_headers={"apikey": sandbox.anon_key}):
        pass


async def test_a_sql_function_cannot_read_the_api_key(
    project: SampleProject, sandbox: Any, admin: Any
):
    """A function can read the headers of the request that calls it, but not the API key."""
    await admin.execute(
        "create function public.request_headers() returns json language sql as"
        " $$ select current_setting('request.headers')::json $$;"
        "grant execute on function public.request_headers() to anon, service_role;"
        "notify pgrst, 'reload schema'"
    )
    try:
        key = {"apikey": sandbox.secret_key}
        async with asyncio.timeout(15):
            while (
                await project.http.post("/rest/v1/rpc/request_headers", headers=key)
            ).status_code == 404:
                pass  # Wait until PostgREST knows the new function.
        for credentials in ({"headers": key}, {"params": key}):
            answer = await project.http.post("/rest/v1/rpc/request_headers", **credentials)
            assert answer.status_code == 200 and "host" in answer.json()
            assert sandbox.secret_key not in answer.text and "apikey" not in answer.json()
    finally:
        await admin.execute("drop function public.request_headers(); notify pgrst, 'reload schema'")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user of the machine")
async def test_another_user_of_the_machine_cannot_start_a_generation(sandbox: Any):
    """The other user tries to sign up and to start a generation that the stack's owner pays for."""
    script = (
        "import json, sys, urllib.request as r\n"
        "def post(path, body, **headers):\n"
        "    data, headers = json.dumps(body).encode(), headers | {'content-type':"
        " 'application/json'}\n"
        "    try:\n"
        "        return r.urlopen(r.Request(sys.argv[1] + path, data, headers)).read()\n"
        "    except r.HTTPError as error:\n"
        "        return error.read()\n"
        "account = {'email': 'eve@example.com', 'password': 'correct horse battery'}\n"
        "print(post('/auth/v1/signup', account).decode())\n"
        "print(post('/rest/v1/rpc/start_generation', {'prompt': 'a cat'}).decode())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        ["/usr/bin/env", "python3", "-c", script, sandbox.api_url],
        capture_output=True, text=True, cwd="/", env={"PATH": "/usr/bin:/bin"}, **NOBODY,
    )  # fmt: skip
    refusals = done.stdout.splitlines()
    assert [NO_KEY["message"] in line for line in refusals] == [True, True], done.stderr
