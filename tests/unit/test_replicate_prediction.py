"""Predictions of Replicate: their fields, progress in their logs, and links in their output."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from picture_queue.providers.replicate.prediction import (
    Prediction,
    output_links,
    progress_from_logs,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "replicate"


def recorded_body(name: str, case: str) -> dict[str, Any]:
    cases = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))["cases"]
    recorded = next(recorded for recorded in cases if recorded["name"] == case)
    body: dict[str, Any] = recorded["response"]["body"]
    return body


def make_prediction(**fields: Any) -> Prediction:
    base = {"id": "p", "status": "processing", "created_at": "2026-01-01T10:00:00.000Z"}
    return Prediction.model_validate(base | fields)


@pytest.mark.parametrize(
    ("name", "case", "has_ended"),
    [
        ("create_201_starting", "official_model", False),
        ("create_201_starting", "sync_wait_finished", False),
        ("get_200_processing", "percent_14", False),
        ("get_200_succeeded_list", "two_images", True),
        ("get_200_failed", "interrupted_transient", True),
        ("cancel_200_canceled", "cancel_running", True),
        ("cancel_200_canceled", "aborted_by_deadline", True),
    ],
)
def test_a_recorded_prediction_has_ended_or_still_runs(
    name: str, case: str, has_ended: bool
) -> None:
    prediction = Prediction.model_validate(recorded_body(name, case))
    assert prediction.id == recorded_body(name, case)["id"]
    assert prediction.has_ended is has_ended


def test_unknown_states_and_fields_are_accepted() -> None:
    prediction = make_prediction(status="hibernating", favourite_colour="blue")
    assert not prediction.has_ended


def test_nulls_are_read_as_empty_and_errors_as_text() -> None:
    prediction = make_prediction(
        input=None, logs=None, metrics=None, data_removed=None, error={"a": 1}
    )
    assert (prediction.input, prediction.logs, prediction.metrics, prediction.data_removed) == (
        {},
        "",
        {},
        False,
    )
    assert prediction.error == "{'a': 1}"


@pytest.mark.parametrize(
    "time_text", ["2026-01-01T10:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_times_without_a_zone_and_at_the_limits_of_datetime_are_read(time_text: str) -> None:
    prediction = make_prediction(
        status="canceled", created_at=time_text, deadline=time_text, completed_at=time_text
    )
    assert prediction.reached_deadline
    assert (prediction.created_at >= datetime.now(UTC)) is time_text.startswith("9999")


def test_the_repr_of_a_prediction_does_not_contain_the_prompt() -> None:
    prediction = make_prediction(input={"prompt": "secret"}, logs="drawing secret")
    assert "secret" not in repr(prediction)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("percent_14", (14, 4, 28)),
        ("percent_50", (50, 14, 28)),
        ("no_percent", None),
        ("download_bar_is_not_progress", None),
    ],
)
def test_progress_is_read_from_recorded_logs(
    case: str, expected: tuple[int, int, int] | None
) -> None:
    prediction = Prediction.model_validate(recorded_body("get_200_processing", case))
    assert prediction.progress == expected


@pytest.mark.parametrize(
    ("logs", "percent"),
    [
        (None, None),
        ("", None),
        ("about 50% of it", None),
        # A second progress bar has begun.
        ("100%|████| 20/20 [00:01<?]\n  0%|    | 0/5 [00:00<?]", 0),
        (" 10%|█   | 1/10 [..]\r 20%|██  | 2/10 [..]\r\n", 20),
        ("\x1b[A 30%|███ | 3/10 [..]\x1b[0m", 30),
        ("Total progress: 40%|██  | 8/20 [..]\n 90%|███ | 9/10 [..]\n\x1b[A", 40),
        (" 20%|██  | 2/10 [..]\nsaving the picture\n", 20),
        ("7%|▋ | 2/28 [..]" + "x" * 9000, None),  # Only the end of the logs is read.
    ],
)
def test_progress_is_read_from_the_last_bar(logs: str | None, percent: int | None) -> None:
    progress = progress_from_logs(logs)
    assert (progress.percent if progress else None) == percent


@pytest.mark.parametrize(
    "logs",
    [
        "9" * 5000 + "%|█| 1/2",
        "50%|█| " + "9" * 5000 + "/2",
        "50%|█| 1/" + "9" * 5000,
        " " * 8000,
        "50%|" + "| " * 4000,
        "\x1b[" * 4000,
    ],
    ids=lambda logs: repr(logs[:10]),
)
def test_malformed_logs_give_no_progress_and_are_read_quickly(logs: str) -> None:
    began = time.thread_time()
    assert progress_from_logs(logs) is None
    assert time.thread_time() - began < 0.1


def test_unstorable_text_is_removed_from_errors_and_metrics() -> None:
    metrics = {
        "predict_time": 1.5,
        "image_count": 2,
        "resolution": "1 MP",
        "odd\0": "a\0\ud800",
        "huge": 10**5000,
        "inf": float("inf"),
        "nan": float("nan"),
        "deep": [[]],
        "long": "x" * 5000,
    }
    prediction = make_prediction(error="a\0\ud800" + "x" * 9000, metrics=metrics)
    assert prediction.error is not None
    assert (prediction.error[:3], len(prediction.error)) == ("a\ufffd?", 8192)
    assert prediction.metrics == {
        "predict_time": 1.5,
        "image_count": 2,
        "resolution": "1 MP",
        "odd\ufffd": "a\ufffd?",
        "long": "x" * 200,
    }
    assert len(make_prediction(metrics={str(n): n for n in range(1000)}).metrics) == 50
    assert make_prediction(metrics=[1]).metrics == {}


def nested_list(levels: int) -> Any:
    value: Any = "https://a/1.png"
    for _ in range(levels):
        value = [value]
    return value


def test_deeply_nested_outputs_and_errors_are_read() -> None:
    assert output_links(nested_list(5000)) == ["https://a/1.png"]
    assert (
        make_prediction(error=nested_list(5000)).error
        == "The error is nested too deeply to be shown"
    )


@pytest.mark.parametrize(
    ("name", "case", "count"),
    [
        ("get_200_succeeded_list", "two_images", 2),
        ("get_200_succeeded_list", "fewer_images_than_asked", 3),
        ("get_200_succeeded_list", "read_too_late", 0),
        ("get_200_succeeded_string", "one_image", 1),
        ("get_200_succeeded_string", "object_output", 1),
        ("create_201_starting", "sync_wait_finished", 1),
    ],
)
def test_links_are_read_from_recorded_outputs(name: str, case: str, count: int) -> None:
    assert len(output_links(recorded_body(name, case)["output"])) == count


def test_links_keep_their_order_and_other_values_are_ignored() -> None:
    output = {
        "images": ["https://a/1.png", {"image": "https://a/2.png", "style_id": "11-22"}],
        "seed": 7,
        "mask": "https://a/3.png",
        "note": None,
    }
    assert output_links(output) == ["https://a/1.png", "https://a/2.png", "https://a/3.png"]
