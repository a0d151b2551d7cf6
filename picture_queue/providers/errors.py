"""Errors of providers, and the effect of each on the job.

ProviderError
├── TooManyRequests      429: no prediction was created; wait ``retry_after``
├── OutOfCredit          402: the account cannot pay
├── ServiceUnavailable   5xx or no answer, to a call that is safe to retry
│   └── NotReached       no connection: nothing was sent, so the attempt is not counted
├── OutcomeUnknown       the answer to a create call was lost: search before creating again
├── Unauthorized         401: the token is missing or wrong, for all jobs
├── Forbidden            403: the token does not permit this call
├── RequestRefused       any other 4xx
│   ├── ResourceNotFound 404: no such model, version or prediction
│   └── InputRejected    422, or a failure that the input caused
│       └── InputTooLarge
├── PredictionFailed     the prediction ended without a result
│   ├── ContentRefused   moderation or a safety checker refused it
│   ├── Interrupted      the provider lost the machine, was too busy, or had another fault
│   ├── Misconfigured    the request was built incorrectly
│   ├── DeadlinePassed   the prediction did not end before its deadline
│   ├── NotStarted       the prediction did not start before its deadline
│   └── StoppedOutside   the prediction was cancelled outside of picture-queue
├── OutputError          the prediction succeeded, but its pictures cannot be downloaded
│   ├── OutputExpired    the provider deleted the output
│   └── OutputRefused    unknown host, too large, or not a picture
├── ProviderMissing      this worker does not have the provider of the prediction
└── WebhookRefused       a webhook whose signature, time or body is invalid
"""

from picture_queue._retry_after import MAX_RETRY_AFTER
from picture_queue.errors import PictureQueueError


class ProviderError(PictureQueueError):
    """Base class of the errors of providers.

    The worker reads `owner_message`, `retryable`, `uses_attempt` and `retry_after` of any
    exception.

    Attributes:
        owner_message: The error for the owner of the job: no token, no prompt, no billing text.
        retryable: True if another attempt of the job may succeed.
        max_attempts: Number of attempts after which this error fails the job; None: the maximum
            of the job.
        uses_attempt: False if the attempt is not counted, because the job did not cause the error.
        retry_after: Seconds to wait before the next attempt; None: the backoff decides.
        status: HTTP status; None if there was no response.
    """

    owner_message = "The image service could not make this picture."
    retryable = False
    max_attempts: int | None = None
    uses_attempt = True
    retry_after: float | None = None
    status: int | None = None

    def __init__(
        self,
        message: str,
        *,
        owner_message: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        if owner_message is not None:
            self.owner_message = owner_message
        if retry_after is not None:
            self.retry_after = min(max(retry_after, 0.0), MAX_RETRY_AFTER)
        self.status = status


class TooManyRequests(ProviderError):
    """The provider limits the rate of calls (429). The refused call created no prediction."""

    owner_message = "The image service is busy; the picture will be made as soon as it is free."
    retryable = True
    uses_attempt = False


class OutOfCredit(ProviderError):
    """The account at the provider has no credit, or has reached its spending limit (402)."""

    owner_message = "The image service is not available at the moment."
    retryable = True
    uses_attempt = False
    retry_after = MAX_RETRY_AFTER


class ServiceUnavailable(ProviderError):
    """The provider answered 5xx or did not answer a call that is safe to retry."""

    owner_message = "The image service is not available at the moment."
    retryable = True


class NotReached(ServiceUnavailable):
    """No connection could be opened, so the request was never sent."""

    uses_attempt = False


class OutcomeUnknown(ProviderError):
    """The answer to a create call was lost; a prediction may be running."""

    owner_message = "The image service did not answer."
    retryable = True


class Unauthorized(ProviderError):
    """The provider refused the token (401). The operator has to replace the token."""

    owner_message = "The image service refused this server's credentials."
    retryable = True
    uses_attempt = False


class Forbidden(ProviderError):
    """The token lacks the permission for the call (403), perhaps only for this model."""

    owner_message = "The image service refused this server's credentials."
    retryable = True


class RequestRefused(ProviderError):
    """The request was refused. The job has a second attempt, since the refusal may be a mistake."""

    retryable = True
    max_attempts: int | None = 2


class ResourceNotFound(RequestRefused):
    """No such model, version or prediction (404)."""

    owner_message = "The image service does not have this model."


class InputRejected(RequestRefused):
    """The model does not accept this input."""

    owner_message = "The model does not accept this input."
    retryable = False
    max_attempts = None


class InputTooLarge(InputRejected):
    """The model cannot process an input of this size."""

    owner_message = "The model ran out of memory for this input; a smaller size may work."


class PredictionFailed(ProviderError):
    """The prediction failed for an unknown reason. The job has a second attempt."""

    owner_message = "The image service failed to make this picture."
    retryable = True
    max_attempts: int | None = 2


class ContentRefused(PredictionFailed):
    """Moderation or a safety checker refused the prompt or the result."""

    owner_message = "The image service refused the prompt or its result as unsuitable content."
    retryable = False


class Interrupted(PredictionFailed):
    """The provider lost the machine, could not start it, or was too busy."""

    owner_message = "The image service had a fault while making this picture."
    max_attempts = None


class Misconfigured(PredictionFailed):
    """The request was built incorrectly, so every attempt would fail."""

    retryable = False


class DeadlinePassed(PredictionFailed):
    """The prediction ran until its deadline. It may have cost money, so the job is not retried."""

    owner_message = "The image service took too long for this picture."
    retryable = False


class NotStarted(PredictionFailed):
    """The deadline of the prediction passed before its start, so the prediction costs nothing."""

    owner_message = "The image service did not start this picture in time."


class StoppedOutside(PredictionFailed):
    """Somebody cancelled the prediction at the provider."""

    owner_message = "The picture was cancelled at the image service."
    retryable = False


class OutputError(ProviderError):
    """The prediction succeeded, but its pictures cannot be downloaded."""

    owner_message = "The picture was made, but it could not be fetched."


class OutputExpired(OutputError):
    """The provider deleted the output, such as Replicate an hour after completion."""

    owner_message = (
        "The picture was made, but the image service deleted it before it could be fetched."
    )


class OutputRefused(OutputError):
    """The output comes from a host that is not allowed, is too large, or is not a picture."""


class ProviderMissing(ProviderError):
    """This worker does not have the provider of a prediction; another worker may have it."""

    owner_message = "The picture waits for a worker that can make it."
    retryable = True
    uses_attempt = False
    retry_after: float | None = 60.0


class WebhookRefused(ProviderError):
    """The signature, the time or the body of a webhook is invalid."""
