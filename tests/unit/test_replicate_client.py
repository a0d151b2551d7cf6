"""The Replicate client: its requests, its retries, and the secrecy of its token."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from picture_queue.providers import errors
from picture_queue.providers.replicate import client as client_module
from picture_queue.providers.replicate import http as http_module
from picture_queue.providers.replicate.client import BASE_URL, ReplicateClient
from picture_queue.providers.replicate.http import RetryPolicy
from picture_queue.providers.replicate.prediction import Prediction

FIXTURES = Path(__file__).parents[1] / "fixtures" / "replicate"
TOKEN = "r8_test_token"
MODEL = "black-forest-labs/flux-schnell"
CREATE_URL = f"{BASE_URL}/models/{MODEL}/predictions"
PREDICTION_URL = f"{BASE_URL}/predictions/p1"
QUICK_RETRIES = RetryPolicy(first_wait=0.001, max_wait=0.002, retry_timeout=30)

#: Errors before the request was sent.
NEVER_SENT = [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError]
#: Errors after the request may have been sent.
RESPONSE_LOST = [httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError]


def read_exchange(file_name: str, case: str) -> dict[str, Any]:
    """Return a recorded request and its response, from a fixture file with several cases."""
    cases = json.loads((FIXTURES / f"{file_name}.json").read_text("utf-8"))["cases"]
    exchange: dict[str, Any] = next(recorded for recorded in cases if recorded["name"] == case)
    return exchange


def recorded_response(file_name: str, case: str) -> httpx.Response:
    response = read_exchange(file_name, case)["response"]
    return httpx.Response(
        response["status_code"], headers=response["headers"], json=response["body"]
    )


@pytest.fixture
async def client() -> AsyncIterator[ReplicateClient]:
    async with ReplicateClient(TOKEN, retry=QUICK_RETRIES) as client:
        yield client


@pytest.fixture
def api() -> Any:
    """A respx router that answers all HTTP requests of the test in place of Replicate."""
    with respx.mock(assert_all_called=False) as router:
        yield router


async def create(client: ReplicateClient) -> Any:
    return await client.create(MODEL, {"prompt": "x"}, cancel_after=300)


async def test_an_official_model_runs_at_its_own_endpoint(
    client: ReplicateClient, api: respx.Router
) -> None:
    recorded = read_exchange("create_201_starting", "official_model")
    route = api.post(CREATE_URL).mock(
        return_value=recorded_response("create_201_starting", "official_model")
    )
    prediction = await client.create(MODEL, recorded["request"]["body"]["input"], cancel_after=300)
    assert prediction.id == recorded["response"]["body"]["id"]
    assert prediction.deadline == datetime(2026, 1, 1, 10, 5, tzinfo=UTC)
    sent = route.calls.last.request
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"
    assert sent.headers["cancel-after"] == "300s"
    assert sent.headers["user-agent"] == "picture-queue"
    assert "prefer" not in sent.headers
    assert json.loads(sent.content) == {"input": recorded["request"]["body"]["input"]}


async def test_a_community_model_runs_by_version(
    client: ReplicateClient, api: respx.Router
) -> None:
    recorded = read_exchange("create_201_starting", "community_model_by_version")["request"]["body"]
    route = api.post(f"{BASE_URL}/predictions").mock(
        return_value=recorded_response("create_201_starting", "community_model_by_version")
    )
    await client.create(
        "stability-ai/sdxl", recorded["input"], version=recorded["version"], cancel_after=1
    )
    assert json.loads(route.calls.last.request.content) == recorded
    # Replicate accepts 5 seconds or more.
    assert route.calls.last.request.headers["cancel-after"] == "5s"


async def test_a_create_with_status_202_has_created_a_prediction(
    client: ReplicateClient, api: respx.Router
) -> None:
    body = read_exchange("create_201_starting", "official_model")["response"]["body"]
    api.post(CREATE_URL).respond(202, json=body)
    assert (await create(client)).status == "starting"


@pytest.mark.parametrize("failure", NEVER_SENT)
async def test_a_create_that_was_never_sent_is_retried(
    client: ReplicateClient, api: respx.Router, failure: type[Exception]
) -> None:
    created = recorded_response("create_201_starting", "official_model")
    route = api.post(CREATE_URL).mock(side_effect=[failure("no"), failure("no"), created])
    await create(client)
    assert route.call_count == 3


async def test_a_throttled_create_is_retried(client: ReplicateClient, api: respx.Router) -> None:
    throttled = httpx.Response(429, headers={"retry-after": "0.05"}, json={"status": 429})
    created = recorded_response("create_201_starting", "official_model")
    route = api.post(CREATE_URL).mock(side_effect=[throttled, created])
    began = asyncio.get_running_loop().time()
    await create(client)
    assert route.call_count == 2
    assert asyncio.get_running_loop().time() - began >= 0.05


@pytest.mark.parametrize("failure", RESPONSE_LOST)
async def test_a_create_whose_response_was_lost_is_not_retried(
    client: ReplicateClient, api: respx.Router, failure: type[Exception]
) -> None:
    route = api.post(CREATE_URL).mock(side_effect=failure("gone"))
    with pytest.raises(errors.OutcomeUnknown) as raised:
        await create(client)
    assert route.call_count == 1
    # The client must not send the create again. The job may run again, because its next attempt
    # first searches for the prediction.
    assert raised.value.retryable


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(500),
        httpx.Response(502, text="<html>bad gateway</html>"),
        httpx.Response(504, json={"detail": "late"}),
        httpx.Response(201, text="not json"),
        httpx.Response(201, json={"status": "starting"}),
        httpx.Response(201, content=b"\xff\xfe\xfa"),
    ],
)
async def test_a_create_with_an_ambiguous_response_is_not_retried(
    client: ReplicateClient, api: respx.Router, response: httpx.Response
) -> None:
    route = api.post(CREATE_URL).mock(return_value=response)
    with pytest.raises(errors.OutcomeUnknown):
        await create(client)
    assert route.call_count == 1


async def test_a_create_without_a_connection_fails_after_several_attempts(
    client: ReplicateClient, api: respx.Router
) -> None:
    route = api.post(CREATE_URL).mock(side_effect=httpx.ConnectError("refused"))
    with pytest.raises(errors.NotReached):
        await create(client)
    assert route.call_count == QUICK_RETRIES.max_attempts


@pytest.mark.parametrize(
    ("file_name", "case", "error_class"),
    [
        ("error_401", "bad_token", errors.Unauthorized),
        ("error_402", "insufficient_credit", errors.OutOfCredit),
        ("error_404", "model_not_found", errors.ResourceNotFound),
        ("error_422", "invalid_choice", errors.InputRejected),
    ],
)
async def test_a_refused_create_is_not_retried(
    client: ReplicateClient,
    api: respx.Router,
    file_name: str,
    case: str,
    error_class: type[Exception],
) -> None:
    route = api.post(CREATE_URL).mock(return_value=recorded_response(file_name, case))
    with pytest.raises(error_class):
        await create(client)
    assert route.call_count == 1


async def test_a_long_retry_after_is_passed_to_the_caller(
    client: ReplicateClient, api: respx.Router
) -> None:
    route = api.post(CREATE_URL).mock(return_value=recorded_response("error_429", "with_header"))
    with pytest.raises(errors.TooManyRequests) as raised:
        await create(client)
    assert route.call_count == 1
    assert raised.value.retry_after == 30.0


@pytest.mark.parametrize(
    "failure",
    [
        *(httpx.Response(status) for status in (429, 500, 502, 503, 504)),
        httpx.Response(200, text="not json"),
        *(error("gone") for error in [*RESPONSE_LOST, *NEVER_SENT]),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", ["get", "cancel"])
async def test_reads_and_cancels_are_retried(
    client: ReplicateClient, api: respx.Router, call: str, failure: Any
) -> None:
    if call == "get":
        route, method = api.get(PREDICTION_URL), client.get
    else:
        route, method = api.post(f"{PREDICTION_URL}/cancel"), client.cancel
    # The recorded response to a cancel is a prediction in the format of a read.
    route.mock(
        side_effect=[failure, recorded_response("cancel_200_canceled", "cancel_after_it_finished")]
    )
    assert (await method("p1")).status == "succeeded"
    assert route.call_count == 2


async def test_a_read_fails_after_several_attempts(
    client: ReplicateClient, api: respx.Router
) -> None:
    route = api.get(PREDICTION_URL).respond(503)
    with pytest.raises(errors.ServiceUnavailable):
        await client.get("p1")
    assert route.call_count == QUICK_RETRIES.max_attempts


async def test_a_read_of_an_unknown_prediction_is_not_retried(
    client: ReplicateClient, api: respx.Router
) -> None:
    route = api.get(PREDICTION_URL).mock(
        return_value=recorded_response("error_404", "prediction_not_found")
    )
    with pytest.raises(errors.ResourceNotFound):
        await client.get("p1")
    assert route.call_count == 1


async def test_an_id_with_slashes_and_a_query_cannot_change_the_path_of_the_request(
    client: ReplicateClient, api: respx.Router
) -> None:
    route = api.get(url__startswith=BASE_URL).respond(404)
    with pytest.raises(errors.ResourceNotFound):
        await client.get("../account?x=")
    assert route.calls.last.request.url.raw_path == b"/v1/predictions/..%2Faccount%3Fx%3D"


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\x7f", "\u2028", "\u202e"])
async def test_a_create_that_answers_an_id_with_a_control_character_has_an_unknown_outcome(
    client: ReplicateClient, api: respx.Router, character: str
) -> None:
    """The database cannot store each such id; the search must not lead to another create."""
    body = {"id": f"p{character}1", "status": "starting", "created_at": "2026-01-01T00:00:00Z"}
    created = api.post(CREATE_URL).respond(201, json=body)
    with pytest.raises(errors.OutcomeUnknown):
        await create(client)
    assert created.call_count == 1
    api.get(f"{BASE_URL}/predictions").respond(json={"results": [body], "next": None})
    with pytest.raises(errors.ServiceUnavailable):
        await list_predictions(client)


class _EndlessBody(httpx.AsyncByteStream):
    """A body of which one byte arrives."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b" "
        await asyncio.Event().wait()


@pytest.mark.timeout(20)
async def test_each_call_ends_although_its_answer_never_does(
    client: ReplicateClient, api: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "_TOTAL_TIMEOUT", 0.05, raising=False)
    created = api.post(CREATE_URL).mock(
        side_effect=lambda _: httpx.Response(201, stream=_EndlessBody())
    )
    api.route().mock(side_effect=lambda _: httpx.Response(200, stream=_EndlessBody()))
    with pytest.raises(errors.OutcomeUnknown):
        await create(client)
    assert created.call_count == 1
    for call in (client.get("p1"), client.cancel("p1"), list_predictions(client)):
        with pytest.raises(errors.ServiceUnavailable, match="did not answer"):
            await call


async def list_predictions(client: ReplicateClient) -> list[Prediction]:
    now = datetime.now(UTC)
    return await client.created_between(now, now, is_wanted=lambda _: True)


@pytest.mark.timeout(20)
async def test_searches_do_not_wait_one_after_the_other_for_a_list_that_does_not_answer(
    client: ReplicateClient, api: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waiting search ends without a request, uses no attempt, and pauses the provider."""
    monkeypatch.setattr(client_module, "_SEARCH_WAIT_TIMEOUT", 0.05, raising=False)
    is_called, may_answer = asyncio.Event(), asyncio.Event()
    requests = []

    async def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        is_called.set()
        await may_answer.wait()
        return httpx.Response(200, json={"results": [], "next": None})

    api.get(f"{BASE_URL}/predictions").mock(side_effect=answer)
    first = asyncio.create_task(list_predictions(client))
    await is_called.wait()
    waiting = await asyncio.gather(
        *(list_predictions(client) for _ in range(5)), return_exceptions=True
    )
    assert {type(error) for error in waiting} == {errors.NotReached}
    assert (len(requests), errors.NotReached.uses_attempt) == (1, False)
    may_answer.set()
    assert await first == []
    assert await list_predictions(client) == []  # the lock is free again


async def test_a_list_uses_only_the_cursor_of_the_next_link(
    client: ReplicateClient, api: respx.Router
) -> None:
    body = read_exchange("get_200_processing", "percent_14")["response"]["body"]
    pages = [
        {"results": [body], "next": "https://elsewhere.example/steal?cursor=abc"},
        {"results": [body], "next": None},
    ]
    route = api.get(f"{BASE_URL}/predictions").mock(
        side_effect=[httpx.Response(200, json=page) for page in pages]
    )
    elsewhere = api.route(host="elsewhere.example").respond(200)
    first_time = datetime(2026, 1, 1, 9, 59, 55, tzinfo=UTC)
    last_time = datetime(2026, 1, 1, 10, 15, tzinfo=UTC)
    predictions = await client.created_between(first_time, last_time, is_wanted=lambda _: True)
    assert [prediction.id for prediction in predictions] == [body["id"]] * 2
    # Logs and outputs are not kept, because a list may have many predictions.
    assert {(prediction.logs, prediction.output) for prediction in predictions} == {("", None)}
    first, second = (dict(call.request.url.params) for call in route.calls)
    assert first == {
        "created_after": "2026-01-01T09:59:55.000Z",
        "created_before": "2026-01-01T10:15:00.000Z",
    }
    assert second == first | {"cursor": "abc"}
    assert not elsewhere.called


async def test_a_list_of_more_than_100_pages_is_an_error(
    client: ReplicateClient, api: respx.Router
) -> None:
    """The client reads at most 100 pages. A wanted prediction may be on a later page."""
    page = {"results": [], "next": f"{BASE_URL}/predictions?cursor=again"}
    route = api.get(f"{BASE_URL}/predictions").respond(json=page)
    with pytest.raises(errors.ServiceUnavailable):
        await list_predictions(client)
    assert route.call_count == 100


async def test_a_page_with_too_many_predictions_is_an_error(
    client: ReplicateClient, api: respx.Router
) -> None:
    entry = {"id": "p", "status": "failed", "created_at": "2026-01-01T00:00:00Z"}
    api.get(f"{BASE_URL}/predictions").respond(json={"results": [entry] * 1001, "next": None})
    with pytest.raises(errors.ServiceUnavailable):
        await list_predictions(client)


#: Responses that would take too much memory or time, or that the JSON parser refuses.
EXCESSIVE = [
    b'{"id": "p", "metrics": {"n": 1' + b"0" * 5000 + b"}}",
    b'{"output": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"logs": "' + b"x" * 34_000_000 + b'"}',
    b"[" * 20_000_000,
    b'{"output": [' + b"[]," * 2_000_000 + b"0]}",
    b'{"output": ["\\"", ' + b'{"":""},' * 900_000 + b"0]}",
]


@pytest.mark.parametrize(
    "content", EXCESSIVE, ids=["digits", "depth", "bytes", "long and deep", "lists", "objects"]
)
async def test_a_request_with_an_excessive_response_is_not_retried(
    client: ReplicateClient, api: respx.Router, content: bytes
) -> None:
    route = api.get(PREDICTION_URL).respond(content=content)
    with pytest.raises(errors.OutputRefused) as raised:
        await client.get("p1")
    assert not raised.value.retryable
    assert route.call_count == 1
    created = api.post(CREATE_URL).respond(201, content=content)
    # Replicate may have created a prediction.
    with pytest.raises(errors.OutcomeUnknown):
        await create(client)
    assert created.call_count == 1


async def test_an_error_with_an_excessive_body_keeps_its_type(
    client: ReplicateClient, api: respx.Router
) -> None:
    api.get(PREDICTION_URL).respond(404, content=EXCESSIVE[1])
    with pytest.raises(errors.ResourceNotFound):
        await client.get("p1")
    # The client parses these long responses in a thread. At some of these depths the parser stays
    # below the recursion limit, but `str` of the parsed value exceeds it.
    for depth in range(900, 1000):
        detail = "[" * depth + "]" * depth
        content = f'{{"logs": "{"x" * 66_000}", "detail": {detail}}}'
        api.get(PREDICTION_URL).respond(404, content=content.encode())
        with pytest.raises(errors.ResourceNotFound):
            await client.get("p1")


async def test_only_a_long_response_is_parsed_in_a_thread(
    client: ReplicateClient, api: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_main_thread = []

    def loads(data: bytes) -> Any:
        is_main_thread.append(threading.current_thread() is threading.main_thread())
        return original(data)

    original = json.loads
    monkeypatch.setattr(json, "loads", loads)
    body = read_exchange("get_200_processing", "percent_14")["response"]["body"]
    for logs in ("", "x" * 100_000):
        api.get(PREDICTION_URL).respond(json=body | {"logs": logs})
        await client.get("p1")
    assert is_main_thread[-2:] == [True, False]


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "gzip, br", "gzip, gzip", "gzip,deflate", "x-unknown"]
)
async def test_a_response_in_an_unrequested_encoding_is_not_decompressed(
    client: ReplicateClient, api: respx.Router, encoding: str
) -> None:
    route = api.get(PREDICTION_URL).mock(
        side_effect=lambda request: httpx.Response(
            200, headers={"content-encoding": encoding}, stream=httpx.ByteStream(b"x")
        )
    )
    with pytest.raises(errors.ServiceUnavailable):
        await client.get("p1")
    assert route.calls.last.request.headers["accept-encoding"] == "gzip, deflate"


async def test_an_unreadable_list_is_an_error(client: ReplicateClient, api: respx.Router) -> None:
    for page in ([1], {"results": 5}, {"results": ["x"]}, {"results": [], "next": "http://[x"}):
        api.get(f"{BASE_URL}/predictions").respond(json=page)
        with pytest.raises(errors.ServiceUnavailable):
            await list_predictions(client)


@pytest.mark.parametrize("fields", [5, "x", {"a": 1}, [5], [{"description": {"a": []}}]])
async def test_an_error_with_unexpected_fields_keeps_its_type(
    client: ReplicateClient, api: respx.Router, fields: Any
) -> None:
    api.post(CREATE_URL).respond(422, json={"detail": 5, "invalid_fields": fields})
    with pytest.raises(errors.InputRejected):
        await create(client)


async def test_the_token_appears_in_no_error_and_no_log_line(
    client: ReplicateClient, api: respx.Router, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.get(PREDICTION_URL).mock(side_effect=[httpx.Response(500), httpx.ReadError("gone")] * 3)
    with pytest.raises(errors.ServiceUnavailable) as raised:
        await client.get("p1")
    assert "retrying the call to Replicate" in caplog.text
    for text in (repr(client), repr(raised.value), str(raised.value), caplog.text):
        assert TOKEN not in text


async def test_a_client_closes_only_an_http_client_that_it_created(api: respx.Router) -> None:
    api.get(PREDICTION_URL).mock(return_value=recorded_response("get_200_processing", "percent_14"))
    async with httpx.AsyncClient() as http:
        async with ReplicateClient(TOKEN, http=http) as borrowed:
            await borrowed.get("p1")
        assert not http.is_closed
    own = ReplicateClient(TOKEN)
    await own.get("p1")
    await own.aclose()
    await own.aclose()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReplicateClient(" "),
        lambda: ReplicateClient(TOKEN, base_url="api.replicate.com"),
        lambda: ReplicateClient(TOKEN, base_url="ftp://api.replicate.com/v1"),
    ],
)
def test_an_invalid_token_or_address_is_refused_at_construction(
    make: Callable[[], ReplicateClient],
) -> None:
    with pytest.raises(ValueError, match="Replicate"):
        make()


@pytest.mark.parametrize("status", [401, 422, 500])
async def test_an_answer_that_quotes_the_token_does_not_reveal_it(
    api: respx.Router, status: int
) -> None:
    """A proxy may quote the request, and thereby the token, in its answer."""
    token = f"r8_{'a' * 37}"
    quoted = f"the request was Bearer {token}"
    body = {"detail": quoted, "invalid_fields": [{"field": "prompt", "description": quoted}]}
    api.post(CREATE_URL).respond(status, json=body)
    async with ReplicateClient(token, retry=QUICK_RETRIES) as client:
        with pytest.raises(errors.ProviderError) as raised:
            await create(client)
    texts = (str(raised.value), raised.value.detail, raised.value.owner_message)
    assert not any(token in (text or "") for text in texts)
    assert "(token)" in (raised.value.detail or "")


async def test_a_short_token_does_not_change_an_answer(api: respx.Router) -> None:
    """The client replaces its token in answers only if the token is long.

    A simulator may have a token such as `t`, which is a part of most words.
    """
    api.post(CREATE_URL).mock(
        return_value=recorded_response("create_201_starting", "official_model")
    )
    async with ReplicateClient("t", retry=QUICK_RETRIES) as client:
        prediction = await create(client)
    assert (
        prediction.id
        == read_exchange("create_201_starting", "official_model")["response"]["body"]["id"]
    )
