"""Delivery of the simulator's webhooks, signed as Replicate signs them.

A webhook is sent at the start and at the end of a prediction, and while the prediction runs if the
client requests the event ``logs``. The webhook of the end is repeated for about a minute, until the
receiver answers 2xx (https://replicate.com/docs/topics/webhooks/receive-webhook).
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from standardwebhooks.webhooks import Webhook

from picture_queue.local.simulator.faults import Faults
from picture_queue.local.simulator.state import Prediction

#: The events that a client may request.
EVENTS: Final = ("start", "output", "logs", "completed")
DEFAULT_EVENTS: Final = ("output", "completed")
_CHECK_INTERVAL: Final = 0.05  # seconds between two checks of whether a prediction has started
_LOG_INTERVAL: Final = 0.5  # seconds between two webhooks with logs
_RETRY_DELAYS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds, for the webhook of the end
_TIMEOUT: Final = 5.0  # seconds for one delivery
_DEFAULT_DELAY: Final = 5.0  # seconds, for a fault `late_webhooks` without a delay
_STALE_AGE: Final = 3600  # seconds; the age of the old webhook that `forge_webhooks` sends
_MAX_DELIVERIES: Final = 50  # at the same time

#: The secret that signs forged webhooks.
_FORGED_SECRET: Final = "whsec_" + base64.b64encode(bytes(24)).decode()


@dataclass(frozen=True)
class Subscription:
    """The webhooks that a prediction sends.

    Attributes:
        url: The URL that receives the webhooks.
        events: The events to send.
        copies: Number of deliveries of each webhook.
        delay: Seconds before each delivery.
        is_forged: Whether two webhooks that a receiver must refuse precede each one.
        is_shuffled: Whether the webhook of the end precedes all others.
    """

    url: str
    events: tuple[str, ...] = DEFAULT_EVENTS
    copies: int = 1
    delay: float = 0.0
    is_forged: bool = False
    is_shuffled: bool = False


def subscribe(url: str, events: tuple[str, ...], faults: Faults) -> Subscription | None:
    """Return the subscription of a new prediction; None if its webhooks get lost."""
    repeats = faults.take("create", "repeat_webhooks") is not None
    late = faults.take("create", "late_webhooks")
    subscription = Subscription(
        url,
        events,
        copies=2 if repeats else 1,
        delay=0.0 if late is None else _DEFAULT_DELAY if late.seconds is None else late.seconds,
        is_forged=faults.take("create", "forge_webhooks") is not None,
        is_shuffled=faults.take("create", "shuffle_webhooks") is not None,
    )
    return None if faults.take("create", "lose_webhooks") else subscription


class WebhookSender:
    """The webhooks of all predictions.

    Args:
        secret: The secret that signs the webhooks, ``whsec_…``.
        clock: A function that returns the Unix time.
    """

    def __init__(self, secret: str, clock: Callable[[], float]) -> None:
        self.secret = secret
        self._webhook = Webhook(secret)
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_MAX_DELIVERIES)
        self._http: httpx.AsyncClient | None = None
        self._http_users = 0

    def send(self, prediction: Prediction, subscription: Subscription, base_url: str) -> None:
        """Send the webhooks of a prediction, in the background."""
        task = asyncio.create_task(self._send_all(prediction, subscription, base_url))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel_all(self) -> None:
        """Stop all deliveries."""
        for task in self._tasks:
            task.cancel()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Yield the HTTP client that all deliveries share; the last delivery closes the client."""
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False)
        http = self._http
        self._http_users += 1
        try:
            yield http
        finally:
            self._http_users -= 1
            if self._http_users == 0:
                self._http = None
                await http.aclose()

    async def _send_all(
        self, prediction: Prediction, subscription: Subscription, base_url: str
    ) -> None:
        async with self._client() as http:

            async def deliver(body: dict[str, Any] | None = None) -> bool:
                current = body or prediction.as_json(self._clock(), base_url)
                return await self._deliver(http, subscription, current)

            held_back: list[dict[str, Any]] = []
            sent_logs: str | None = None
            while prediction.ended_at(now := self._clock()) is None:
                logs = prediction.as_json(now, base_url)["logs"]
                is_start = sent_logs is None and "start" in subscription.events
                if now >= prediction.starts and (
                    is_start or ("logs" in subscription.events and logs != sent_logs)
                ):
                    sent_logs = logs
                    if subscription.is_shuffled:
                        held_back.append(prediction.as_json(now, base_url))
                    else:
                        await deliver()
                await asyncio.sleep(_CHECK_INTERVAL if sent_logs is None else _LOG_INTERVAL)
            # The documentation does not mention a webhook for `aborted`.
            if "completed" in subscription.events and prediction.status(now) != "aborted":
                for delay in _RETRY_DELAYS:
                    await asyncio.sleep(delay)
                    if await deliver():
                        break
            for body in reversed(held_back):
                await deliver(body)

    async def _deliver(
        self, http: httpx.AsyncClient, subscription: Subscription, body: dict[str, Any]
    ) -> bool:
        """Deliver a webhook and return whether it was accepted; redirects are not followed."""
        await asyncio.sleep(subscription.delay)
        message_id = f"msg_{secrets.token_hex(12)}"
        if subscription.is_forged:
            forged = _text(body | {"status": "failed", "output": None, "error": "forged"})
            forger, now = Webhook(_FORGED_SECRET), datetime.now(UTC)
            stale = now - timedelta(seconds=_STALE_AGE)
            await self._post(http, subscription.url, forger, f"{message_id}x", now, forged)
            await self._post(http, subscription.url, self._webhook, f"{message_id}y", stale, forged)
        is_accepted = False
        for _ in range(subscription.copies):
            is_accepted |= await self._post(
                http, subscription.url, self._webhook, message_id, datetime.now(UTC), _text(body)
            )
        return is_accepted

    async def _post(
        self,
        http: httpx.AsyncClient,
        url: str,
        signer: Webhook,
        message_id: str,
        sent_at: datetime,
        text: str,
    ) -> bool:
        """Send a signed message, and return whether it was accepted."""
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(sent_at.timestamp())),
            "webhook-signature": signer.sign(message_id, sent_at, text),
        }
        try:
            async with self._slots:
                response = await http.post(url, content=text.encode(), headers=headers)
        except Exception:  # an invalid URL also raises errors that are not of httpx
            return False
        return response.is_success


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
