"""The client understands the recorded answers of PostgREST 14 and 16.

The embedded PostgREST is version 12. The recordings in `tests/fixtures/postgrest` are from version
14.12, which Supabase runs, and the fields `v16` from 16.2. The tests use the real supabase
client with a mock of the server.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from supabase import AsyncClientOptions, acreate_client

from picture_queue import AsyncPictureQueue, _rpc, errors
from picture_queue._rpc import Rpc
from picture_queue._transport.base import RETRY_POLICY, Deadline
from picture_queue._transport.errors import FunctionMissing
from picture_queue._transport.postgrest import AsyncPostgrest
from picture_queue.settings import ProjectSettings

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "postgrest" / "recordings.json"
URL, KEY = "https://project.supabase.co", "sb_secret_key"

# The expected error by code, or by the beginning of a code. The longest match decides.
EXPECTED: dict[str, type[Exception]] = {
    "": errors.ServerError,
    "08": errors.Busy,
    "22": errors.InvalidArgument,
    "40001": errors.Busy,
    "40P01": errors.Busy,
    "42501": errors.NotAllowed,
    "42883": FunctionMissing,
    "53": errors.Busy,
    "55P03": errors.Busy,
    "57014": errors.Busy,
    "57P": errors.Busy,
    "PGRST002": errors.Busy,
    "PGRST003": errors.Busy,
    "PGRST125": errors.ConnectionFailed,
    "PGRST202": FunctionMissing,
    "PGRST301": errors.AuthenticationFailed,
    "PGRST302": errors.NotAuthenticated,
    "PGRST303": errors.AuthenticationFailed,
}
# Codes that are not SQLSTATEs. No function of picture-queue raises them, so any error is accepted.
UNKNOWN_CODES = {"own_code", "123"}


def recorded_answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the answer of each call of a function, for both versions."""
    for case in json.loads(RECORDINGS.read_text(encoding="utf-8")):
        if case["request"].startswith("POST /rpc/"):
            yield case["id"], case["answer"]
            if "v16" in case:
                yield f"{case['id']} (16)", case["answer"] | case["v16"]


def expected_error(body: dict[str, Any]) -> type[Exception]:
    """Return the error that a user of the library should get."""
    code = str(body["code"])
    if code == "22023" and body["message"].startswith('role "'):
        return errors.AuthenticationFailed
    return max((prefix, kind) for prefix, kind in EXPECTED.items() if code.startswith(prefix))[1]


def response(answer: dict[str, Any]) -> httpx.Response:
    """Return a recorded answer as an HTTP response."""
    reason = answer.get("reason", "").encode("latin-1", "replace")
    return httpx.Response(
        answer["status"],
        headers=answer["headers"],
        content=answer["body"].encode(),
        extensions={"reason_phrase": reason} if reason else {},
    )


def http_client(*responses: httpx.Response) -> httpx.AsyncClient:
    """Return an HTTP client that gets these responses in turn."""
    remaining = iter(responses)
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(remaining)))


async def new_transport(http: httpx.AsyncClient) -> AsyncPostgrest:
    """Return the transport for PostgREST, with a supabase client that uses this HTTP client."""
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    client = await acreate_client(URL, KEY, options)
    return AsyncPostgrest(ProjectSettings(url=URL, key=KEY), client)


async def call_result(answer: dict[str, Any]) -> object:
    """Return the value that a call returns, or the exception that it raises, for an answer."""
    async with http_client(response(answer)) as http:
        transport = await new_transport(http)
        try:
            return await transport.call(Rpc("f", {}, lambda value: value), Deadline(10))
        except Exception as error:
            return error


async def test_every_recorded_answer_leads_to_the_expected_result():
    unexpected = {}
    for name, answer in recorded_answers():
        result = await call_result(answer)
        body = json.loads(answer["body"]) if answer["body"].startswith(('{"code', "[")) else None
        if isinstance(body, dict) and answer["status"] >= 300:
            error = expected_error(body)
            if str(body["code"]) not in UNKNOWN_CODES and type(result) is not error:
                unexpected[name] = f"{body['code']} became {result!r}, not {error.__name__}"
        elif isinstance(result, Exception) != (answer["status"] >= 300):
            unexpected[name] = f"{answer['status']} became {result!r}"
    assert unexpected == {}


async def test_results_are_returned_unchanged():
    def result(body: str) -> object:
        return {"status": 200, "headers": {"Content-Type": "application/json"}, "body": body}

    for body in ("7", '"text"', "null", "true", '{"a": [1, null]}', "[]", '[{"n": 1}]'):
        assert await call_result(result(body)) == json.loads(body)


@pytest.mark.parametrize("case", ["dberror-92 (16)", "dberror-93 (16)", "config-23", "timeout-07"])
async def test_transient_errors_are_retried(case, monkeypatch):
    monkeypatch.setitem(RETRY_POLICY, "wait", lambda _: 0)
    version = {"version": "0.0.1", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}
    answer = dict(recorded_answers())[case]
    async with http_client(
        httpx.Response(200, json=version), response(answer), httpx.Response(200, json="done")
    ) as http:
        transport = await new_transport(http)
        async with AsyncPictureQueue(client=await transport.client()) as pq:
            assert await pq._backend.call(Rpc("f", {}, lambda value: value)) == "done"


async def test_the_error_of_an_expired_token_has_its_code_and_a_hint():
    recorded = dict(recorded_answers())
    expired = await call_result(recorded["jwt-44"])
    assert isinstance(expired, errors.AuthenticationFailed)
    assert (expired.code, expired.hint) == ("PGRST303", "Sign in again")
