"""An async client for the part of Replicate's HTTP API that generations use.

The client retries these calls (https://replicate.com/docs/reference/http):

- reads and cancels after 429, 5xx and lost connections;
- a create call only if no prediction can have been created: after 429, and if the request was never
  sent. The API has no idempotency key, so any other failure raises `OutcomeUnknown`, and the caller
  must search for the prediction before it creates another.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

import httpx
from pydantic import ValidationError

from picture_queue.providers import errors
from picture_queue.providers.base import MemorySink, OutputSink
from picture_queue.providers.replicate.download import DownloadRules
from picture_queue.providers.replicate.http import (
    NOTHING_WAS_CREATED,
    TIMEOUT,
    ReplicateHttp,
    RetryPolicy,
)
from picture_queue.providers.replicate.prediction import Prediction

BASE_URL = "https://api.replicate.com/v1"
# A page has 100 predictions. An account at its rate limit creates fewer than 10,000 in 15 minutes.
_MAX_PAGES = 100
_MAX_PAGE_BYTES = 32 * 1024 * 1024  # a page contains 100 inputs and outputs
_SEARCH_WAIT_TIMEOUT = 30.0  # seconds to wait for the end of the search of another job
_MAX_RESULTS = 1000  # predictions in a page of the list; Replicate sends 100


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
        self._http = ReplicateHttp(token, base_url, http, retry, timeout)
        self.rules = (rules or DownloadRules()).allowing(self._http.origin)
        self._search_lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"ReplicateClient(base_url={self._http.base_url!r})"

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
        await self._http.aclose()

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
        try:
            return _parse_prediction(
                await self._http.send(
                    "POST", path, json=body, headers=headers, retry_if=NOTHING_WAS_CREATED
                )
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
        return _parse_prediction(await self._http.send("GET", path))

    async def cancel(self, prediction_id: str) -> Prediction:
        """Request the cancellation of a prediction; this has no effect if it has ended.

        Returns:
            The prediction as it is now. It may still succeed, so only a later read is final.

        Raises:
            ResourceNotFound: No prediction has that id.
            ProviderError: The call failed for the reason that the class states.
        """
        path = f"/predictions/{_quote_segment(prediction_id)}/cancel"
        return _parse_prediction(await self._http.send("POST", path))

    async def created_between(
        self, earliest: datetime, latest: datetime, is_wanted: Callable[[Prediction], bool]
    ) -> list[Prediction]:
        """Search the account's predictions of a span of time, newest first.

        One search runs at a time, and only the wanted predictions stay in memory, since a page can
        have many megabytes.

        Args:
            earliest: The start of the span of creation times, with a time zone.
            latest: The end of the span, with a time zone.
            is_wanted: Function that returns whether to return a prediction.

        Returns:
            The predictions, without their logs and outputs.

        Raises:
            NotReached: The search of another job did not end in 30 seconds.
            ServiceUnavailable: There are more than 10,000 predictions, or the call failed.
            ProviderError: The call failed for the reason that the class states.
        """
        try:
            async with asyncio.timeout(_SEARCH_WAIT_TIMEOUT):
                await self._search_lock.acquire()
        except TimeoutError as error:
            # Otherwise many jobs would wait one after the other for a list that does not answer.
            raise errors.NotReached("The search of another job did not end in time") from error
        try:
            return await self._search(earliest, latest, is_wanted)
        finally:
            self._search_lock.release()

    async def _search(
        self, earliest: datetime, latest: datetime, is_wanted: Callable[[Prediction], bool]
    ) -> list[Prediction]:
        span = {"created_after": _iso(earliest), "created_before": _iso(latest)}
        params = span
        matching: list[Prediction] = []
        for _ in range(_MAX_PAGES):
            page = await self._http.send(
                "GET", "/predictions", params=params, max_bytes=_MAX_PAGE_BYTES
            )
            results = page.get("results") if isinstance(page, dict) else None
            if not isinstance(results, list) or len(results) > _MAX_RESULTS:
                raise errors.ServiceUnavailable("Replicate sent an unreadable list")
            for entry in results:
                prediction = _parse_prediction(entry)
                if is_wanted(prediction):
                    matching.append(prediction.model_copy(update={"logs": "", "output": None}))
            cursor = _cursor(page.get("next"))
            if not cursor:
                return matching
            params = {**span, "cursor": cursor}
        # A prediction that was not seen may be paid for, so the caller must not create another.
        raise errors.ServiceUnavailable("Replicate has too many predictions to search")

    async def webhook_secret(self) -> str:
        """Read the secret with which Replicate signs the webhooks of the account.

        Raises:
            ProviderError: The call failed for the reason that the class states.
        """
        answer = await self._http.send("GET", "/webhooks/default/secret")
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
        answer = await self._http.send("GET", path)
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
        await self._http.download(link, self.rules, sink)


def _parse_prediction(body: Any) -> Prediction:
    try:
        return Prediction.model_validate(body)
    except ValidationError:
        # The text of the error is omitted, since it quotes the input, which contains the prompt.
        raise errors.ServiceUnavailable("Replicate sent an unreadable prediction") from None


def _cursor(link: object) -> str | None:
    """Return the cursor of a link to a page.

    The link itself is not used, because it could send the token to another host.
    """
    try:
        query = urlsplit(link if isinstance(link, str) else "").query
        return parse_qs(query).get("cursor", [None])[0]
    except ValueError:
        raise errors.ServiceUnavailable("Replicate sent an unreadable list") from None


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quote_segment(text: str) -> str:
    return quote(text, safe="")
