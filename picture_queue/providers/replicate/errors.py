"""The errors of Replicate's answers and of its failed predictions.

The API returns a failed prediction with HTTP 200. The code in the error text determines the class
of the error; without a code, the words of the text do. The four-digit codes are listed at
https://replicate.com/docs/reference/error-codes. The three-digit codes come from the models and
were found in public reports.
"""

import re
from collections.abc import Mapping
from typing import Any

from picture_queue._retry_after import parse_retry_after
from picture_queue._text import clean_line
from picture_queue.providers.errors import (
    ContentRefused,
    Forbidden,
    InputRejected,
    InputTooLarge,
    Interrupted,
    Misconfigured,
    OutOfCredit,
    PredictionFailed,
    ProviderError,
    RequestRefused,
    ResourceNotFound,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
)


def from_response(status: int, headers: Mapping[str, str], body: object) -> ProviderError:
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
) -> ProviderError:
    detail = _clip(problem.get("detail") or problem.get("title"))
    message = f"Replicate answered {status}"
    if status == 429:
        return TooManyRequests(
            message, retry_after=_retry_after(headers, problem), status=status, detail=detail
        )
    if status == 402:
        # Replicate's text is not used, because it links to a billing page.
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
        owner_message = _refused_fields(problem)
        return InputRejected(message, status=status, detail=detail, owner_message=owner_message)
    return RequestRefused(message, status=status, detail=detail)


_SECONDS_IN_TEXT = re.compile(r"resets? in ~?(\d+(?:\.\d+)?)\s*s", re.IGNORECASE)


def _retry_after(headers: Mapping[str, str], problem: dict[str, Any]) -> float | None:
    """Return the seconds to wait: from the header, the body or the error text, in this order.

    A value of 0 is ignored, so that a request that was just refused is not retried at once.
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
    """Return the beginning of a text that Replicate sent, as one line that can be stored."""
    return clean_line(str(text), limit) if text else None


_CODE = re.compile(r"\bcode:\s*(\w+)|\b(E\d{3,4})\b")
_LONGER_WAIT = 30.0  # seconds before a retry after the codes for a busy or broken provider

_BY_CODE: dict[str, type[ProviderError]] = {
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

_BY_WORDS: list[tuple[re.Pattern[str], type[ProviderError]]] = [
    (re.compile(r"\bnsfw\b|flagged as sensitive", re.IGNORECASE), ContentRefused),
    (
        re.compile(r"out of memory|\btoo large\b|total number of pixels", re.IGNORECASE),
        InputTooLarge,
    ),
    (re.compile(r"\bmust be\b|\binvalid\b|\bunsupported\b", re.IGNORECASE), InputRejected),
]


def from_failure(text: str | None) -> ProviderError:
    """Convert the ``error`` of a failed prediction into an exception.

    Args:
        text: The error text of the prediction. It may quote the prompt, so only the internal
            ``detail`` contains it.
    """
    text = text or ""
    match = _CODE.search(text)
    code = (match[1] or match[2]) if match else None
    class_ = _BY_CODE.get(code or "") or next(
        (class_ for pattern, class_ in _BY_WORDS if pattern.search(text)), PredictionFailed
    )
    wait = _LONGER_WAIT if code in _CODES_WITH_LONGER_WAIT else None
    return class_("The prediction failed", detail=_clip(text), retry_after=wait)
