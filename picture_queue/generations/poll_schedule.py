"""The times of the polls of a prediction, and of the parking of its job."""

import random

from picture_queue.generations.settings import HandlerSettings
from picture_queue.providers.base import Prediction, Provider
from picture_queue.records import BegunPrediction

_COLD_START = 60.0  # seconds in the status `starting` after which a prediction is polled slowly
_COLD_POLL_INTERVAL = 10.0  # seconds
_DEFAULT_TYPICAL_SECONDS = 4.0  # for models whose typical run time is not known
_MAX_RETRY_AFTER = 60.0  # seconds


class PollSchedule:
    """The times of the polls of one prediction.

    Args:
        begun: The row of the prediction.
        provider: The provider of the prediction.
        settings: The settings of the handler.
    """

    def __init__(
        self, begun: BegunPrediction, provider: Provider, settings: HandlerSettings
    ) -> None:
        self._settings = settings
        self._sends_webhooks = provider.sends_webhooks
        # With this interval, the polls of all running predictions keep the provider's rate limit.
        self._min_interval = begun.running / settings.polls_per_second
        first = settings.first_poll_interval
        if first is None:
            typical_seconds = begun.model.typical_seconds or _DEFAULT_TYPICAL_SECONDS
            first = min(max(typical_seconds / 8, 0.25), 1.0)
        self._interval = first
        if provider.capabilities.recover == "none":
            self._park_after = float("inf")  # the prediction ends with this process
        else:
            self._park_after = (
                settings.park_after_webhook if self._sends_webhooks else settings.park_after
            )

    def should_park(self, age: float) -> bool:
        """Return whether the job should wait without a slot, at this age of its prediction."""
        return age > self._park_after

    def parked_interval(self) -> float:
        """Return the seconds until the next poll of a parked job."""
        settings = self._settings
        interval = (
            settings.parked_poll_interval if self._sends_webhooks else settings.max_poll_interval
        )
        return _jittered(max(interval, self._min_interval))

    def next_interval(self, prediction: Prediction, age: float) -> float:
        """Return the seconds until the next poll."""
        is_cold = prediction.status == "starting" and age > _COLD_START
        interval = max(_COLD_POLL_INTERVAL if is_cold else self._interval, self._min_interval)
        self._interval = min(self._interval * 1.2, self._settings.max_poll_interval)
        return _jittered(interval)

    def slow_down(self, retry_after: float | None) -> None:
        """Poll later, because the provider limited the rate of calls or did not answer."""
        self._interval = max(self._interval, min(retry_after or 0.0, _MAX_RETRY_AFTER))


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - not for security
