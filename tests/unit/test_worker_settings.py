"""Settings of a worker, in particular its queues and their weights."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from picture_queue import Worker, WorkerSettings
from picture_queue.errors import SettingsError
from picture_queue_cli.worker import parse_weights


def test_queues_are_a_list_of_names_or_a_mapping_to_weights():
    without_weights = WorkerSettings(queues=["a", "b"])
    assert (without_weights.queue_names, without_weights.weights) == (("a", "b"), None)
    with_weights = WorkerSettings(queues={"a": 3, "b": 0.5})
    assert (with_weights.queue_names, with_weights.weights) == (("a", "b"), (3, 0.5))


def test_settings_copy_their_arguments():
    queues = {"a": 3.0}
    settings = WorkerSettings(queues=queues)
    queues["b"] = 1
    assert settings.queue_names == ("a",)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"queues": ("a", "")}, "`queues` has an empty name"),
        ({"queues": ("a", "b", "a")}, "`queues` has 'a' more than once"),
        ({"queues": "images"}, "`queues` is .images., not a list"),
        ({"queues": {"a": 0}}, "weight of queue a is 0"),
        ({"queues": {"a": 1, "b": -1}}, "weight of queue b is -1"),
        ({"queues": {"a": math.nan}}, "weight of queue a is nan"),
        ({"queues": {"a": math.inf}}, "weight of queue a is inf"),
        ({"concurrency": 0}, "`concurrency` is 0"),
        ({"stuck_after": -1}, "`stuck_after` is -1"),
        ({"concurrency": 2.5}, "`concurrency` is 2.5"),
        ({"concurrency": "3"}, "`concurrency` is '3'"),
        ({"lease": None}, "`lease` is None"),
        ({"queues": {"a": "3"}}, "weight of queue a is '3'"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], expected: str):
    with pytest.raises(SettingsError, match=expected):
        WorkerSettings(**settings)


def test_a_worker_accepts_queues_as_an_argument():
    client: Any = SimpleNamespace()
    worker = Worker(client, WorkerSettings(concurrency=3), queues={"a": 2})
    assert (worker.settings.concurrency, worker.settings.weights) == (3, (2,))
    assert Worker(client, queues=("a",)).settings.queue_names == ("a",)


@pytest.mark.parametrize(
    ("options", "queues"),
    [
        (["a", "b"], ("a", "b")),
        (["a=3", "b"], {"a": 3.0, "b": 1.0}),
        (["a=0.5"], {"a": 0.5}),
    ],
)
def test_the_command_line_accepts_weights(options: list[str], queues: Any):
    assert parse_weights(options) == queues


@pytest.mark.parametrize("option", ["a=", "a=many", "a=1=2"])
def test_a_weight_that_is_not_a_number_is_refused(option: str):
    with pytest.raises(SettingsError, match="the weight is not a number"):
        parse_weights([option])


@pytest.mark.parametrize("option", ["a=0", "a=-1", "a=nan", "a=inf", "a=1000001"])
def test_a_weight_outside_its_bounds_is_refused_as_it_was_typed(option: str):
    with pytest.raises(SettingsError, match=f"--queue {option}: the weight is not above 0"):
        parse_weights([option])


@pytest.mark.parametrize("options", [["a", "a"], ["a=1", "b", "a=2"], ["a", "a=2"]])
def test_a_queue_that_is_given_twice_is_refused(options: list[str]):
    with pytest.raises(SettingsError, match="--queue a is given more than once"):
        parse_weights(options)
