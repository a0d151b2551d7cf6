"""Download output files. The links come from outside, so this decides where the worker goes.

An allow-list of hosts, https only, no redirect out of the list, no private address behind a
wildcard, a size limit. The token is sent only when a host of ``replicate.delivery`` asks for it:
the links are public in practice.
"""

import asyncio
import base64
import dataclasses
import ipaddress
import json
import socket
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from picture_queue.providers.replicate import errors

DELIVERY = "replicate.delivery"
_HOPS = 3
_RESOLVE_SECONDS = 5.0


@dataclass(frozen=True)
class DownloadRules:
    """The rules for downloads.

    Attributes:
        hosts: Names, or ``*.name`` for everything below a name. A host listed in full may have a
            private address, one that only fits a wildcard may not.
        origins: Origins (``http://127.0.0.1:9000``) allowed as they are, http included.
        max_bytes: Largest file.
        max_pixels: Most pixels of a picture: 16384 x 16384. A viewer needs 4 bytes for each.
    """

    hosts: tuple[str, ...] = (DELIVERY, f"*.{DELIVERY}")
    origins: tuple[str, ...] = ()
    max_bytes: int = 50_000_000
    max_pixels: int = 2**28

    def allowing(self, origin: str) -> Self:
        """Return the same rules with one more origin."""
        return dataclasses.replace(self, origins=(*self.origins, origin))


async def download(
    http: httpx.AsyncClient,
    link: str,
    rules: DownloadRules,
    authorization: str,
    timeout: httpx.Timeout,
) -> bytes:
    """Download one file into memory.

    Args:
        http: The client to use.
        link: http(s) link or base64 ``data:`` URI.
        rules: What may be downloaded.
        authorization: Authorization header, for a delivery host that answers 401.
        timeout: Seconds for each part of the request.

    Raises:
        OutputExpired: 404 or 410.
        OutputRefused: Against the rules.
        OutputError: Any other refusal of the server.
        ServiceUnavailable: 429, 5xx, or the connection was lost; safe to repeat.
    """
    if link.startswith("data:"):
        return await asyncio.to_thread(_decode, link, rules.max_bytes)
    try:
        return await _fetch(http, link, rules, authorization, timeout)
    except (ValueError, httpx.InvalidURL):
        # Each parser has its own words, those of host names (idna) and of redirects too.
        raise errors.OutputRefused("The output's address is broken") from None


async def _fetch(
    http: httpx.AsyncClient,
    link: str,
    rules: DownloadRules,
    authorization: str,
    timeout: httpx.Timeout,
) -> bytes:
    headers = {"Accept-Encoding": "identity"}
    for _ in range(_HOPS + 1):
        httpx.URL(link)  # what one parser takes and the other refuses is nothing to visit
        url = urlsplit(link)
        await _check(url, rules)
        try:
            async with http.stream(
                "GET", link, headers=headers, timeout=timeout, follow_redirects=False
            ) as response:
                if response.is_redirect:
                    link = urljoin(link, response.headers.get("location", ""))
                    headers.pop("Authorization", None)
                elif response.status_code == 401 and _wants_token(url, headers):
                    headers["Authorization"] = authorization
                else:
                    return await _read(response, rules.max_bytes)
        except httpx.RequestError as error:
            raise errors.ServiceUnavailable(
                f"The output could not be fetched from {url.hostname}", detail=type(error).__name__
            ) from error
    raise errors.OutputRefused("The output is behind too many redirects")


async def _read(response: httpx.Response, limit: int) -> bytes:
    status = response.status_code
    if status in (404, 410):
        raise errors.OutputExpired("The output is no longer there", status=status)
    if status == 429 or status >= 500:
        # Of one file: it is not the account that is throttled.
        error = errors.from_response(status, response.headers, None)
        raise errors.ServiceUnavailable(
            f"The output's server answered {status}", retry_after=error.retry_after, status=status
        )
    if status != 200:
        raise errors.OutputError(f"The output's server answered {status}", status=status)
    data = await read_body(response, limit)
    if data is None:
        raise errors.OutputRefused(
            "The output is too large", detail=f"It is larger than {limit} bytes"
        )
    return data


# What httpx unpacks a piece at a time, 64 KiB at most and a thousand times as much unpacked. Other
# encodings have no such bound.
ENCODINGS = "gzip, deflate"


async def read_body(response: httpx.Response, limit: int) -> bytes | None:
    """Read the body of an answer; None if it is larger than ``limit`` bytes.

    Raises:
        httpx.DecodingError: It is compressed in another way than ``ENCODINGS``.
    """
    packed = response.headers.get("content-encoding", "").lower()
    if not set(packed.replace(",", " ").split()) <= {"identity", "gzip", "deflate"}:
        raise httpx.DecodingError(f"the answer is compressed: {packed[:40]}")
    stated = response.headers.get("content-length", "")
    if not packed and stated.isdecimal() and (len(stated) > 18 or int(stated) > limit):
        return None
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > limit:
            return None
    return bytes(data)


def _decode(link: str, limit: int) -> bytes:
    head, _, body = link.partition(",")
    if not head.endswith(";base64") or len(body) * 3 // 4 > limit + 2:
        raise errors.OutputRefused("The output is no acceptable data URI", detail=ascii(head[:80]))
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        raise errors.OutputRefused(
            "The output is a broken data URI", detail=ascii(head[:80])
        ) from None


async def _check(url: SplitResult, rules: DownloadRules) -> None:
    if f"{url.scheme}://{url.netloc}" in rules.origins:
        return
    host = (url.hostname or "").rstrip(".")
    if url.scheme != "https" or url.username is not None or not host:
        raise _refused(url, "Its address is not acceptable")
    if host in rules.hosts:
        return
    if not any(host.endswith(rule[1:]) for rule in rules.hosts if rule.startswith("*.")):
        raise _refused(url, "Its host is not on the list")
    for address in await _addresses(host):
        if not ipaddress.ip_address(address).is_global:
            raise _refused(url, "Its host has a private address")


async def _addresses(host: str) -> list[str]:
    """Return the addresses of a host; none where only a proxy can resolve it."""
    try:
        async with asyncio.timeout(_RESOLVE_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _wants_token(url: SplitResult, sent: dict[str, str]) -> bool:
    host = url.hostname or ""
    delivers = url.scheme == "https" and (host == DELIVERY or host.endswith(f".{DELIVERY}"))
    return delivers and "Authorization" not in sent


def _refused(url: SplitResult, why: str) -> errors.OutputRefused:
    return errors.OutputRefused(
        "The output is not fetched from there",
        detail=f"{why}: {json.dumps((url.hostname or '')[:100])}",
        hint="Add the host to the allowed download hosts if it is Replicate's",
    )
