"""Download output files from untrusted links.

The rules prevent requests to other hosts: a list of allowed hosts, https only, redirects only to
allowed hosts, no private address for a host that a wildcard allows, and a size limit. The links
need no token in practice. So the token is sent only if a host of ``replicate.delivery`` answers
401.
"""

import asyncio
import base64
import dataclasses
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from picture_queue.providers import errors
from picture_queue.providers.base import OutputSink
from picture_queue.providers.replicate.errors import from_response

DELIVERY = "replicate.delivery"
_MAX_REDIRECTS = 3
#: IPv6 addresses with an IPv4 address in their last 32 bits (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_RESOLVE_TIMEOUT = 5.0  # seconds
# A download may take this time, and more for each byte that it has received. The timeouts of httpx
# count from one read to the next, so a server that sends a byte a second never exceeds them.
_BASE_TIMEOUT = 150.0  # seconds
_MIN_RATE = 50_000  # bytes a second


@dataclass(frozen=True)
class DownloadRules:
    """The rules for downloads.

    Attributes:
        hosts: Allowed hosts, or ``*.name`` for all subdomains of a name. A host that is listed by
            its full name may have a private address; a host that matches only a wildcard may not.
        origins: Allowed origins, such as ``http://127.0.0.1:9000``; they need not use https.
        max_bytes: Maximum size of a file.
    """

    hosts: tuple[str, ...] = (DELIVERY, f"*.{DELIVERY}")
    origins: tuple[str, ...] = ()
    max_bytes: int = 50_000_000

    def allowing(self, origin: str) -> Self:
        """Return a copy of the rules that allows one more origin."""
        return dataclasses.replace(self, origins=(*self.origins, origin))


async def download(
    http: httpx.AsyncClient,
    link: str,
    rules: DownloadRules,
    authorization: str,
    timeout: httpx.Timeout,
    sink: OutputSink,
) -> None:
    """Download one file.

    Args:
        http: The HTTP client to use.
        link: An http(s) URL, or a ``data:`` URI in base64.
        rules: The rules for downloads.
        authorization: Authorization header, for a host of ``replicate.delivery`` that answers 401.
        timeout: Timeouts of each request.
        sink: The buffer or file to which the output is written. It is cleared first.

    Raises:
        OutputExpired: The server answered 404 or 410.
        OutputRefused: The rules do not allow the download.
        OutputError: The server answered with another error.
        ServiceUnavailable: The server answered 429 or 5xx, or the connection was lost.
    """
    sink.clear()
    if link.startswith("data:"):
        return await sink.write(await asyncio.to_thread(_decode_data_uri, link, rules.max_bytes))
    try:
        async with asyncio.timeout(_BASE_TIMEOUT) as deadline:
            await _fetch(http, link, rules, authorization, timeout, sink, deadline)
    except TimeoutError as error:
        raise errors.ServiceUnavailable("The output was downloaded too slowly") from error
    except (ValueError, httpx.InvalidURL):
        # The parsers of URLs, redirects and host names (idna) raise different errors.
        raise errors.OutputRefused("The URL of the output is invalid") from None


async def _fetch(
    http: httpx.AsyncClient,
    link: str,
    rules: DownloadRules,
    authorization: str,
    timeout: httpx.Timeout,
    sink: OutputSink,
    deadline: asyncio.Timeout,
) -> None:
    headers = {"Accept-Encoding": "identity"}
    for _ in range(_MAX_REDIRECTS + 1):
        httpx.URL(link)  # raises if httpx refuses a link that urlsplit accepts
        url = urlsplit(link)
        await _expect_allowed(url, rules)
        try:
            async with http.stream(
                "GET", link, headers=headers, timeout=timeout, follow_redirects=False
            ) as response:
                if response.is_redirect:
                    link = urljoin(link, response.headers.get("location", ""))
                    headers.pop("Authorization", None)
                elif response.status_code == 401 and _may_get_token(url, headers):
                    headers["Authorization"] = authorization
                else:
                    return await _read(response, rules.max_bytes, sink, deadline)
        except httpx.RequestError as error:
            raise errors.ServiceUnavailable(
                f"The output could not be downloaded from {url.hostname}",
                detail=type(error).__name__,
            ) from error
    raise errors.OutputRefused("The output is behind too many redirects")


async def _read(
    response: httpx.Response, limit: int, sink: OutputSink, deadline: asyncio.Timeout
) -> None:
    status = response.status_code
    if status in (404, 410):
        raise errors.OutputExpired("The output was deleted", status=status)
    if status == 429 or status >= 500:
        # Not TooManyRequests: a 429 for a file does not mean that the account is throttled.
        error = from_response(status, response.headers, None)
        raise errors.ServiceUnavailable(
            f"The host of the output answered {status}",
            retry_after=error.retry_after,
            status=status,
        )
    if status != 200:
        raise errors.OutputError(f"The host of the output answered {status}", status=status)
    try:
        async for chunk in _chunks(response, limit):
            await sink.write(chunk)
            deadline.reschedule((deadline.when() or 0) + len(chunk) / _MIN_RATE)
    except _TooLarge:
        raise errors.OutputRefused(
            "The output is too large", detail=f"It is larger than {limit} bytes"
        ) from None


# httpx decompresses these encodings in pieces of at most 64 KiB, each of which expands to at most
# 64 MiB. Other encodings, and several nested encodings, have no such limit.
ENCODINGS = "gzip, deflate"


async def read_body(response: httpx.Response, limit: int) -> bytes | None:
    """Read the body of a response; return None if it is larger than ``limit`` bytes.

    Raises:
        httpx.DecodingError: The body has an encoding other than those in ``ENCODINGS``, or several.
    """
    data = bytearray()
    try:
        async for chunk in _chunks(response, limit):
            data += chunk
    except _TooLarge:
        return None
    return bytes(data)


class _TooLarge(Exception):
    """A body is larger than its limit."""


async def _chunks(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    encoding = response.headers.get("content-encoding", "").lower()
    if encoding.strip() not in ("", "identity", "gzip", "deflate"):
        raise httpx.DecodingError(f"the response has the encoding {encoding[:40]}")
    length = response.headers.get("content-length", "")
    if not encoding and length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _TooLarge
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > limit:
            raise _TooLarge
        yield chunk


def _decode_data_uri(uri: str, limit: int) -> bytes:
    head, _, body = uri.partition(",")
    if not head.endswith(";base64") or len(body) * 3 // 4 > limit + 2:
        raise errors.OutputRefused(
            "The output is a data URI that is too large or not in base64", detail=ascii(head[:80])
        )
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        raise errors.OutputRefused(
            "The output is a data URI with invalid base64", detail=ascii(head[:80])
        ) from None


async def _expect_allowed(url: SplitResult, rules: DownloadRules) -> None:
    if f"{url.scheme}://{url.netloc}" in rules.origins:
        return
    host = (url.hostname or "").rstrip(".")
    if url.scheme != "https" or url.username is not None or not host:
        raise _not_allowed(url, "The URL is not https, has a user name, or has no host")
    if host in rules.hosts:
        return
    if not any(host.endswith(rule[1:]) for rule in rules.hosts if rule.startswith("*.")):
        raise _not_allowed(url, "The host is not in the list of allowed hosts")
    if url.port not in (None, 443):
        raise _not_allowed(url, "The port is not 443")
    for address in await _addresses(host):
        if not _is_public(address):
            raise _not_allowed(url, "The host has a private address")


def _is_public(text: str) -> bool:
    """Return whether an address, or the IPv4 address that it contains, is public."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = embedded or address
    return address.is_global and not address.is_multicast and not address.is_reserved


async def _addresses(host: str) -> list[str]:
    """Return the addresses of a host; an empty list if only a proxy can resolve the host.

    Raises:
        ServiceUnavailable: The name server does not answer.
    """
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            entries = await asyncio.get_running_loop().getaddrinfo(
                host, 443, type=socket.SOCK_STREAM
            )
    except TimeoutError as error:
        raise errors.ServiceUnavailable(f"The name {host} could not be resolved") from error
    except OSError:
        return []
    return [str(entry[4][0]).partition("%")[0] for entry in entries]


def _may_get_token(url: SplitResult, headers: dict[str, str]) -> bool:
    host = url.hostname or ""
    is_delivery = url.scheme == "https" and (host == DELIVERY or host.endswith(f".{DELIVERY}"))
    return is_delivery and "Authorization" not in headers


def _not_allowed(url: SplitResult, reason: str) -> errors.OutputRefused:
    return errors.OutputRefused(
        "The output is at a URL that is not allowed",
        detail=f"{reason}: {json.dumps((url.hostname or '')[:100])}",
        hint="Add the host to the allowed download hosts if it is Replicate's",
    )
