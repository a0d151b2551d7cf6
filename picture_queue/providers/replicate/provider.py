"""Replicate as a provider of pictures."""

from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any

from picture_queue.providers import base, errors
from picture_queue.providers.replicate import lost_predictions
from picture_queue.providers.replicate.client import ReplicateClient
from picture_queue.providers.replicate.errors import from_failure
from picture_queue.providers.replicate.prediction import Prediction, output_links
from picture_queue.providers.replicate.webhook import WebhookVerifier, webhook_url

#: The capabilities of Replicate.
CAPABILITIES = base.Capabilities(webhook=True, cancel=True, progress=True, recover="list")


class ReplicateProvider(base.Provider):
    """Replicate as a provider of pictures.

    Args:
        client: The client of the API. `aclose` closes it.
        webhook_url: The URL to which Replicate sends webhooks; None: predictions are polled.
        webhook_secret: The secret of the webhooks; None: it is read from Replicate.

    Raises:
        ValueError: The secret is invalid.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        client: ReplicateClient,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
    ) -> None:
        self._client = client
        self._webhook_url = webhook_url
        self._verifier = WebhookVerifier(webhook_secret, client.webhook_secret)

    def __repr__(self) -> str:
        return f"ReplicateProvider({self._client!r})"

    async def create(self, request: base.PredictionRequest) -> base.Prediction:
        """Create a prediction; see `base.Provider.create`.

        Raises:
            Misconfigured: The model can only be called by its version, which is not known.
        """
        if request.official is False and request.version is None:
            raise errors.Misconfigured(f"The catalogue has no version of {request.model_id}")
        created = await self._client.create(
            request.model_id,
            request.input,
            version=None if request.official else request.version,
            cancel_after=lost_predictions.cancel_after(request),
            webhook=self._webhook_url and webhook_url(self._webhook_url, request.row_id),
            webhook_events=("start", "logs", "completed")
            if request.reports_progress
            else ("start", "completed"),
        )
        return convert(created)

    @property
    def sends_webhooks(self) -> bool:
        return self._webhook_url is not None

    async def verify_webhook(self, headers: Mapping[str, str], body: bytes) -> base.Prediction:
        return convert(await self._verifier.verify(headers, body))

    async def get(self, prediction_id: str) -> base.Prediction:
        return convert(await self._client.get(prediction_id))

    async def cancel(self, prediction_id: str) -> base.Prediction:
        return convert(await self._client.cancel(prediction_id))

    async def download(self, output: str) -> bytes:
        return await self._client.download(output)

    async def download_into(self, output: str, sink: base.OutputSink) -> None:
        await self._client.download_into(output, sink)

    def classify(self, prediction: base.Prediction) -> errors.ProviderError:
        return from_failure(prediction.error)

    async def find_lost(
        self, request: base.PredictionRequest, taken: Container[str]
    ) -> Sequence[base.LostPrediction]:
        """Find predictions by model, input, time and deadline; see `base.Provider.find_lost`.

        A prediction is certain only if it has the deadline of the request. The prediction of
        another job with the same input differs only in its deadline. One in 97 pairs of rows has
        the same deadline.
        """
        candidates = await self._client.created_between(
            request.created_at - lost_predictions.CLOCK_SKEW,
            request.created_at + lost_predictions.MAX_DELAY,
            lambda listed: (
                listed.id not in taken and lost_predictions.is_candidate(request, listed)
            ),
        )
        return [
            base.LostPrediction(
                convert(candidate),
                lost_predictions.has_requested_deadline(candidate, request),
                partial(lost_predictions.may_be_of, candidate, request),
                lost_predictions.compare_inputs(request, candidate) == "equal",
            )
            for candidate in lost_predictions.most_likely_first(request, candidates)
        ]

    def time_limit(self, request: base.PredictionRequest) -> float:
        return lost_predictions.cancel_after(request)

    async def aclose(self) -> None:
        await self._client.aclose()


def convert(prediction: Prediction) -> base.Prediction:
    """Convert a prediction of the API to the class that all providers use."""
    bar = prediction.progress
    metrics: Mapping[str, Any] = prediction.metrics
    return base.Prediction(
        id=prediction.id,
        status=prediction.status,
        outputs=tuple(output_links(prediction.output)),
        error=prediction.error,
        progress=bar and base.Progress(bar.percent, f"generating, step {bar.step} of {bar.steps}"),
        metrics=metrics,
        reached_deadline=prediction.reached_deadline,
        output_deleted=prediction.data_removed,
    )
