"""The gateway: requests to PostgREST, checks of keys and tokens, CORS and fault switches."""

import asyncio
import time
from uuid import uuid4

import httpx
import jwt
import pytest
from postgrest import APIError
from supabase import AsyncClientOptions, ClientOptions, acreate_client, create_client

ENQUEUE = "/rest/v1/rpc/enqueue_job"


@pytest.fixture
async def api(stack):
    async with httpx.AsyncClient(base_url=stack.api_url, timeout=20) as http:
        yield http


@pytest.fixture
async def switches(stack, api):
    """Return a function that sets fault switches. They are off again after the test."""

    async def change(**values):
        headers = {"apikey": stack.secret_key}
        answer = await api.post("/_faults", json=values, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    yield change
    await api.delete("/_faults", headers={"apikey": stack.service_role_key})


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("key", ["service_role_key", "secret_key"])
async def test_both_kinds_of_service_keys_can_call_a_function(stack, key):
    async with httpx.AsyncClient(timeout=20) as http:
        options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False)
        client = await acreate_client(stack.api_url, getattr(stack, key), options)
        version = (await client.rpc("picture_queue_version").execute()).data
        assert version["contract"] >= 1


@pytest.mark.parametrize("key", ["anon_key", "publishable_key"])
def test_both_kinds_of_public_keys_have_the_role_anon(stack, key):
    with httpx.Client(timeout=20) as http:
        options = ClientOptions(httpx_client=http, auto_refresh_token=False)
        client = create_client(stack.api_url, getattr(stack, key), options)
        with pytest.raises(APIError) as refused:
            client.rpc("claim_next_job").execute()
        assert refused.value.code == "42501"


@pytest.mark.parametrize(
    ("create_token", "code", "message"),
    [
        (lambda _: "nonsense", "PGRST301", "Expected 3 parts in JWT; got 1"),
        (
            lambda stack: jwt.encode({"role": "anon"}, stack.jwt_secret + "x"),
            "PGRST301",
            "No suitable key or wrong key type",
        ),
        (lambda stack: token(stack, exp=int(time.time()) - 60), "PGRST303", "JWT expired"),
    ],
    ids=["nonsense", "forged", "expired"],
)
async def test_a_request_with_an_invalid_token_is_refused(stack, api, create_token, code, message):
    headers = {"apikey": stack.publishable_key, **bearer(create_token(stack))}
    answer = await api.post("/rest/v1/rpc/picture_queue_version", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.json()["message"] == message
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("role", ["postgres", "supabase_admin", "supabase_auth_admin"])
async def test_a_token_with_a_role_outside_the_api_is_refused(stack, api, role):
    headers = {"apikey": stack.anon_key, **bearer(token(stack, role=role))}
    answer = await api.post("/rest/v1/rpc/picture_queue_version", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")
    assert answer.json()["message"] == f'permission denied to set role "{role}"'


def token(stack, **claims):
    claims = {"role": "authenticated", "sub": str(uuid4()), "exp": 1983812996, **claims}
    return jwt.encode(claims, stack.jwt_secret, algorithm="HS256")


async def test_the_token_of_a_user_overrides_the_key(stack, api):
    user = str(uuid4())
    headers = {"apikey": stack.secret_key, **bearer(token(stack, sub=user))}
    answer = await api.post("/rest/v1/rpc/claim_next_job", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "42501")


async def test_answers_of_postgrest_are_forwarded_unchanged(stack, api):
    headers = bearer(stack.secret_key)
    answer = await api.get("/rest/v1/job_queue?select=id&limit=0", headers=headers)
    assert (answer.status_code, answer.json()) == (200, [])
    assert answer.headers["content-range"] == "*/*"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert len(answer.headers.get_list("date")) == 1
    answer = await api.head("/rest/v1/job_queue", headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    answer = await api.get("/rest/v1/nothing", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "42P01")
    assert (await api.get("/rest/v1/", headers=headers)).status_code == 200


@pytest.mark.parametrize("limit", ["limit", "lim%69t"])
async def test_the_limit_parameter_of_a_delete_is_ignored_as_on_the_platform(stack, api, db, limit):
    await db.execute("create table public.limited (n int); insert into limited values (1), (2)")
    await db.execute("grant all on public.limited to service_role; notify pgrst, 'reload schema'")
    headers = {**bearer(stack.secret_key), "Prefer": "return=representation"}
    path = f"/rest/v1/limited?n=gt.0&order=n&{limit}=1"
    try:
        async with asyncio.timeout(15):
            while (await api.get(path, headers=headers)).status_code == 404:
                pass  # wait until PostgREST knows the new table
        assert len((await api.get(path, headers=headers)).json()) == 1
        assert (await api.delete(path, headers=headers)).json() == [{"n": 1}, {"n": 2}]
    finally:
        await db.execute("drop table public.limited")


async def test_large_bodies_are_streamed_in_both_directions(stack, api):
    headers = bearer(stack.secret_key)

    async def json_pieces():
        yield b'{"jobs": ['
        for n in range(400):
            job = f'{{"job_type": "t", "queue": "{uuid4()}", "payload": {{"x": "{"x" * 20_000}"}}}}'
            yield ("," if n else "").encode() + job.encode()
        yield b"]}"

    headers["Content-Type"] = "application/json"
    answer = await api.post("/rest/v1/rpc/enqueue_jobs", content=json_pieces(), headers=headers)
    assert answer.status_code == 200, answer.text
    ids = [job["job_id"] for job in answer.json()]
    assert len(ids) == 400
    query = "/rest/v1/job_queue?select=payload&limit=400&order=seq.desc"
    jobs = (await api.get(query, headers=headers)).json()
    assert [len(job["payload"]["x"]) for job in jobs] == [20_000] * 400


async def test_concurrent_requests_share_connections(stack, api):
    headers = bearer(stack.secret_key)
    calls = [
        api.post("/rest/v1/rpc/picture_queue_version", json={}, headers=headers),
        api.head("/rest/v1/job_queue", headers=headers),
        api.get("/rest/v1/nothing", headers=headers),
    ] * 20
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200, 200, 404] * 20


async def test_a_fault_loses_the_response_after_the_commit(stack, api, switches):
    await switches(cut_after_commit=1, path=ENQUEUE)
    job_id = str(uuid4())
    body = {"job_type": "t", "queue": f"q-{job_id}", "job_id": job_id}
    headers = bearer(stack.secret_key)
    with pytest.raises(httpx.RemoteProtocolError):
        await api.post(ENQUEUE, json=body, headers=headers)
    answer = await api.post("/rest/v1/rpc/get_job", json={"job_id": job_id}, headers=headers)
    assert answer.json()["status"] == "pending"
    assert (await api.post(ENQUEUE, json=body, headers=headers)).json() == job_id


async def test_a_fault_answers_503_for_a_path_and_a_number_of_times(stack, api, switches):
    assert (await switches(answer_503=2, path="/rest/v1/rpc/get_job"))["answer_503"] == 2
    headers = bearer(stack.secret_key)
    for path, status in (("list_jobs", 200), ("get_job", 503), ("get_job", 503), ("get_job", 404)):
        body = {"job_id": str(uuid4())} if path == "get_job" else {"filter": {}}
        answer = await api.post(f"/rest/v1/rpc/{path}", json=body, headers=headers)
        assert answer.status_code == status


async def test_only_a_service_key_can_set_faults(stack, api):
    for headers in ({}, {"apikey": stack.anon_key}, bearer(stack.publishable_key)):
        assert (await api.get("/_faults", headers=headers)).status_code == 403
    headers = bearer(stack.service_role_key)
    assert (await api.get("/_faults", headers=headers)).json()["network_cut"] is False
    for body in ({"unknown": 1}, {"answer_503": True}, {"network_cut": 1}, {"path": 1}, []):
        assert (await api.post("/_faults", json=body, headers=headers)).status_code == 400
    for body in ({"drop_messages": -1}, {"answer_503": 10_001}, {"path": "/" * 10_001}):
        assert (await api.post("/_faults", json=body, headers=headers)).status_code == 400
    headers["content-type"] = "application/json; charset=utf-8"
    for text in ("{", "[" * 5000, '{"path": "\\ud800"}', '{"delay_seconds": NaN}'):
        assert (await api.post("/_faults", content=text, headers=headers)).status_code == 400


async def test_cors_requests_of_browsers_are_permitted(stack, api):
    preflight = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "apikey,authorization,x-client-info",
    }
    for path in (ENQUEUE, "/storage/v1/object/a/b", "/auth/v1/token"):
        answer = await api.options(path, headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "apikey" in answer.headers["access-control-allow-headers"]
    origin = {"Origin": "http://localhost:3000", **bearer(stack.secret_key)}
    answer = await api.get("/rest/v1/job_queue?limit=0", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Content-Range" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("path", "feature"),
    [
        ("/functions/v1/hello", "Edge Functions"),
        ("/graphql/v1", "GraphQL"),
        ("/pg/tables", "postgres-meta"),
        ("/auth/v1/authorize?provider=github", "OAuth"),
        ("/auth/v1/factors", "multi-factor"),
        ("/realtime/v1/api/tenants", "tenant"),
    ],
)
async def test_unsupported_services_answer_501_and_name_the_feature(stack, api, path, feature):
    answer = await api.post(path, headers={"apikey": stack.publishable_key})
    assert answer.status_code == 501
    assert feature in answer.json()["message"]


@pytest.mark.parametrize("path", ["/", "/nothing", "/rest", "/rest/v2/x", "/auth/v1/nothing"])
async def test_unknown_paths_get_a_json_error(stack, api, path):
    answer = await api.get(path, headers={"apikey": stack.publishable_key})
    assert (answer.status_code, "no Route matched" in answer.json()["message"]) == (404, True)
