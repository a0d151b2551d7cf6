"""Delivery of the simulator's webhooks, signed as Replicate signs them.

A webhook is sent at the start and at the end of a prediction, and with ``logs`` while it runs. That
of the end is repeated for about a minute until it is answered with 2xx
(https://replicate.com/docs/topics/webhooks/receive-webhook).
"""

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from standardwebhooks.webhooks import Webhook

from picture_queue.local.simulator.state import Prediction

#: The events that a client may request.
EVENTS: Final = ("start", "output", "logs", "completed")
DEFAULT_EVENTS: Final = ("output", "completed")
_CHECK_INTERVAL: Final = 0.05  # seconds between two checks of whether a prediction has started
_LOG_INTERVAL: Final = 0.5  # seconds between two webhooks with logs
_DELAYS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before the deliveries of the end
_TIMEOUT: Final = 5.0  # seconds for one delivery
_MAX_DELIVERIES: Final = 50  # at the same time


@dataclass(frozen=True)
class Subscription:
    """The webhooks that a prediction sends.

    Attributes:
        url: The URL to send them to.
        events: The events to send.
        copies: Number of deliveries of each webhook.
    """

    url: str
    events: tuple[str, ...] = DEFAULT_EVENTS
    copies: int = 1


class WebhookSender:
    """The webhooks of all predictions.

    Args:
        secret: The secret with which they are signed, ``whsec_…``.
        clock: A function that returns the Unix time.
    """

    def __init__(self, secret: str, clock: Callable[[], float]) -> None:
        self.secret = secret
        self._webhook = Webhook(secret)
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_MAX_DELIVERIES)

    def send(self, prediction: Prediction, subscription: Subscription, base_url: str) -> None:
        """Send the webhooks of a prediction, in the background."""
        task = asyncio.create_task(self._send_all(prediction, subscription, base_url))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel_all(self) -> None:
        """Stop all deliveries."""
        for task in self._tasks:
            task.cancel()

    async def _send_all(
        self, prediction: Prediction, subscription: Subscription, base_url: str
    ) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as http:

            async def deliver() -> bool:
                return await self._deliver(
                    http, subscription, prediction.as_json(self._clock(), base_url)
                )

            sent_logs: str | None = None
            while prediction.ended_at(now := self._clock()) is None:
                logs = prediction.as_json(now, base_url)["logs"]
                is_start = sent_logs is None and "start" in subscription.events
                if now >= prediction.starts and (
                    is_start or ("logs" in subscription.events and logs != sent_logs)
                ):
                    sent_logs = logs
                    await deliver()
                await asyncio.sleep(_CHECK_INTERVAL if sent_logs is None else _LOG_INTERVAL)
            # The documentation does not say that `aborted` is sent.
            if "completed" in subscription.events and prediction.status(now) != "aborted":
                for delay in _DELAYS:
                    await asyncio.sleep(delay)
                    if await deliver():
                        return

    async def _deliver(
        self, http: httpx.AsyncClient, subscription: Subscription, body: dict[str, Any]
    ) -> bool:
        """Deliver a webhook and return whether it was accepted; redirects are not followed."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        message_id = f"msg_{secrets.token_hex(12)}"
        is_accepted = False
        for _ in range(subscription.copies):
            sent_at = datetime.now(UTC)
            headers = {
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(sent_at.timestamp())),
                "webhook-signature": self._webhook.sign(message_id, sent_at, text),
            }
            try:
                async with self._slots:
                    response = await http.post(
                        subscription.url, content=text.encode(), headers=headers
                    )
                is_accepted = response.is_success or is_accepted
            except httpx.HTTPError:
                continue
        return is_accepted
