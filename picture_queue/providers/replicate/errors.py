"""Errors of Replicate, and the effect of each on the job.

ReplicateError
├── TooManyRequests      429: no prediction was created; wait ``retry_after``
├── OutOfCredit          402: the account cannot pay
├── ServiceUnavailable   5xx or no answer, to a call that is safe to repeat
│   └── NotReached       no connection: nothing was sent, so the attempt does not count
├── OutcomeUnknown       the answer to a create call was lost: search before creating again
├── Unauthorized         401: the token is missing or wrong, for all jobs
├── Forbidden            403: the token does not permit this call
├── RequestRefused       any other 4xx
│   ├── ResourceNotFound 404: no such model, version or prediction
│   └── InputRejected    422, or a failure that the input caused
│       └── InputTooLarge
├── PredictionFailed     the prediction ended without a result
│   ├── ContentRefused   moderation or a safety checker refused it
│   ├── Interrupted      Replicate lost the machine, was too busy, or had another fault
│   ├── Misconfigured    the request was built incorrectly
│   ├── DeadlinePassed   the prediction did not end before its deadline
│   └── StoppedOutside   the prediction was cancelled outside of picture-queue
└── OutputError          the prediction succeeded, but its pictures cannot be downloaded
    ├── OutputExpired    Replicate deletes the output after an hour
    └── OutputRefused    unknown host, too large, or not a picture

A failed prediction is read with HTTP 200. The class of its error depends on the code in its error
text, or without a code on the words. https://replicate.com/docs/reference/error-codes has the
four-digit codes; the three-digit codes come from the models and were found in public reports.
"""

import re
from collections.abc import Mapping
from typing import Any

from picture_queue._retry_after import MAX_RETRY_AFTER, parse_retry_after
from picture_queue.errors import PictureQueueError


class ReplicateError(PictureQueueError):
    """Base of all errors of this package.

    The worker reads `public`, `retryable`, `counts` and `retry_after` of any exception.

    Attributes:
        public: The error that the owner of the job sees: no token, no prompt, no billing text.
        retryable: True if another attempt of the job may succeed.
        max_attempts: Attempts of the job after which this class of errors is final; None: the
            number of the job.
        counts: False if the attempt does not count, since the job did not cause the error.
        retry_after: Seconds to wait before the next attempt; None: the backoff decides.
        status: HTTP status; None if there was no response.
    """

    public = "The image service could not make this picture."
    retryable = False
    max_attempts: int | None = None
    counts = True
    retry_after: float | None = None
    status: int | None = None

    def __init__(
        self,
        message: str,
        *,
        public: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        if public is not None:
            self.public = public
        if retry_after is not None:
            self.retry_after = min(max(retry_after, 0.0), MAX_RETRY_AFTER)
        self.status = status


class TooManyRequests(ReplicateError):
    """Too many requests (429). No prediction was created, so a create call may be repeated."""

    public = "The image service is busy; the picture will be made as soon as it is free."
    retryable = True
    counts = False


class OutOfCredit(ReplicateError):
    """The account has no credit or reached its limit (402)."""

    public = "The image service is not available at the moment."
    retryable = True
    counts = False
    retry_after = MAX_RETRY_AFTER


class ServiceUnavailable(ReplicateError):
    """Replicate answered 5xx or did not answer a call that is safe to repeat."""

    public = "The image service is not available at the moment."
    retryable = True


class NotReached(ServiceUnavailable):
    """No connection could be opened, so the request was never sent."""

    counts = False


class OutcomeUnknown(ReplicateError):
    """The answer to a create call was lost; a prediction may be running."""

    public = "The image service did not answer."
    retryable = True


class Unauthorized(ReplicateError):
    """Replicate refused the token (401). The operator has to replace it; no job is at fault."""

    public = "The image service refused this server's credentials."
    retryable = True
    counts = False


class Forbidden(ReplicateError):
    """The token lacks the permission for the call (403), perhaps only for this model."""

    public = "The image service refused this server's credentials."
    retryable = True


class RequestRefused(ReplicateError):
    """Replicate refused the request. The job is tried once more: one answer may be a mistake."""

    retryable = True
    max_attempts: int | None = 2


class ResourceNotFound(RequestRefused):
    """No such model, version or prediction (404)."""

    public = "The image service does not have this model."


class InputRejected(RequestRefused):
    """The model does not accept this input."""

    public = "The model does not accept this input."
    retryable = False
    max_attempts = None


class InputTooLarge(InputRejected):
    """The model cannot process an input of this size."""

    public = "The model ran out of memory for this input; a smaller size may work."


class PredictionFailed(ReplicateError):
    """The prediction failed for an unknown reason."""

    public = "The image service failed to make this picture."
    retryable = True
    max_attempts: int | None = 2


class ContentRefused(PredictionFailed):
    """Moderation or a safety checker refused the prompt or the result."""

    public = "The image service refused the prompt or its result as unsuitable content."
    retryable = False


class Interrupted(PredictionFailed):
    """Replicate lost the machine, could not start it, or was too busy."""

    public = "The image service had a fault while making this picture."
    max_attempts = None


class Misconfigured(PredictionFailed):
    """The request was built incorrectly, so every attempt would fail."""

    retryable = False


class DeadlinePassed(PredictionFailed):
    """The prediction did not end before its deadline."""

    public = "The image service took too long for this picture."


class StoppedOutside(PredictionFailed):
    """Somebody cancelled the prediction at Replicate."""

    public = "The picture was cancelled at the image service."
    retryable = False


class OutputError(ReplicateError):
    """The prediction succeeded, but its pictures cannot be downloaded."""

    public = "The picture was made, but it could not be fetched."


class OutputExpired(OutputError):
    """Replicate deleted the output, which it keeps for one hour after completion."""

    public = "The picture was made, but the image service deleted it before it could be fetched."


class OutputRefused(OutputError):
    """The output comes from a host that is not allowed, is too large, or is not a picture."""


def from_response(status: int, headers: Mapping[str, str], body: object) -> ReplicateError:
    """Convert an unsuccessful HTTP response into its error.

    Args:
        status: HTTP status, 300 or above.
        headers: Headers of the response.
        body: The decoded JSON; None if the response has none.
    """
    try:
        return _from_response(status, headers, body if isinstance(body, dict) else {})
    except RecursionError:  # a value is nested too deeply to be shown as text
        return _from_response(status, headers, {})


def _from_response(
    status: int, headers: Mapping[str, str], problem: dict[str, Any]
) -> ReplicateError:
    detail = _clip(problem.get("detail") or problem.get("title"))
    message = f"Replicate answered {status}"
    if status == 429:
        return TooManyRequests(
            message, retry_after=_retry_after(headers, problem), status=status, detail=detail
        )
    if status == 402:
        # The text of Replicate links to a billing page, so it is not used.
        return OutOfCredit(
            message, status=status, hint="Add credit to the Replicate account, or raise its limit"
        )
    if status >= 500:
        return ServiceUnavailable(
            message, retry_after=_retry_after(headers, problem), status=status, detail=detail
        )
    if status in (401, 403):
        kind = Unauthorized if status == 401 else Forbidden
        return kind(message, status=status, detail=detail, hint="Check REPLICATE_API_TOKEN")
    if status == 404:
        return ResourceNotFound(message, status=status, detail=detail)
    if status == 413:
        return InputTooLarge(message, status=status, detail=detail)
    if status == 422:
        public = _refused_fields(problem)
        return InputRejected(message, status=status, detail=detail, public=public)
    return RequestRefused(message, status=status, detail=detail)


_SECONDS_IN_TEXT = re.compile(r"resets? in ~?(\d+(?:\.\d+)?)\s*s", re.IGNORECASE)


def _retry_after(headers: Mapping[str, str], problem: dict[str, Any]) -> float | None:
    """Return the seconds to wait: from the header, the body or the error text, in this order.

    A value of 0 is ignored, so that a request that was just refused is not repeated at once.
    """
    for value in (parse_retry_after(headers.get("retry-after")), problem.get("retry_after")):
        try:
            seconds = float(value)  # type: ignore[arg-type]  # None raises a TypeError
        except (TypeError, ValueError, OverflowError):
            continue
        if seconds > 0:
            return seconds
    match = _SECONDS_IN_TEXT.search(str(problem.get("detail", "")))
    return float(match[1]) if match else None


def _refused_fields(problem: dict[str, Any]) -> str | None:
    """Return the refused fields as a sentence for the owner; None if the response names none."""
    fields = problem.get("invalid_fields")
    descriptions = [
        f"{str(field.get('field', 'input')).removeprefix('input.')}: {field['description']}"
        for field in (fields if isinstance(fields, list) else [])
        if isinstance(field, dict) and field.get("description")
    ]
    if not descriptions:
        return None
    return _clip(f"The model does not accept this input: {'; '.join(descriptions)}.")


def _clip(text: object, limit: int = 300) -> str | None:
    if not text:
        return None
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


_CODE = re.compile(r"\bcode:\s*(\w+)|\b(E\d{3,4})\b")
_LONGER_WAIT = 30.0  # seconds; longer than the usual backoff, for a busy or broken provider

_BY_CODE: dict[str, type[ReplicateError]] = {
    "PA": Interrupted,
    "E1000": Interrupted,
    "E1001": InputTooLarge,
    "E4875": Misconfigured,
    "E6716": Interrupted,
    "E8367": Interrupted,
    "E8765": Interrupted,
    "E9243": PredictionFailed,
    "E9825": Interrupted,
    "E9828": Interrupted,
    "E003": Interrupted,
    "E004": Interrupted,
    "E005": ContentRefused,
    "E006": InputRejected,
}
_CODES_WITH_LONGER_WAIT = {"E003", "E8765"}

_BY_WORDS: list[tuple[re.Pattern[str], type[ReplicateError]]] = [
    (re.compile(r"\bnsfw\b|flagged as sensitive", re.IGNORECASE), ContentRefused),
    (
        re.compile(r"out of memory|\btoo large\b|total number of pixels", re.IGNORECASE),
        InputTooLarge,
    ),
    (re.compile(r"\bmust be\b|\binvalid\b|\bunsupported\b", re.IGNORECASE), InputRejected),
]


def from_failure(text: str | None) -> ReplicateError:
    """Return the exception for the ``error`` of a failed prediction.

    Args:
        text: The error text of the prediction. It may quote the prompt, so only the internal
            ``detail`` contains it.
    """
    text = text or ""
    match = _CODE.search(text)
    code = (match[1] or match[2]) if match else None
    class_ = _BY_CODE.get(code or "") or next(
        (class_ for words, class_ in _BY_WORDS if words.search(text)), PredictionFailed
    )
    wait = _LONGER_WAIT if code in _CODES_WITH_LONGER_WAIT else None
    return class_("The prediction failed", detail=_clip(text), retry_after=wait)
