"""Downloads: permitted hosts, size limits, the token and retries."""

import asyncio
import base64
import gzip
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx

from picture_queue.providers import errors
from picture_queue.providers.replicate import download as download_module
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.download import DownloadRules
from picture_queue.providers.replicate.http import RetryPolicy

LINK = "https://replicate.delivery/xezq/abc/out-0.webp"
SUBDOMAIN_LINK = "https://pbxt.replicate.delivery/abc/out-0.png"
SIMULATOR = "http://127.0.0.1:54399"
QUICK_RETRIES = RetryPolicy(first_wait=0.001, max_wait=0.002, retry_timeout=30)


@pytest.fixture
async def client() -> AsyncIterator[ReplicateClient]:
    rules = DownloadRules(max_bytes=1000)
    client = ReplicateClient("r8_t", base_url=f"{SIMULATOR}/v1", retry=QUICK_RETRIES, rules=rules)
    async with client:
        yield client


@pytest.fixture
def web() -> Any:
    """A respx router that answers all HTTP requests of the test."""
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses to which every host name resolves; a test can change the list."""
    addresses = ["104.18.0.1"]

    async def resolve(host: str) -> list[str]:
        return addresses

    monkeypatch.setattr(download_module, "_addresses", resolve)
    return addresses


@pytest.mark.parametrize("link", [LINK, SUBDOMAIN_LINK, f"{SIMULATOR}/files/p/out-0.png"])
async def test_a_download_is_tried_without_the_token_first(
    client: ReplicateClient, web: respx.Router, link: str
) -> None:
    route = web.get(link).respond(content=b"picture")
    assert await client.download(link) == b"picture"
    assert "authorization" not in route.calls.last.request.headers


async def test_the_token_is_sent_if_the_delivery_host_requires_it(
    client: ReplicateClient, web: respx.Router
) -> None:
    route = web.get(LINK).mock(side_effect=[httpx.Response(401), httpx.Response(200)])
    await client.download(LINK)
    assert route.calls.last.request.headers["authorization"] == "Bearer r8_t"


async def test_the_token_is_not_sent_to_other_hosts(
    client: ReplicateClient, web: respx.Router
) -> None:
    link = f"{SIMULATOR}/files/p/out-0.png"
    route = web.get(link).respond(401)
    with pytest.raises(errors.OutputError):
        await client.download(link)
    assert route.call_count == 1


async def test_the_token_does_not_follow_a_redirect(
    client: ReplicateClient, web: respx.Router
) -> None:
    target = f"{SIMULATOR}/files/p/out-0.png"
    redirect = httpx.Response(302, headers={"location": target})
    web.get(LINK).mock(side_effect=[httpx.Response(401), redirect])
    route = web.get(target).respond(content=b"picture")
    assert await client.download(LINK) == b"picture"
    assert "authorization" not in route.calls.last.request.headers


@pytest.mark.parametrize(
    "link",
    [
        "https://example.com/out.png",
        "https://replicate.delivery.example.com/out.png",
        "https://evilreplicate.delivery/out.png",
        "http://replicate.delivery/out.png",
        "https://user@replicate.delivery/out.png",
        "https://127.0.0.1/out.png",
        "https://[::1]/out.png",
        "http://127.0.0.1:1/files/out.png",
        "ftp://replicate.delivery/out.png",
        "https:///out.png",
        "https://[broken/out.png",
    ],
)
async def test_a_link_to_another_host_is_refused(
    client: ReplicateClient, web: respx.Router, link: str
) -> None:
    any_request = web.route().respond(200)
    with pytest.raises(errors.OutputRefused) as raised:
        await client.download(link)
    assert not any_request.called
    assert not raised.value.retryable


async def test_a_redirect_to_another_host_is_refused(
    client: ReplicateClient, web: respx.Router
) -> None:
    web.get(LINK).respond(302, headers={"location": "http://169.254.169.254/secrets"})
    metadata_service = web.route(host="169.254.169.254").respond(200)
    with pytest.raises(errors.OutputRefused):
        await client.download(LINK)
    assert not metadata_service.called


@pytest.mark.parametrize(
    "location", ["http://[bad", "//[x", "data:image/png;base64,AAAA", "file:///etc/passwd"]
)
async def test_a_redirect_to_an_invalid_url_is_refused(
    client: ReplicateClient, web: respx.Router, location: str
) -> None:
    route = web.get(LINK).respond(302, headers={"location": location})
    with pytest.raises(errors.OutputRefused):
        await client.download(LINK)
    assert route.call_count == 1


@pytest.mark.parametrize("host", ["a" * 64, "", "a.", "xn--", "\ud800", "\u200b"])
async def test_an_invalid_host_name_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.undo()  # Undo the patch of _addresses by the fixture `addresses`.
    async with ReplicateClient("r8_t", retry=QUICK_RETRIES) as client:
        with pytest.raises(errors.OutputRefused):
            await client.download(f"https://{host}.replicate.delivery/x")


async def test_the_number_of_redirects_is_limited(
    client: ReplicateClient, web: respx.Router
) -> None:
    route = web.get(LINK).respond(302, headers={"location": LINK})
    with pytest.raises(errors.OutputRefused):
        await client.download(LINK)
    assert route.call_count == 4


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.7", "127.0.0.1", "169.254.169.254", "fd00::1", "::1", "224.0.0.1"),
        *("::ffff:10.0.0.7", "64:ff9b::7f00:1", "2002:7f00:1::1", "::127.0.0.1"),
    ],
)
async def test_a_wildcard_does_not_permit_private_addresses(
    client: ReplicateClient, web: respx.Router, addresses: list[str], address: str
) -> None:
    addresses.append(address)
    route = web.get(SUBDOMAIN_LINK).respond(200)
    with pytest.raises(errors.OutputRefused):
        await client.download(SUBDOMAIN_LINK)
    assert not route.called


async def test_a_wildcard_permits_only_the_port_of_https(
    client: ReplicateClient, web: respx.Router
) -> None:
    route = web.route().respond(200)
    with pytest.raises(errors.OutputRefused):
        await client.download(SUBDOMAIN_LINK.replace(".delivery/", ".delivery:8443/"))
    assert not route.called


async def test_a_name_server_that_does_not_answer_is_a_temporary_error(
    client: ReplicateClient, web: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def time_out(*args: object, **options: object) -> object:
        raise TimeoutError

    monkeypatch.undo()  # Undo the patch of _addresses by the fixture `addresses`.
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", time_out)
    with pytest.raises(errors.ServiceUnavailable):
        await client.download(SUBDOMAIN_LINK)


async def test_a_host_listed_by_its_full_name_may_be_private(
    web: respx.Router, addresses: list[str]
) -> None:
    addresses[:] = ["10.0.0.7"]
    link = "https://pictures.internal/out.png"
    web.get(link).respond(content=b"picture")
    rules = DownloadRules(hosts=("pictures.internal",))
    async with ReplicateClient("r8_t", rules=rules) as client:
        assert await client.download(link) == b"picture"


async def test_an_unresolvable_host_has_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """This is not an error, because the proxy of the environment may resolve the host."""

    def fail(*args: object, **options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.undo()  # Undo the patch of _addresses by the fixture `addresses`.
    assert "127.0.0.1" in await download_module._addresses("127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert await download_module._addresses("behind.the.proxy") == []


@pytest.mark.parametrize("headers", [{}, {"content-length": "1001"}])
async def test_a_file_above_the_limit_is_refused(
    client: ReplicateClient, web: respx.Router, headers: dict[str, str]
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(400)

    web.get(LINK).mock(return_value=httpx.Response(200, headers=headers, stream=_Stream(chunks())))
    with pytest.raises(errors.OutputRefused, match="larger than 1000 bytes"):
        await client.download(LINK)


@pytest.mark.parametrize("content_length", ["9" * 5000, "1e9", "-1", "999"])
async def test_a_file_above_the_limit_is_refused_whatever_its_content_length(
    client: ReplicateClient, web: respx.Router, content_length: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(400)

    web.get(LINK).mock(
        return_value=httpx.Response(
            200, headers={"content-length": content_length}, stream=_Stream(chunks())
        )
    )
    with pytest.raises(errors.OutputRefused):
        await client.download(LINK)


async def test_a_compressed_file_above_the_limit_is_refused(
    client: ReplicateClient, web: respx.Router
) -> None:
    compressed = gzip.compress(bytes(100_000))
    assert len(compressed) < 1000

    async def chunks() -> AsyncIterator[bytes]:
        yield compressed

    response = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=_Stream(chunks()))
    web.get(LINK).mock(return_value=response)
    with pytest.raises(errors.OutputRefused, match="larger than 1000 bytes"):
        await client.download(LINK)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


@pytest.mark.timeout(20)
async def test_a_download_ends_although_its_answer_never_does(
    client: ReplicateClient, web: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_BASE_TIMEOUT", 0.05, raising=False)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"p"
        await asyncio.Event().wait()

    web.get(LINK).mock(side_effect=lambda _: httpx.Response(200, stream=_Stream(chunks())))
    with pytest.raises(errors.ServiceUnavailable, match="too slowly"):
        await client.download(LINK)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_deleted_file_is_reported_as_expired(
    client: ReplicateClient, web: respx.Router, status: int
) -> None:
    web.get(LINK).respond(status)
    with pytest.raises(errors.OutputExpired):
        await client.download(LINK)


@pytest.mark.parametrize(
    "failure", [httpx.Response(503), httpx.Response(429), httpx.ReadError("gone")], ids=str
)
async def test_a_download_is_retried_after_a_temporary_failure(
    client: ReplicateClient, web: respx.Router, failure: Any
) -> None:
    web.get(LINK).mock(side_effect=[failure, httpx.Response(200, content=b"picture")])
    assert await client.download(LINK) == b"picture"


async def test_a_data_uri_is_decoded(client: ReplicateClient) -> None:
    link = "data:image/webp;base64," + base64.b64encode(b"picture").decode()
    assert await client.download(link) == b"picture"


@pytest.mark.parametrize(
    "link",
    [
        "data:image/svg+xml,<svg/>",
        "data:image/png;base64,%%%",
        "data:image/png;base64,é",
        "data:image/png;base64," + base64.b64encode(bytes(1100)).decode(),
    ],
)
async def test_an_invalid_or_too_large_data_uri_is_refused(
    client: ReplicateClient, link: str
) -> None:
    with pytest.raises(errors.OutputRefused):
        await client.download(link)
