"""An async client for the part of Replicate's HTTP API that generations use.

The client retries these calls (https://replicate.com/docs/reference/http):

- reads and cancels after 429, 5xx and lost connections;
- a create call only if no prediction can have been created: after 429, and if the request was never
  sent. The API has no idempotency key, so any other failure raises `OutcomeUnknown`, and the caller
  must search for the prediction before it creates another.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import httpx
from pydantic import ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from picture_queue._log import Log
from picture_queue._loopback import is_loopback_url
from picture_queue.providers import errors
from picture_queue.providers.base import MemorySink, OutputSink
from picture_queue.providers.replicate.download import ENCODINGS, DownloadRules, download, read_body
from picture_queue.providers.replicate.errors import from_response
from picture_queue.providers.replicate.prediction import Prediction

logger = Log(__name__)

BASE_URL = "https://api.replicate.com/v1"
#: The timeouts of the official Python client, in seconds. No call here asks the server to wait.
TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=10.0)

#: Errors that httpx raises only before it has sent a request.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)
_MAX_PAGES = 100  # pages of 100 predictions: 15 minutes of an account at its rate limit
# Python parses about 10 MB of JSON a second at most, and no other thread runs during that time.
_MIN_SECRET_BYTES = 16  # tokens of Replicate have 40
_MAX_ANSWER_BYTES = 8 * 1024 * 1024
_MAX_PAGE_BYTES = 32 * 1024 * 1024  # a page of the list has 100 inputs and outputs
_THREAD_PARSE_BYTES = 65_536  # JSON of this size takes about a millisecond to parse
# At most a 16th of an answer may be outside of strings. A byte there costs a hundred times as much
# to parse as one in a string: 8 MiB of empty lists take seconds and 300 MB.
_SYNTAX_SHARE = 16
# A string without an end matches up to the end of the text. Otherwise the search would start again
# at each quote in it, which takes quadratic time.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_MAX_RESULTS = 1000  # predictions in a page of the list; Replicate sends 100


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


class ReplicateClient:
    """A client that creates, reads and cancels predictions, and downloads their output.

    Args:
        token: API token. It is sent in the Authorization header, and is never shown or logged.
        base_url: URL of the API, including its version.
        http: Your own HTTP client, which you close; None: the client creates and closes one.
        retry: The retry policy; None: the default one.
        rules: The rules for downloads of output; None: the default ones. The origin of ``base_url``
            is always allowed.
        timeout: Timeouts of each request.

    Attributes:
        rules: The rules for downloads, including the origin of ``base_url``.

    Raises:
        ValueError: ``base_url`` is not an http(s) URL, or the token is empty.
    """

    def __init__(
        self,
        token: str,
        *,
        base_url: str = BASE_URL,
        http: httpx.AsyncClient | None = None,
        retry: RetryPolicy | None = None,
        rules: DownloadRules | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> None:
        base = urlsplit(base_url)
        if base.scheme not in ("http", "https") or not base.hostname:
            raise ValueError(f"the Replicate base URL is {base_url!r}, not an http(s) URL")
        if base.username is not None:  # errors and logs name the URL
            raise ValueError("the Replicate base URL contains a user name or password")
        if not token.strip():
            raise ValueError("the Replicate token is empty")
        self._base_url = base_url.rstrip("/")
        self._token = token.strip().encode()
        self._headers = {
            "Authorization": f"Bearer {token.strip()}",
            "Accept": "application/json",
            "Accept-Encoding": ENCODINGS,
            "User-Agent": "picture-queue",
        }
        self._owns_http = http is None
        self._http = http
        self._retry = retry or RetryPolicy()
        self.rules = (rules or DownloadRules()).allowing(f"{base.scheme}://{base.netloc}")
        self._timeout = timeout
        self._searching = asyncio.Lock()

    def __repr__(self) -> str:
        return f"ReplicateClient(base_url={self._base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless the caller passed the HTTP client. Idempotent."""
        if self._owns_http and self._http is not None:
            await self._http.aclose()
            self._http = None

    async def create(
        self,
        model: str,
        model_input: Mapping[str, Any],
        *,
        version: str | None = None,
        cancel_after: int,
        webhook: str | None = None,
        webhook_events: Sequence[str] = ("start", "completed"),
    ) -> Prediction:
        """Create a prediction.

        Args:
            model: Name of the model, ``owner/name``.
            model_input: The input of the model.
            version: Version hash of a community model; None for an official model, which can only
                be called through its own endpoint.
            cancel_after: Seconds from its creation after which Replicate stops the prediction, at
                least 5. This bounds the cost of a prediction that is never found again.
            webhook: URL to which Replicate sends the prediction when its state changes.
            webhook_events: The changes to send: ``start``, ``output``, ``logs``, ``completed``.

        Raises:
            OutcomeUnknown: The answer was lost; a prediction may exist.
            ProviderError: No prediction was created, for the reason that the class states.
        """
        body: dict[str, Any] = {"input": dict(model_input)}
        if version is None:
            path = f"/models/{quote(model)}/predictions"
        else:
            path, body["version"] = "/predictions", version
        if webhook is not None:
            body |= {"webhook": webhook, "webhook_events_filter": list(webhook_events)}
        headers = {"Cancel-After": f"{max(5, cancel_after)}s"}
        send = self._retrying(_if_nothing_was_created)
        try:
            return _parse_prediction(
                await send(self._send, "POST", path, json=body, headers=headers)
            )
        except errors.NotReached:
            raise
        except (errors.ServiceUnavailable, errors.OutputRefused) as error:
            raise errors.OutcomeUnknown(
                "The answer to a create call was lost", detail=str(error)
            ) from error

    async def get(self, prediction_id: str) -> Prediction:
        """Read one prediction.

        Raises:
            ResourceNotFound: No prediction has that id, or it belongs to another account.
            ProviderError: The call failed for the reason that the class states.
        """
        path = f"/predictions/{_quote_segment(prediction_id)}"
        return _parse_prediction(await self._send_with_retries("GET", path))

    async def cancel(self, prediction_id: str) -> Prediction:
        """Request the cancellation of a prediction; this has no effect if it has ended.

        Returns:
            The prediction as it is now. It may still succeed, so only a later read is final.

        Raises:
            ResourceNotFound: No prediction has that id.
            ProviderError: The call failed for the reason that the class states.
        """
        path = f"/predictions/{_quote_segment(prediction_id)}/cancel"
        return _parse_prediction(await self._send_with_retries("POST", path))

    async def created_between(
        self, first: datetime, last: datetime, keep: Callable[[Prediction], bool]
    ) -> list[Prediction]:
        """Search the account's predictions of a span of time, newest first.

        One search runs at a time, and only the predictions to keep stay in memory, since a page can
        have many megabytes.

        Args:
            first: The time of the oldest prediction, with a time zone.
            last: The time of the newest prediction, with a time zone.
            keep: Whether to return a prediction.

        Returns:
            The predictions, without their logs and outputs.

        Raises:
            ServiceUnavailable: There are more than 10,000 predictions, or the call failed.
            ProviderError: The call failed for the reason that the class states.
        """
        span = {"created_after": _iso(first), "created_before": _iso(last)}
        params = span
        found: list[Prediction] = []
        async with self._searching:
            for _ in range(_MAX_PAGES):
                page = await self._send_with_retries(
                    "GET", "/predictions", params=params, limit=_MAX_PAGE_BYTES
                )
                results = page.get("results") if isinstance(page, dict) else None
                if not isinstance(results, list) or len(results) > _MAX_RESULTS:
                    raise errors.ServiceUnavailable("Replicate sent an unreadable list")
                for entry in results:
                    prediction = _parse_prediction(entry)
                    if keep(prediction):
                        found.append(prediction.model_copy(update={"logs": "", "output": None}))
                cursor = _cursor(page.get("next"))
                if not cursor:
                    return found
                params = {**span, "cursor": cursor}
        # A prediction that was not seen may be paid for, so the caller must not create another.
        raise errors.ServiceUnavailable("Replicate has too many predictions to search")

    async def webhook_secret(self) -> str:
        """Read the secret with which Replicate signs the webhooks of the account.

        Raises:
            ProviderError: The call failed for the reason that the class states.
        """
        answer = await self._send_with_retries("GET", "/webhooks/default/secret")
        key = answer.get("key") if isinstance(answer, dict) else None
        if not isinstance(key, str):
            raise errors.ServiceUnavailable("Replicate sent an unreadable secret")
        return key

    async def get_model(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Read a model, or one of its versions, as the API describes it.

        Raises:
            ResourceNotFound: There is no such model or version, or it is private.
            ProviderError: The call failed for the reason that the class states.
        """
        path = f"/models/{quote(model)}"
        if version is not None:
            path += f"/versions/{_quote_segment(version)}"
        answer = await self._send_with_retries("GET", path)
        if not isinstance(answer, dict):
            raise errors.ServiceUnavailable("Replicate sent an unreadable model")
        return answer

    async def download(self, link: str) -> bytes:
        """Download one output file into memory; see `download_into`."""
        sink = MemorySink()
        await self.download_into(link, sink)
        return bytes(sink.data)

    async def download_into(self, link: str, sink: OutputSink) -> None:
        """Download one output file.

        Args:
            link: A URL or ``data:`` URI in the ``output`` of a prediction.
            sink: The place to which the file is written.

        Raises:
            OutputExpired: The file was deleted.
            OutputRefused: The rules do not allow the host or the size of the file.
            ServiceUnavailable: The file cannot be downloaded now.
        """
        authorization, rules = self._headers["Authorization"], self.rules
        retry = self._retrying(_if_transient)
        await retry(download, self._client(), link, rules, authorization, self._timeout, sink)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # A simulator on this machine is called without the proxy of the environment, which may
            # even be invalid.
            self._http = httpx.AsyncClient(trust_env=not is_loopback_url(self._base_url))
            # A host of outputs must not change later requests, such as by cookies of any size.
            self._http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return self._http

    async def _send_with_retries(self, method: str, path: str, **options: Any) -> Any:
        return await self._retrying(_if_transient)(self._send, method, path, **options)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        limit: int = _MAX_ANSWER_BYTES,
        **options: Any,
    ) -> Any:
        try:
            async with self._client().stream(
                method,
                self._base_url + path,
                headers={**self._headers, **(headers or {})},
                timeout=self._timeout,
                follow_redirects=False,
                **options,
            ) as response:
                data = await read_body(response, limit)
                # A proxy may quote the request in its answer. A shorter token than those of
                # Replicate may be part of other words.
                if data is not None and len(self._token) >= _MIN_SECRET_BYTES:
                    data = data.replace(self._token, b"(token)")
        except _NEVER_SENT as error:
            raise errors.NotReached(
                f"Replicate cannot be reached at {self._base_url}",
                detail=_describe(error),
                hint="Check the network of the worker, and REPLICATE_BASE_URL if it is set",
            ) from error
        except httpx.RequestError as error:
            raise errors.ServiceUnavailable(
                "Replicate did not answer", detail=_describe(error)
            ) from error
        try:
            if data is None:
                raise _too_large(f"It has over {limit} bytes")
            body = await _decode(data, limit // _SYNTAX_SHARE)
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
        # The jitter only lengthens the wait: an earlier request would be refused again.
        return retry_after + wait_random(0, retry_after * 0.1)(state)


_if_transient = retry_if_exception_type((errors.TooManyRequests, errors.ServiceUnavailable))
_if_nothing_was_created = retry_if_exception_type((errors.TooManyRequests, errors.NotReached))


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    logger.info("repeating the call to Replicate in %.1f s after %s", wait, type(error).__name__)


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


def _parse_prediction(body: Any) -> Prediction:
    try:
        return Prediction.model_validate(body)
    except ValidationError:
        # The text of the error is omitted, since it quotes the input, which contains the prompt.
        raise errors.ServiceUnavailable("Replicate sent an unreadable prediction") from None


def _cursor(link: object) -> str | None:
    """Return the cursor of a link to a page; the link could send the token to another host."""
    try:
        query = urlsplit(link if isinstance(link, str) else "").query
        return parse_qs(query).get("cursor", [None])[0]
    except ValueError:
        raise errors.ServiceUnavailable("Replicate sent an unreadable list") from None


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quote_segment(text: str) -> str:
    return quote(text, safe="")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
