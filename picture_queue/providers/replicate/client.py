"""An async client for the part of Replicate's HTTP API that making pictures needs.

What it repeats and what it does not (https://replicate.com/docs/reference/http):

- reads and cancels are repeated on 429, 5xx and lost connections;
- a create is repeated only when nothing can have been made: on 429 and when the request was never
  sent. The API has no idempotency key, so everything else raises `OutcomeUnknown`, and the caller
  looks before creating again.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
from picture_queue.providers.replicate import errors
from picture_queue.providers.replicate.download import ENCODINGS, DownloadRules, download, read_body
from picture_queue.providers.replicate.prediction import Prediction

logger = Log(__name__)

BASE_URL = "https://api.replicate.com/v1"
TIMEOUT = httpx.Timeout(30.0, connect=5.0, pool=10.0)
"""Seconds; the numbers of the official Python client. No call here asks the server to wait."""

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)
_LONGEST_LIST = 10  # pages of 100: bounds a search through a busy account
_LARGEST_ANSWER = 32 * 1024 * 1024  # bytes; a page of the list has 100 inputs and outputs
_LONG_ANSWER = 65_536  # bytes that take a millisecond to read


@dataclass(frozen=True)
class RetryPolicy:
    """The retries of a call that may be repeated.

    Attributes:
        tries: Requests in all.
        first_wait: Seconds before the second; doubles from there, plus jitter.
        longest_wait: Seconds, the most the doubling leads to.
        patience: Seconds spent waiting in all. A ``Retry-After`` that does not fit in is not
            waited for: the error carries it to the caller.
    """

    tries: int = 5
    first_wait: float = 0.5
    longest_wait: float = 8.0
    patience: float = 10.0


class ReplicateClient:
    """A client that creates, reads and cancels predictions, and downloads their output.

    Args:
        token: API token. It is sent in the Authorization header and shown nowhere.
        base_url: Where the API is, version included.
        http: Your own client; it stays yours to close. Without it one is made and closed here.
        retry: How calls are repeated.
        rules: From where, and how much, output is downloaded. The host of ``base_url`` is always
            allowed.
        timeout: Seconds for each part of a request.

    Attributes:
        rules: What may be downloaded and stored.

    Raises:
        ValueError: ``base_url`` is no http(s) address, or the token is empty.
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
            raise ValueError(f"the Replicate base URL is no http(s) address: {base_url!r}")
        if not token.strip():
            raise ValueError("the Replicate token is empty")
        self._base_url = base_url.rstrip("/")
        self._headers = {
            "Authorization": f"Bearer {token.strip()}",
            "Accept": "application/json",
            "Accept-Encoding": ENCODINGS,
            "User-Agent": "picture-queue",
        }
        self._own_http = http is None
        self._http = http
        self._retry = retry or RetryPolicy()
        self.rules = (rules or DownloadRules()).allowing(f"{base.scheme}://{base.netloc}")
        self._timeout = timeout

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
        """Close the connections, unless the HTTP client was given. Safe to call twice."""
        if self._own_http and self._http is not None:
            await self._http.aclose()
            self._http = None

    async def create(
        self,
        model: str,
        model_input: Mapping[str, Any],
        *,
        version: str | None = None,
        cancel_after: int,
    ) -> Prediction:
        """Create a prediction.

        Args:
            model: ``owner/name``.
            model_input: What the model gets.
            version: Version hash: runs a community model by it. None: an official model, which
                runs through its own endpoint and only through it.
            cancel_after: Seconds from creation after which Replicate stops it, at least 5. An
                orphan costs no more than this.

        Raises:
            OutcomeUnknown: The answer was lost; a prediction may exist.
            ReplicateError: Nothing was made; the class says why.
        """
        body: dict[str, Any] = {"input": dict(model_input)}
        if version is None:
            path = f"/models/{quote(model)}/predictions"
        else:
            path, body["version"] = "/predictions", version
        headers = {"Cancel-After": f"{max(5, cancel_after)}s"}
        send = self._attempts(_nothing_was_made)
        try:
            return _prediction(await send(self._send, "POST", path, json=body, headers=headers))
        except errors.NotReached:
            raise
        except (errors.ServiceUnavailable, errors.OutputRefused) as error:
            raise errors.OutcomeUnknown(
                "The answer to a create was lost", detail=str(error)
            ) from error

    async def get(self, prediction_id: str) -> Prediction:
        """Read one prediction.

        Raises:
            ResourceNotFound: There is none of that id, or it belongs to another account.
            ReplicateError: The class says why.
        """
        return _prediction(await self._repeat("GET", f"/predictions/{_segment(prediction_id)}"))

    async def cancel(self, prediction_id: str) -> Prediction:
        """Ask for a prediction to be cancelled; harmless when it has ended.

        Returns:
            The prediction as it is now. It can still end as succeeded: later reads decide.

        Raises:
            ResourceNotFound: There is none of that id.
            ReplicateError: The class says why.
        """
        path = f"/predictions/{_segment(prediction_id)}/cancel"
        return _prediction(await self._repeat("POST", path))

    async def created_after(self, moment: datetime) -> list[Prediction]:
        """List the account's predictions since a moment, newest first, at most 1000.

        Args:
            moment: With a time zone.

        Raises:
            ReplicateError: The class says why.
        """
        since = moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        params = {"created_after": since}
        found: list[Prediction] = []
        for _ in range(_LONGEST_LIST):
            page = await self._repeat("GET", "/predictions", params=params)
            results = page.get("results") if isinstance(page, dict) else None
            if not isinstance(results, list):
                raise errors.ServiceUnavailable("Replicate sent an unreadable list")
            found += [_prediction(entry) for entry in results]
            cursor = _cursor(page.get("next"))
            if not cursor:
                return found
            params = {"created_after": since, "cursor": cursor}
        logger.warning("stopped reading predictions after %d pages", _LONGEST_LIST)
        return found

    async def download(self, link: str) -> bytes:
        """Download one output file into memory.

        Args:
            link: A link out of ``output``, or the ``data:`` URI some answers hold instead.

        Raises:
            OutputExpired: It is no longer there.
            OutputRefused: Its host is not allowed, or it is too large.
            ServiceUnavailable: It could not be fetched now.
        """
        token, rules = self._headers["Authorization"], self.rules
        repeated = self._attempts(_can_be_repeated)
        return await repeated(download, self._client(), link, rules, token, self._timeout)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # The proxy of the environment cannot reach a simulator on loopback. Without the
            # environment, its proxy need not even be valid.
            self._http = httpx.AsyncClient(trust_env=not is_loopback_url(self._base_url))
        return self._http

    async def _repeat(self, method: str, path: str, **options: Any) -> Any:
        return await self._attempts(_can_be_repeated)(self._send, method, path, **options)

    async def _send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
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
                data = await read_body(response, _LARGEST_ANSWER)
        except _NEVER_SENT as error:
            raise errors.NotReached(
                f"Replicate is out of reach at {self._base_url}",
                detail=_reason(error),
                hint="Check the network of the worker, and REPLICATE_BASE_URL if it is set",
            ) from error
        except httpx.RequestError as error:
            raise errors.ServiceUnavailable(
                "Replicate did not answer", detail=_reason(error)
            ) from error
        try:
            body = await _decoded(data)
        except errors.ReplicateError:
            if response.is_success:
                raise
            body = None
        if not response.is_success:
            raise errors.from_response(response.status_code, response.headers, body)
        return body

    def _attempts(self, safe: retry_if_exception_type) -> AsyncRetrying:
        return AsyncRetrying(
            retry=safe,
            wait=self._wait,
            stop=stop_after_attempt(self._retry.tries) | stop_before_delay(self._retry.patience),
            before_sleep=_log_repeat,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        stated = error.retry_after if isinstance(error, errors.ReplicateError) else None
        if stated is None:
            first, longest = self._retry.first_wait, self._retry.longest_wait
            backoff = wait_exponential(first, max=longest) + wait_random(0, first)
            return backoff(state)
        # Only ever later than stated: earlier would be refused again.
        return stated + wait_random(0, stated * 0.1)(state)


_can_be_repeated = retry_if_exception_type((errors.TooManyRequests, errors.ServiceUnavailable))
_nothing_was_made = retry_if_exception_type((errors.TooManyRequests, errors.NotReached))


def _log_repeat(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait = state.next_action.sleep if state.next_action else 0.0
    logger.info("asking Replicate again in %.1f s after %s", wait, type(error).__name__)


async def _decoded(data: bytes | None) -> Any:
    """Read the JSON of an answer.

    Args:
        data: The answer, None if it is above the limit.

    Raises:
        ServiceUnavailable: It is no JSON; the next answer may be.
        OutputRefused: No later answer will be within the bounds.
    """
    if data is None:
        raise _beyond(f"it has over {_LARGEST_ANSWER} bytes")
    try:
        if len(data) > _LONG_ANSWER:  # heartbeats of other jobs would have to wait
            return await asyncio.to_thread(json.loads, data)
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise errors.ServiceUnavailable("Replicate sent an unreadable answer") from None
    except RecursionError:
        raise _beyond("it is nested too deeply") from None
    except ValueError:
        raise _beyond("it has a number of over 4,300 digits") from None


def _beyond(why: str) -> errors.OutputRefused:
    return errors.OutputRefused("Replicate sent an answer beyond all bounds", detail=why)


def _prediction(body: Any) -> Prediction:
    try:
        return Prediction.model_validate(body)
    except ValidationError:
        # Without the text of the error: it quotes the input, and with it the prompt.
        raise errors.ServiceUnavailable("Replicate sent an unreadable prediction") from None


def _cursor(link: object) -> str | None:
    """Return the cursor of a link and nothing else: it must not lead the token elsewhere."""
    try:
        query = urlsplit(link if isinstance(link, str) else "").query
        return parse_qs(query).get("cursor", [None])[0]
    except ValueError:
        raise errors.ServiceUnavailable("Replicate sent an unreadable list") from None


def _segment(text: str) -> str:
    return quote(text, safe="")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
