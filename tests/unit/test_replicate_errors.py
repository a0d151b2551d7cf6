"""Errors of Replicate: the class, the text for the owner of the job, and whether to retry."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from picture_queue.errors import PictureQueueError
from picture_queue.providers import errors
from picture_queue.providers.replicate.errors import from_failure, from_response

FIXTURES = Path(__file__).parents[1] / "fixtures" / "replicate"


def recorded_responses(file_name: str) -> dict[str, dict[str, Any]]:
    cases = json.loads((FIXTURES / f"{file_name}.json").read_text("utf-8"))["cases"]
    return {case["name"]: case["response"] for case in cases}


def recorded_error(file_name: str, case: str) -> errors.ProviderError:
    answer = recorded_responses(file_name)[case]
    return from_response(answer["status_code"], answer["headers"], answer["body"])


@pytest.mark.parametrize(
    ("name", "error_class"),
    [
        ("error_401", errors.Unauthorized),
        ("error_402", errors.OutOfCredit),
        ("error_404", errors.ResourceNotFound),
        ("error_422", errors.InputRejected),
        ("error_429", errors.TooManyRequests),
    ],
)
def test_recorded_error_responses_map_to_classes(
    name: str, error_class: type[errors.ProviderError]
) -> None:
    for case in recorded_responses(name):
        error = recorded_error(name, case)
        assert type(error) is error_class
        assert isinstance(error, PictureQueueError)
        assert error.status == recorded_responses(name)[case]["status_code"]


@pytest.mark.parametrize(
    ("status", "error_class"),
    [
        (400, errors.RequestRefused),
        (403, errors.Forbidden),
        (413, errors.InputTooLarge),
        (500, errors.ServiceUnavailable),
        (504, errors.ServiceUnavailable),
        (302, errors.RequestRefused),
    ],
)
def test_other_statuses_map_to_classes(
    status: int, error_class: type[errors.ProviderError]
) -> None:
    assert type(from_response(status, {}, None)) is error_class


@pytest.mark.parametrize(
    ("case", "seconds"),
    [("with_header", 30.0), ("low_credit_no_header", 5.0), ("text_only", 12.0)],
)
def test_retry_after_comes_from_header_body_or_text(case: str, seconds: float) -> None:
    assert recorded_error("error_429", case).retry_after == seconds


def test_the_retry_after_header_overrides_the_body() -> None:
    error = from_response(429, {"retry-after": "2"}, {"retry_after": 50})
    assert error.retry_after == 2.0


@pytest.mark.parametrize(
    "header",
    ["Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2026 07:28:00 GMT", "nan", "-3", "0", ""],
)
def test_an_invalid_or_past_retry_after_header_is_ignored(header: str) -> None:
    assert from_response(429, {"retry-after": header}, None).retry_after is None


@pytest.mark.parametrize("status", [429, 503])
def test_the_retry_after_header_may_be_a_date(status: int) -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(minutes=4), usegmt=True)
    retry_after = from_response(status, {"retry-after": header}, None).retry_after
    assert retry_after is not None
    assert 60 < retry_after <= 240


def test_a_number_too_large_for_a_float_is_ignored() -> None:
    assert from_response(429, {}, {"retry_after": 10**400}).retry_after is None


@pytest.mark.parametrize("header", ["86400", "Tue, 01 Jan 2999 00:00:00 GMT"])
def test_retry_after_is_capped(header: str) -> None:
    error = from_response(429, {"retry-after": header}, None)
    assert error.retry_after == errors.MAX_RETRY_AFTER


def test_no_text_of_an_error_has_the_billing_message_of_replicate() -> None:
    error = recorded_error("error_402", "insufficient_credit")
    for text in (str(error), error.owner_message, repr(error)):
        assert "billing" not in text
        assert "purchase" not in text
    assert error.retryable
    assert not error.uses_attempt
    assert error.retry_after == errors.MAX_RETRY_AFTER


def test_throttling_does_not_use_up_an_attempt() -> None:
    error = recorded_error("error_429", "text_only")
    assert error.retryable
    assert not error.uses_attempt


def test_an_unreachable_provider_does_not_use_up_an_attempt() -> None:
    error = errors.NotReached("refused")
    assert error.retryable
    assert not error.uses_attempt


def test_the_owner_sees_the_names_of_refused_fields() -> None:
    error = recorded_error("error_422", "invalid_input")
    assert not error.retryable
    assert error.owner_message == (
        "The model does not accept this input: input: prompt is required;"
        " num_inference_steps: Must be less than or equal to 4."
    )
    assert (
        recorded_error("error_422", "unknown_version").owner_message
        == errors.InputRejected.owner_message
    )


@pytest.mark.parametrize(
    ("case", "error_class", "retryable"),
    [
        ("nsfw_permanent", errors.ContentRefused, False),
        ("flagged_e005_permanent", errors.ContentRefused, False),
        ("interrupted_transient", errors.Interrupted, True),
        ("director_transient", errors.Interrupted, True),
        ("busy_e003_transient", errors.Interrupted, True),
        ("out_of_memory_e1001", errors.InputTooLarge, False),
    ],
)
def test_recorded_failures_map_to_classes(
    case: str, error_class: type[errors.ProviderError], retryable: bool
) -> None:
    error = from_failure(recorded_responses("get_200_failed")[case]["body"]["error"])
    assert type(error) is error_class
    assert error.retryable is retryable


@pytest.mark.parametrize(
    ("text", "error_class", "retryable", "max_attempts"),
    [
        ("Director: unexpected error handling prediction (E1000)", errors.Interrupted, True, None),
        ("Director: unexpected error (E4875)", errors.Misconfigured, False, 2),
        ("Director: unexpected error (E6716)", errors.Interrupted, True, None),
        ("Director: unexpected error (E8367)", errors.Interrupted, True, None),
        ("Director: unexpected error (E9243)", errors.PredictionFailed, True, 2),
        ("Director: unexpected error (E9825)", errors.Interrupted, True, None),
        ("Service is temporarily unavailable. (E004)", errors.Interrupted, True, None),
        ("The prompt is invalid (E006)", errors.InputRejected, False, None),
        ("CUDA out of memory. Tried to allocate 2 GiB", errors.InputTooLarge, False, None),
        ("image is too large", errors.InputTooLarge, False, None),
        ("total number of pixels exceeds the limit", errors.InputTooLarge, False, None),
        ("width must be a multiple of 8", errors.InputRejected, False, None),
        ("unsupported file type", errors.InputRejected, False, None),
        ("KeyError: 'sampler'", errors.PredictionFailed, True, 2),
        (None, errors.PredictionFailed, True, 2),
    ],
)
def test_failures_are_classified_by_code_and_then_by_text(
    text: str | None,
    error_class: type[errors.ProviderError],
    retryable: bool,
    max_attempts: int | None,
) -> None:
    error = from_failure(text)
    assert type(error) is error_class
    assert error.retryable is retryable
    assert error.max_attempts == max_attempts


def test_the_code_of_a_failure_overrides_its_text() -> None:
    assert type(from_failure("invalid state, please retry (code: PA)")) is errors.Interrupted


@pytest.mark.parametrize("code", ["E003", "E8765"])
def test_a_busy_provider_causes_a_pause_of_30_seconds(code: str) -> None:
    assert from_failure(f"Service unavailable ({code})").retry_after == 30.0
    assert from_failure("Service unavailable (E004)").retry_after is None


def test_the_owner_never_sees_the_error_text_of_the_model() -> None:
    error = from_failure("could not draw 'my secret prompt'")
    assert "secret" not in error.owner_message
    assert "secret" in str(error)


def test_the_detail_of_an_error_has_at_most_300_characters() -> None:
    error = from_failure("x" * 5000)
    assert error.detail is not None
    assert len(error.detail) == 300
