"""Errors of Replicate, and how to treat each.

ReplicateError
├── TooManyRequests      429: nothing was made; wait ``retry_after``
├── OutOfCredit          402: the account cannot pay; nobody's prompt is at fault
├── ServiceUnavailable   5xx or no answer, on a call that is safe to repeat
│   └── NotReached       no connection: nothing was sent, the attempt is given back
├── OutcomeUnknown       a create whose answer was lost: look before creating again
├── Unauthorized         401: the token is missing or wrong, for all jobs
├── Forbidden            403: the token is not permitted to do this
├── RequestRefused       any other 4xx
│   ├── ResourceNotFound 404: no such model, version or prediction
│   └── InputRejected    422, or a failure the input caused
│       └── InputTooLarge
├── PredictionFailed     the prediction itself ended without a result
│   ├── ContentRefused   moderation or a safety checker
│   ├── Interrupted      machine lost, provider down, platform codes
│   ├── Misconfigured    our request was built wrong
│   ├── DeadlinePassed   stopped by the deadline it was given
│   └── StoppedOutside   cancelled at Replicate by somebody else
└── OutputError          it succeeded, and the pictures could not be had
    ├── OutputExpired    deleted an hour after completion
    └── OutputRefused    unknown host, too large, or not a picture

A prediction that fails answers HTTP 200; its class is read from the error text, by code first and
by words second (https://replicate.com/docs/reference/error-codes has the four-digit codes; the
three-digit ones come from the models and were seen in public reports).
"""

import re
from collections.abc import Mapping
from typing import Any

from picture_queue._retry_after import parse_retry_after
from picture_queue.errors import PictureQueueError

MAX_RETRY_AFTER = 300.0
"""Seconds; a server that asks for more is asked again after this."""


class ReplicateError(PictureQueueError):
    """Base of all errors of this package.

    Attributes:
        public: A clean sentence for the owner of the job: no token, no prompt, no billing text.
        retryable: Whether another attempt of the job may end well.
        tries: Attempts in all this kind of error is worth, None for as many as the job has.
        counts: False when the job is not at fault and the attempt should be given back.
        retry_after: Seconds to wait before the next attempt, None to leave it to the backoff.
        status: HTTP status, where there was an answer.
    """

    public = "The image service could not make this picture."
    retryable = False
    tries: int | None = None
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
    """Too many requests (429). Nothing was made, a create may be sent again."""

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
    """5xx, or no answer, on a call that is safe to repeat."""

    public = "The image service is not available at the moment."
    retryable = True


class NotReached(ServiceUnavailable):
    """No connection could be made: the request was never sent, so no job is at fault."""

    counts = False


class OutcomeUnknown(ReplicateError):
    """The answer to a create was lost: a prediction may exist and be running."""

    public = "The image service did not answer."
    retryable = True


class Unauthorized(ReplicateError):
    """Replicate refused the token (401). The operator has to replace it; no job is at fault."""

    public = "The image service refused this server's credentials."
    retryable = True
    counts = False


class Forbidden(ReplicateError):
    """The token is not permitted to do this (403), perhaps to use this one model."""

    public = "The image service refused this server's credentials."
    retryable = True


class RequestRefused(ReplicateError):
    """Replicate refused the request. It is repeated once, since a single answer may be odd."""

    retryable = True
    tries: int | None = 2


class ResourceNotFound(RequestRefused):
    """No such model, version or prediction (404)."""

    public = "The image service does not have this model."


class InputRejected(RequestRefused):
    """The model does not take this input; the same input will be refused again."""

    public = "The model does not accept this input."
    retryable = False
    tries = None


class InputTooLarge(InputRejected):
    """The model cannot work on an input of this size."""

    public = "The model ran out of memory for this input; a smaller size may work."


class PredictionFailed(ReplicateError):
    """The prediction ended as failed, for a reason nobody has named."""

    public = "The image service failed to make this picture."
    retryable = True
    tries: int | None = 2


class ContentRefused(PredictionFailed):
    """Moderation or a safety checker refused the prompt or the result."""

    public = "The image service refused the prompt or its result as unsuitable content."
    retryable = False


class Interrupted(PredictionFailed):
    """Replicate lost the machine, could not start it or was too busy."""

    public = "The image service had a fault while making this picture."
    tries = None


class Misconfigured(PredictionFailed):
    """The request was built wrong; no other attempt will fare better."""

    retryable = False


class DeadlinePassed(PredictionFailed):
    """The prediction did not end within the time it was given."""

    public = "The image service took too long for this picture."


class StoppedOutside(PredictionFailed):
    """Somebody cancelled the prediction at Replicate."""

    public = "The picture was cancelled at the image service."
    retryable = False


class OutputError(ReplicateError):
    """The prediction succeeded and its pictures could not be had."""

    public = "The picture was made, but it could not be fetched."


class OutputExpired(OutputError):
    """Replicate deleted the output: it keeps it for one hour after completion."""

    public = "The picture was made, but the image service deleted it before it could be fetched."


class OutputRefused(OutputError):
    """The output is not something this library fetches or stores."""


def from_response(status: int, headers: Mapping[str, str], body: object) -> ReplicateError:
    """Turn an HTTP answer that is no success into its error.

    Args:
        status: HTTP status, 300 or above.
        headers: Headers of the answer.
        body: The decoded JSON, or None where there was none.
    """
    problem: dict[str, Any] = body if isinstance(body, dict) else {}
    told = _clip(problem.get("detail") or problem.get("title"))
    message = f"Replicate answered {status}"
    if status == 429:
        return TooManyRequests(
            message, retry_after=_retry_after(headers, problem), status=status, detail=told
        )
    if status == 402:
        # The text of Replicate links to a billing page: it is kept out of everything.
        return OutOfCredit(
            message, status=status, hint="Add credit to the Replicate account, or raise its limit"
        )
    if status >= 500:
        return ServiceUnavailable(
            message, retry_after=_retry_after(headers, problem), status=status, detail=told
        )
    if status in (401, 403):
        kind = Unauthorized if status == 401 else Forbidden
        return kind(message, status=status, detail=told, hint="Check REPLICATE_API_TOKEN")
    if status == 404:
        return ResourceNotFound(message, status=status, detail=told)
    if status == 413:
        return InputTooLarge(message, status=status, detail=told)
    if status == 422:
        return InputRejected(message, status=status, detail=told, public=_fields(problem))
    return RequestRefused(message, status=status, detail=told)


_SECONDS_IN_TEXT = re.compile(r"resets? in ~?(\d+(?:\.\d+)?)\s*s", re.IGNORECASE)


def _retry_after(headers: Mapping[str, str], problem: dict[str, Any]) -> float | None:
    """Return the seconds to wait: from the header, else the body, else the text, else None.

    A wait of 0 counts as none: the server that has just refused a request is not asked at once.
    """
    for stated in (parse_retry_after(headers.get("retry-after")), problem.get("retry_after")):
        try:
            seconds = float(stated)  # type: ignore[arg-type]  # None ends in the except
        except (TypeError, ValueError, OverflowError):
            continue
        if seconds > 0:
            return seconds
    match = _SECONDS_IN_TEXT.search(str(problem.get("detail", "")))
    return float(match[1]) if match else None


def _fields(problem: dict[str, Any]) -> str | None:
    """Return the refused fields as a sentence for the owner, or None if none is named."""
    fields = problem.get("invalid_fields")
    named = [
        f"{str(field.get('field', 'input')).removeprefix('input.')}: {field['description']}"
        for field in (fields if isinstance(fields, list) else [])
        if isinstance(field, dict) and field.get("description")
    ]
    return _clip(f"The model does not accept this input: {'; '.join(named)}.") if named else None


def _clip(text: object, limit: int = 300) -> str | None:
    if not text:
        return None
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


_CODE = re.compile(r"\bcode:\s*(\w+)|\b(E\d{3,4})\b")
_LONGER = 30.0  # seconds: a busy or broken provider needs more than the usual backoff

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
_WAIT_LONGER = {"E003", "E8765"}

_BY_WORDS: list[tuple[re.Pattern[str], type[ReplicateError]]] = [
    (re.compile(r"\bnsfw\b|flagged as sensitive", re.IGNORECASE), ContentRefused),
    (
        re.compile(r"out of memory|\btoo large\b|total number of pixels", re.IGNORECASE),
        InputTooLarge,
    ),
    (re.compile(r"\bmust be\b|\binvalid\b|\bunsupported\b", re.IGNORECASE), InputRejected),
]


def from_failure(text: str | None) -> ReplicateError:
    """Turn the ``error`` of a failed prediction into its error.

    Args:
        text: The error text of the prediction. It may quote the prompt, so it goes into the
            internal ``detail`` only.
    """
    told = text or ""
    match = _CODE.search(told)
    code = (match[1] or match[2]) if match else None
    kind = _BY_CODE.get(code or "") or next(
        (kind for words, kind in _BY_WORDS if words.search(told)), PredictionFailed
    )
    wait = _LONGER if code in _WAIT_LONGER else None
    return kind("The prediction failed", detail=_clip(text), retry_after=wait)
