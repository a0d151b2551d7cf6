"""The signed webhooks of Replicate, which follow Standard Webhooks.

See https://replicate.com/docs/topics/webhooks/verify-webhook and
https://www.standardwebhooks.com.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import UUID

from pydantic import ValidationError
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from picture_queue._log import Log
from picture_queue.providers import errors
from picture_queue.providers.replicate.prediction import Prediction

_log = Log(__name__)

_REFRESH_INTERVAL = 300.0  # seconds between two reads of the secret after an invalid signature
_RETRY_INTERVAL = 10.0  # seconds between two reads while none has succeeded
_THREAD_BYTES = 65_536  # a larger body is verified and parsed in a thread


def webhook_url(endpoint: str, row_id: UUID) -> str:
    """Return the URL for the webhooks of one prediction, which contains the id of its row."""
    parts = urlsplit(endpoint)
    query = "&".join(filter(None, (parts.query, urlencode({"prediction": str(row_id)}))))
    return urlunsplit(parts._replace(query=query))


class WebhookVerifier:
    """A verifier of webhooks that uses the secret of the account.

    Args:
        secret: ``REPLICATE_WEBHOOK_SECRET``; None: the secret is read from Replicate.
        fetch_secret: Coroutine function that reads the secret from Replicate. It is called before
            the first webhook, and again after an invalid signature, at most once in five minutes,
            so that a new secret takes effect. None: only `secret` is used.

    Raises:
        ValueError: The secret is not a ``whsec_`` secret.
    """

    def __init__(
        self,
        secret: str | None = None,
        fetch_secret: Callable[[], Awaitable[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._webhook = None if secret is None else _parse_secret(secret)
        self._fetch_secret = fetch_secret if secret is None else None
        self._clock = clock
        self._fetched_at: float | None = None
        self._lock = asyncio.Lock()

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Prediction:
        """Verify a webhook.

        Args:
            headers: The headers of the request.
            body: The unchanged body.

        Returns:
            The prediction that Replicate sent.

        Raises:
            WebhookRefused: The webhook is not from Replicate, is older than five minutes, or is
                not a prediction.
            ServiceUnavailable: The secret cannot be read from Replicate now.
        """
        webhook = self._webhook or await self._refresh(None)
        if not await _is_valid(webhook, headers, body):
            refreshed = await self._refresh(webhook)
            if refreshed is webhook or not await _is_valid(refreshed, headers, body):
                raise errors.WebhookRefused("The signature is missing, wrong or too old")
        try:
            if len(body) > _THREAD_BYTES:
                return await asyncio.to_thread(Prediction.model_validate_json, body)
            return Prediction.model_validate_json(body)
        except (ValidationError, ValueError, RecursionError):
            # The text of the error is omitted, since it quotes the prompt.
            raise errors.WebhookRefused("The webhook is not a prediction") from None

    async def _refresh(self, known: Webhook | None) -> Webhook:
        """Read the secret again, unless it has changed since the caller got ``known``.

        Returns:
            The current secret; it is ``known`` if no other could be read.
        """
        async with self._lock:
            if self._fetch_secret is not None and self._webhook is known and self._may_fetch():
                self._fetched_at = self._clock()
                try:
                    self._webhook = _parse_secret(await self._fetch_secret())
                except (errors.ProviderError, ValueError) as error:
                    _log.warning("the secret of Replicate's webhooks could not be read: %s", error)
            if self._webhook is None:
                raise errors.ServiceUnavailable("The secret of the webhooks could not be read")
            return self._webhook

    def _may_fetch(self) -> bool:
        if self._fetched_at is None:
            return True
        interval = _REFRESH_INTERVAL if self._webhook is not None else _RETRY_INTERVAL
        return self._clock() - self._fetched_at >= interval


async def _is_valid(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> bool:
    if len(body) > _THREAD_BYTES:
        return await asyncio.to_thread(_verify, webhook, headers, body)
    return _verify(webhook, headers, body)


def _verify(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: malformed header, or not UTF-8
        return False
    return True


def _parse_secret(secret: str) -> Webhook:
    try:
        if not secret.startswith("whsec_"):
            raise ValueError("no prefix")
        return Webhook(secret)
    except (EmptyWebhookSecretError, ValueError):
        raise ValueError("The secret of the webhooks does not begin with whsec_") from None
