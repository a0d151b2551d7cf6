"""Requests to Replicate's HTTP API: the token, the retries, and the limits of answers."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from picture_queue._http import AsyncHttpClient
from picture_queue._log import Log
from picture_queue._loopback import is_loopback_url
from picture_queue.providers import errors
from picture_queue.providers.base import OutputSink
from picture_queue.providers.replicate.download import ENCODINGS, DownloadRules, download, read_body
from picture_queue.providers.replicate.errors import from_response

logger = Log(__name__)

#: The timeouts of the official Python client, in seconds. No call here asks the server to wait.
#: Only the wait for a connection may be longer, since a worker may run a thousand jobs.
TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=60.0)

#: Seconds of a request in total: up to 65 for a connection, and the rest for the answer. The other
#: timeouts count from one read to the next, so a server that sends a byte a second never exceeds
#: them.
_TOTAL_TIMEOUT = 150.0

#: Errors that httpx raises only before it has sent a request.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)
_MIN_SECRET_BYTES = 16  # tokens of Replicate have 40
# Python parses about 10 MB of JSON a second at most, and no other thread runs during that time.
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_THREAD_PARSE_BYTES = 65_536  # JSON of this size takes about a millisecond to parse
# At most a 16th of an answer may be outside of strings. Parsing a byte outside of a string takes a
# hundred times as long as a byte in a string: 8 MiB of empty lists take seconds and 300 MB.
_SYNTAX_SHARE = 16
# A string without an end matches up to the end of the text. Otherwise the search would start again
# at each quote in it, which takes quadratic time.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)

#: The errors after which a call that is safe to retry is retried.
TRANSIENT = retry_if_exception_type((errors.TooManyRequests, errors.ServiceUnavailable))
#: The errors after which certainly no prediction was created.
NOTHING_WAS_CREATED = retry_if_exception_type((errors.TooManyRequests, errors.NotReached))


@dataclass(frozen=True)
class RetryPolicy:
    """The policy by which calls are retried.

    Attributes:
        max_attempts: Maximum number of requests.
        first_wait: Seconds before the second request. Each following wait is twice as long. Jitter
            is added.
        max_wait: Maximum seconds to wait before a request.
        retry_timeout: Maximum seconds from the first request to the start of the last one. If
            a ``Retry-After`` exceeds it, the error is raised at once, with its ``retry_after``.
    """

    max_attempts: int = 5
    first_wait: float = 0.5
    max_wait: float = 8.0
    retry_timeout: float = 10.0


class ReplicateHttp:
    """An HTTP client for the API that retries requests.

    See `ReplicateClient` for the arguments.

    Attributes:
        base_url: URL of the API, without a slash at its end.
        origin: Scheme, host and port of ``base_url``.

    Raises:
        ValueError: ``base_url`` is not an http(s) URL, or the token is empty.
    """

    def __init__(
        self,
        token: str,
        base_url: str,
        client: httpx.AsyncClient | None,
        retry: RetryPolicy | None,
        timeout: httpx.Timeout,
    ) -> None:
        base = urlsplit(base_url)
        if base.scheme not in ("http", "https") or not base.hostname:
            raise ValueError(f"the Replicate base URL is {base_url!r}, not an http(s) URL")
        if base.username is not None:  # errors and logs name the URL
            raise ValueError("the Replicate base URL contains a user name or password")
        if not token.strip():
            raise ValueError("the Replicate token is empty")
        self.base_url = base_url.rstrip("/")
        self.origin = f"{base.scheme}://{base.netloc}"
        self._token = token.strip().encode()
        self._headers = {
            "Authorization": f"Bearer {token.strip()}",
            "Accept": "application/json",
            "Accept-Encoding": ENCODINGS,
            "User-Agent": "picture-queue",
        }
        self._owns_client = client is None
        self._client = client
        self._retry = retry or RetryPolicy()
        self._timeout = timeout

    async def aclose(self) -> None:
        """Close the connections, unless the caller passed the client. Idempotent."""
        if self._owns_client and self._client is not None:
            await self._client.aclose()
            self._client = None

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = _MAX_ANSWER_BYTES,
        retry_if: retry_if_exception_type = TRANSIENT,
        **options: Any,
    ) -> Any:
        """Send a request and return the parsed JSON of its answer.

        Args:
            method: The HTTP method.
            path: The path below the base URL.
            headers: More headers.
            max_bytes: Maximum size of the answer.
            retry_if: The errors after which the request is retried.
            options: Options of `httpx.AsyncClient.stream`, such as ``json`` and ``params``.

        Raises:
            ProviderError: The call failed for the reason that the class states.
        """
        return await self._retrying(retry_if)(
            self._send, method, path, headers or {}, max_bytes, options
        )

    async def download(self, link: str, rules: DownloadRules, sink: OutputSink) -> None:
        """Download one output file; see `ReplicateClient.download_into`."""
        authorization = self._headers["Authorization"]
        retry = self._retrying(TRANSIENT)
        await retry(download, self._open_client(), link, rules, authorization, self._timeout, sink)

    def _open_client(self) -> httpx.AsyncClient:
        if self._client is None:
            # The proxy of the environment is not used for a simulator on this machine. The setting
            # of the proxy may even be invalid.
            self._client = AsyncHttpClient(trust_env=not is_loopback_url(self.base_url))
            # Cookies of a host of outputs must not be sent with later requests.
            self._client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return self._client

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        max_bytes: int,
        options: Mapping[str, Any],
    ) -> Any:
        try:
            async with (
                asyncio.timeout(_TOTAL_TIMEOUT),
                self._open_client().stream(
                    method,
                    self.base_url + path,
                    headers={**self._headers, **headers},
                    timeout=self._timeout,
                    follow_redirects=False,
                    **options,
                ) as response,
            ):
                data = await read_body(response, max_bytes)
                # A proxy may quote the request in its answer. A token that is shorter than those
                # of Replicate is not replaced, since it may be part of other words.
                if data is not None and len(self._token) >= _MIN_SECRET_BYTES:
                    data = data.replace(self._token, b"(token)")
        except _NEVER_SENT as error:
            raise errors.NotReached(
                f"Replicate cannot be reached at {self.base_url}",
                detail=_describe(error),
                hint="Check the network of the worker, and REPLICATE_BASE_URL if it is set",
            ) from error
        except (httpx.RequestError, TimeoutError) as error:
            raise errors.ServiceUnavailable(
                "Replicate did not answer", detail=_describe(error)
            ) from error
        try:
            if data is None:
                raise _too_large(f"It has over {max_bytes} bytes")
            body = await _decode(data, max_bytes // _SYNTAX_SHARE)
        except errors.ProviderError:
            if response.is_success:
                raise
            body = None
        if not response.is_success:
            raise from_response(response.status_code, response.headers, body)
        return body

    def _retrying(self, condition: retry_if_exception_type) -> AsyncRetrying:
        policy = self._retry
        return AsyncRetrying(
            retry=condition,
            wait=self._wait_seconds,
            stop=stop_after_attempt(policy.max_attempts) | stop_before_delay(policy.retry_timeout),
            before_sleep=_log_retry,
            reraise=True,
        )

    def _wait_seconds(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        retry_after = error.retry_after if isinstance(error, errors.ProviderError) else None
        if retry_after is None:
            first = self._retry.first_wait
            backoff = wait_exponential(first, max=self._retry.max_wait) + wait_random(0, first)
            return backoff(state)
        # The jitter only lengthens the wait, because an earlier request would be refused again.
        return retry_after + wait_random(0, retry_after * 0.1)(state)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    logger.info("retrying the call to Replicate in %.1f s after %s", wait, type(error).__name__)


async def _decode(data: bytes, max_syntax: int) -> Any:
    """Parse the JSON of an answer.

    Args:
        data: The answer.
        max_syntax: Maximum number of characters outside of strings.

    Raises:
        ServiceUnavailable: The answer is not JSON; a later one may be.
        OutputRefused: The answer exceeds a limit, as later answers will.
    """
    try:
        if len(data) > _THREAD_PARSE_BYTES:  # in a thread, so that heartbeats continue
            return await asyncio.to_thread(_parse, data.decode(), max_syntax)
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise errors.ServiceUnavailable("Replicate sent an unreadable answer") from None
    except RecursionError:
        raise _too_large("It is nested too deeply") from None
    except ValueError:
        raise _too_large("It has a number of over 4,300 digits") from None


def _parse(text: str, max_syntax: int) -> Any:
    if len(text) > max_syntax and len(_STRING.sub("", text)) > max_syntax:
        raise _too_large(f"It has over {max_syntax} characters outside of strings")
    return json.loads(text)


def _too_large(reason: str) -> errors.OutputRefused:
    return errors.OutputRefused("The answer of Replicate exceeds a limit", detail=reason)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
