"""Our client understands PostgREST 14 and 16: what they answered once is put before it again.

The embedded PostgREST is 12; the recordings of `tests/fixtures/postgrest` are of the platform's
14.12, and `v16` in them of 16.2. The supabase client in between is the real one.
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

# By code, or by how it begins; the longest that fits decides.
MEANING: dict[str, type[Exception]] = {
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
# A status of none of HTTP's, and codes that are no SQLSTATE: raised by nobody's functions here.
STRANGE = {"own_code", "123"}


def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """The answers of both versions to calls of functions, with a name."""
    for case in json.loads(RECORDINGS.read_text(encoding="utf-8")):
        if case["request"].startswith("POST /rpc/"):
            yield case["id"], case["answer"]
            if "v16" in case:
                yield f"{case['id']} (16)", case["answer"] | case["v16"]


def meaning(body: dict[str, Any]) -> type[Exception]:
    """Return the error that a user of the library should get."""
    code = str(body["code"])
    if code == "22023" and body["message"].startswith('role "'):
        return errors.AuthenticationFailed
    return max((prefix, kind) for prefix, kind in MEANING.items() if code.startswith(prefix))[1]


def response(answer: dict[str, Any]) -> httpx.Response:
    """An answer as it came."""
    reason = answer.get("reason", "").encode("latin-1", "replace")
    return httpx.Response(
        answer["status"],
        headers=answer["headers"],
        content=answer["body"].encode(),
        extensions={"reason_phrase": reason} if reason else {},
    )


def serving(*given: httpx.Response) -> httpx.AsyncClient:
    """An HTTP client that gets these answers, one after the other."""
    left = iter(given)
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: next(left)))


async def api(http: httpx.AsyncClient) -> AsyncPostgrest:
    """The way over the API, with a supabase client on top of that HTTP client."""
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    client = await acreate_client(URL, KEY, options)
    return AsyncPostgrest(ProjectSettings(url=URL, key=KEY), client)


async def heard(answer: dict[str, Any]) -> object:
    """Return the client's reading of an answer: the result, or the exception."""
    async with serving(response(answer)) as http:
        way = await api(http)
        try:
            return await way.call(Rpc("f", {}, lambda value: value), Deadline(10))
        except Exception as error:
            return error


async def test_every_recorded_answer_means_the_same_to_our_client():
    wrong = {}
    for name, answer in answers():
        found = await heard(answer)
        body = json.loads(answer["body"]) if answer["body"].startswith(('{"code', "[")) else None
        if isinstance(body, dict) and answer["status"] >= 300:
            kind = meaning(body)
            if str(body["code"]) not in STRANGE and type(found) is not kind:
                wrong[name] = f"{body['code']} became {found!r}, not {kind.__name__}"
        elif isinstance(found, Exception) != (answer["status"] >= 300):
            wrong[name] = f"{answer['status']} became {found!r}"
    assert wrong == {}


async def test_results_are_what_the_function_returned():
    def result(body: str) -> object:
        return {"status": 200, "headers": {"Content-Type": "application/json"}, "body": body}

    for body in ("7", '"text"', "null", "true", '{"a": [1, null]}', "[]", '[{"n": 1}]'):
        assert await heard(result(body)) == json.loads(body)


@pytest.mark.parametrize("case", ["dberror-92 (16)", "dberror-93 (16)", "config-23", "timeout-07"])
async def test_what_may_succeed_a_moment_later_is_asked_again(case, monkeypatch):
    monkeypatch.setitem(RETRY_POLICY, "wait", lambda _: 0)
    version = {"version": "0.0.1", "contract": _rpc.CONTRACT, "oldest_client_contract": 1}
    answer = dict(answers())[case]
    async with serving(
        httpx.Response(200, json=version), response(answer), httpx.Response(200, json="done")
    ) as http:
        way = await api(http)
        async with AsyncPictureQueue(client=await way.client()) as pq:
            assert await pq._project.call(Rpc("f", {}, lambda value: value)) == "done"


async def test_a_token_that_ended_is_told_from_a_wrong_one():
    recorded = dict(answers())
    ended = await heard(recorded["jwt-44"])
    assert isinstance(ended, errors.AuthenticationFailed)
    assert (ended.code, ended.hint) == ("PGRST303", "Sign in again")
