"""The route /start-generation with a running project."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from picture_queue import AsyncPictureQueue
from picture_queue.settings import ReplicateSettings
from picture_queue.web import WebSettings, create_app
from picture_queue.web.start_generation import _MAX_CALLS, _MAX_USER_CALLS

REPLICATE = ReplicateSettings("r8_test", "http://127.0.0.1:1/v1", webhook_secret="whsec_a2V5")
ORIGIN = "https://app.example.com"


@pytest.fixture
async def user_id(db: Any) -> AsyncIterator[UUID]:
    id_ = uuid4()
    await db.execute("insert into auth.users (id) values ($1)", id_)
    yield id_
    await db.execute("delete from auth.users where id = $1", id_)


@pytest.fixture
def token(stack: Any, user_id: UUID) -> str:
    """The token of a user."""
    return sign(stack, sub=str(user_id))


@pytest.fixture
async def app(stack: Any, service: AsyncPictureQueue) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app in this process."""
    async with client_of(service, jwt_secret=stack.jwt_secret) as http:
        yield http


def client_of(service: AsyncPictureQueue, **settings: Any) -> httpx.AsyncClient:
    app = create_app(service, REPLICATE, settings=WebSettings(**settings))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app.localhost")


def sign(stack: Any, **changes: Any) -> str:
    exp = int(time.time()) + 600
    claims = {"role": "authenticated", "aud": "authenticated", "exp": exp} | changes
    return jwt.encode(claims, stack.jwt_secret, "HS256")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_user_starts_a_generation_and_gets_its_ids(app, service, token, user_id):
    body = {"prompt": "a lighthouse", "model_id": "black-forest-labs/flux-schnell"}
    answer = await app.post("/start-generation", json=body, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"generation_id", "job_id", "status"}
    assert answer.json()["status"] == "pending"
    assert answer.headers["cache-control"] == "no-store"
    generation = await service.generations.get(answer.json()["generation_id"])
    assert (generation.user_id, generation.prompt) == (user_id, "a lighthouse")
    assert str(generation.job_id) == answer.json()["job_id"]
    await service.generations.cancel(generation.id)


async def test_inputs_and_options_reach_the_database(app, service, token):
    body = {
        "prompt": "a boat",
        "model_id": None,
        "input": {"seed": 7},
        "options": {"idempotency_key": uuid4().hex},
    }
    first, second = [
        (await app.post("/start-generation", json=body, headers=bearer(token))).json()
        for _ in range(2)
    ]
    assert first["generation_id"] == second["generation_id"]
    assert (await service.generations.get(first["generation_id"])).input["seed"] == 7
    await service.generations.cancel(first["generation_id"])


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        (b"", 400, "PQ_INVALID_ARGUMENT", "not JSON"),
        (b"{", 400, "PQ_INVALID_ARGUMENT", "not JSON"),
        (b'{"prompt": "\\ud800"}', 400, "PQ_INVALID_ARGUMENT", "not JSON"),
        (b"[" * 100_000, 400, "PQ_INVALID_ARGUMENT", "not JSON"),
        (b"[]", 400, "PQ_INVALID_ARGUMENT", "not a JSON object"),
        (b'{"prompt": 5}', 400, "PQ_INVALID_ARGUMENT", "prompt is not text"),
        (b'{"prompt": "x", "input": []}', 400, "PQ_INVALID_ARGUMENT", "input is not an object"),
        (b'{"promt": "x"}', 400, "PQ_INVALID_ARGUMENT", "promt"),
        (b'{"prompt": "a\\u0000b"}', 400, "PQ_INVALID_ARGUMENT", "prompt"),
        (b'{"prompt": "x", "input": {"seed": NaN}}', 400, "PQ_INVALID_ARGUMENT", "seed"),
        (b'{"prompt": ""}', 422, "PQ_INVALID_INPUT", "prompt"),
        (b"{}", 422, "PQ_INVALID_INPUT", "prompt"),
        (b'{"prompt": "x", "model_id": "nope"}', 404, "PQ_UNKNOWN_MODEL", "nope"),
        (b'{"prompt": "x", "options": {"priority": 9}}', 403, "PQ_NOT_ALLOWED", ""),
        (b'{"prompt": "' + b"x" * 1024 * 1024 + b'"}', 413, "PQ_TOO_LARGE", "larger than"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_invalid_body_is_refused_with_a_code(app, token, body, status, code, text):
    answer = await app.post("/start-generation", content=body, headers=bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert text in answer.text


async def test_a_caller_without_a_valid_token_is_refused_before_the_body_is_read(app, stack, token):
    was_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b"{}"

    for headers in (
        {},
        bearer(stack.service_role_key),
        bearer(stack.anon_key),
        bearer(stack.secret_key),
        {"apikey": stack.service_role_key},
        bearer(sign(stack, aud="other")),
        bearer(token + "x"),
    ):
        answer = await app.post("/start-generation", content=body(), headers=headers)
        assert answer.status_code in (401, 403)
        assert answer.json().keys() == {"error", "code"}
        assert not any(key in answer.text for key in (token, stack.service_role_key))
    assert not was_read
    missing = await app.post("/start-generation", content=body())
    assert missing.headers["www-authenticate"] == "Bearer"


async def test_the_project_checks_the_token_too(app, service, stack, user_id):
    # The app knows the secret of another project.
    secret = "the-secret-of-another-project-32-characters"
    claims = {"role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 60}
    token = jwt.encode({**claims, "sub": str(user_id)}, secret, "HS256")
    async with client_of(service, jwt_secret=secret) as http:
        answer = await http.post("/start-generation", json={"prompt": "x"}, headers=bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (401, "PQ_NOT_AUTHENTICATED")
    assert answer.json().keys() == {"error", "code"}


async def test_an_outage_of_the_project_gets_503_without_its_address(stack, token):
    async with (
        AsyncPictureQueue("http://127.0.0.1:9", stack.service_role_key, timeout=0.5) as service,
        client_of(service, jwt_secret=stack.jwt_secret) as http,
    ):
        answer = await http.post("/start-generation", json={"prompt": "x"}, headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (503, "PQ_BUSY")
        assert "127.0.0.1" not in answer.text
        # The public keys cannot be read either.
        key_token = jwt.encode({}, None, "none", {"kid": "1"})
        head = jwt.utils.base64url_encode(json.dumps({"alg": "ES256", "kid": "1"}).encode())
        unknown = f"{head.decode()}.{key_token.split('.')[1]}.AAAA"
        answer = await http.post("/start-generation", json={}, headers=bearer(unknown))
        assert (answer.status_code, answer.json()["code"]) == (503, "PQ_BUSY")


async def test_a_browser_may_call_the_route_from_any_page_without_cookies(app, token):
    preflight = await app.options(
        "/start-generation",
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-client-info,apikey",
        },
    )
    assert preflight.status_code == 200
    allowed = preflight.headers["access-control-allow-headers"]
    assert set(allowed.split(",")) >= {"authorization", "content-type", "x-client-info", "apikey"}
    for headers in ({}, bearer(token)):
        answer = await app.post("/start-generation", json={}, headers={"Origin": ORIGIN, **headers})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


async def test_only_pages_of_the_allowed_origins_may_call_the_route(service, stack, token):
    async with client_of(service, allowed_origins=[ORIGIN]) as http:
        for origin, expected in ((ORIGIN, ORIGIN), ("https://other.example.com", None)):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            preflight = await http.options("/start-generation", headers=headers)
            assert preflight.status_code == (200 if expected else 400)
            answer = await http.post("/start-generation", headers={"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == expected


async def test_other_methods_and_paths_are_refused_with_json(app, token):
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", "post"):
        headers = {**bearer(token), "X-HTTP-Method-Override": "POST"}
        answer = await app.request(method, "/start-generation", headers=headers)
        if method == "post":  # httpx sends POST
            continue
        assert answer.status_code == 405
        assert method == "HEAD" or answer.json() == {"error": "Method Not Allowed"}
    for path in ("/start-generation/", "/Start-Generation", "//start-generation", "/"):
        answer = await app.post(path, json={"prompt": "x"}, headers=bearer(token))
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    assert (await app.options("/start-generation")).status_code == 204


async def test_the_app_can_be_mounted_below_a_path(service, stack, token):
    inner = create_app(service, REPLICATE, settings=WebSettings(jwt_secret=stack.jwt_secret))
    outer = Starlette(routes=[Mount("/functions/v1", inner)])
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://a.localhost") as http:
        answer = await http.post(
            "/functions/v1/start-generation", json={"prompt": "x"}, headers=bearer(token)
        )
        assert answer.status_code == 200
        await service.generations.cancel(answer.json()["generation_id"])


async def test_without_the_api_there_is_no_route(stack, monkeypatch):
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    async with AsyncPictureQueue(database_url=stack.db_url) as direct, client_of(direct) as http:
        assert (await http.post("/start-generation", json={})).status_code == 404
        assert (await http.get("/readyz")).json() == {"status": "ready"}


async def test_a_user_with_many_calls_does_not_delay_other_users(stack, app, monkeypatch):
    released, called = asyncio.Event(), asyncio.Queue[str]()

    def as_user(_: Any, token: str) -> Any:
        async def call(*_: Any) -> dict[str, str]:
            called.put_nowait(token)
            await released.wait()
            return {"status": "pending"}

        return SimpleNamespace(_backend=SimpleNamespace(call=call))

    monkeypatch.setattr(AsyncPictureQueue, "as_user", as_user)
    busy, other = (sign(stack, sub=str(uuid4())) for _ in "ab")

    def start(token: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(
            app.post("/start-generation", json={"prompt": "x"}, headers=bearer(token))
        )

    accepted = [start(busy) for _ in range(_MAX_USER_CALLS)]
    async with asyncio.timeout(30):
        assert {await called.get() for _ in accepted} == {busy}
        refused = [await start(busy) for _ in range(_MAX_CALLS)]
        assert {answer.status_code for answer in refused} == {429}
        assert refused[0].json()["code"] == "PQ_RATE_LIMITED"
        assert refused[0].headers["retry-after"] == "1"
        accepted.append(start(other))
        assert await called.get() == other
        released.set()
        assert {(await answer).status_code for answer in accepted} == {200}
        # The slots of finished calls are free again.
        assert (await start(busy)).status_code == 200
