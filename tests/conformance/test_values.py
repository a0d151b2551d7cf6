"""Python values in arguments: how they are stored as JSON, and which values are refused."""

import dataclasses
import enum
import itertools
import math
import time
from collections import deque
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from picture_queue import errors


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


@dataclasses.dataclass
class Point:
    x: int
    at: Decimal


class Model(BaseModel):
    name: str
    wait: timedelta


ACCEPTED: list[tuple[Any, Any]] = [
    (Decimal("1.50"), "1.50"),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    (Colour.RED, "red"),
    (Size.SMALL, 1),
    (Point(1, Decimal("2.0")), {"x": 1, "at": "2.0"}),
    (Model(name="a", wait=timedelta(seconds=90)), {"name": "a", "wait": "PT1M30S"}),
    (timedelta(seconds=90), "PT1M30S"),
    (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (b"abc", "abc"),
    ((1, 2), [1, 2]),
    (deque([1, 2]), [1, 2]),
    ({"n": 1}.keys(), ["n"]),
    ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    ("NaN \\u0000 Infinity", "NaN \\u0000 Infinity"),
    ("ü€😀", "ü€😀"),
    (2**70, 2**70),
]


@pytest.mark.parametrize(("value", "expected"), ACCEPTED, ids=lambda value: type(value).__name__)
async def test_a_value_is_stored_as_its_json(service, queue, value, expected):
    enqueued = await service.jobs.enqueue("x", {"value": value}, queue=queue)
    job = await service.jobs.get(enqueued.id)
    assert job.payload == {"value": expected}
    (enqueued,) = await service.jobs.enqueue_many(
        [{"job_type": "x", "queue": queue, "payload": {"value": value}}]
    )
    assert (await service.jobs.get(enqueued.id)).payload == {"value": expected}


def nested_list(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def self_containing_list() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


class Broken(list[Any]):
    """A list whose methods raise an exception."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __iter__(self) -> Any:
        raise RuntimeError("no text")

    def __hash__(self) -> int:  # type: ignore[override]
        return 1


REFUSED: list[tuple[Any, str]] = [
    (math.nan, "payload.a[0] is nan"),
    (math.inf, "payload.a[0] is inf"),
    (-math.inf, "payload.a[0] is -inf"),
    ("\ud83d", "payload.a[0] has U+D83D"),
    ("a\0b", "payload.a[0] has the character U+0000"),
    ({"a\0b": 1}, "a name in payload.a[0] has the character U+0000"),
    ({"\ud83d": 1}, "a name in payload.a[0] has U+D83D"),
    (b"\xff", "payload.a[0] is of type bytes"),
    (object(), "payload.a[0] is of type object"),
    (Broken(), " is not serialisable as JSON: no text"),
    ({Broken(): 1}, " is not serialisable as JSON: "),
    (itertools.count(), "payload.a[0] is of type count"),
    (Point, "payload.a[0] is of type type"),
    (lambda: 1, "payload.a[0] is of type function"),
    (nested_list(3000), "payload is nested deeper than 100 levels"),
    (nested_list(150), "payload is nested deeper than 100 levels"),
    (self_containing_list(), "payload is nested deeper than 100 levels"),
]


@pytest.mark.parametrize(("value", "expected"), REFUSED, ids=lambda value: type(value).__name__)
async def test_the_error_for_a_non_json_value_names_its_path(service, queue, value, expected):
    with pytest.raises(errors.InvalidArgument) as refused:
        await service.jobs.enqueue("x", {"a": [value]}, queue=queue)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_every_argument_refuses_the_same_values(service, queue):
    calls = {
        "jobs[1].payload.n is nan": lambda: service.jobs.enqueue_many(
            [{"job_type": "x"}, {"job_type": "x", "payload": {"n": math.nan}}]
        ),
        "options.metadata.n is nan": lambda: service.jobs.enqueue("x", metadata={"n": math.nan}),
        "metadata.n is nan": lambda: service.batches.enqueue([], metadata={"n": math.nan}),
        "callback.payload.n is nan": lambda: service.batches.enqueue(
            [], callback={"job_type": "x", "payload": {"n": math.nan}}
        ),
        "schedule.payload.n is nan": lambda: service.schedules.set(
            "x", "x", {"n": math.nan}, every=5
        ),
        "payload.n is nan": lambda: service.events.send("x", {"n": math.nan}),
        "input.seed is nan": lambda: service.generations.start("x", input={"seed": math.nan}),
        "prompt has the character U+0000": lambda: service.generations.start("a\0b"),
        "name has the character U+0000": lambda: service.events.send("a\0b"),
        "name has U+D83D": lambda: service.events.send("\ud83d"),
        "queue has the character U+0000": lambda: service.queues.pause("a\0b"),
        "filter.queue has the character U+0000": lambda: service.jobs.list(queue="a\0b"),
        "changes.aging_seconds is inf": lambda: service.queues.set(queue, aging_seconds=math.inf),
        "jobs[0] is 1, not a dict": lambda: service.jobs.enqueue_many([1]),
        "jobs is 1, not a list": lambda: service.jobs.enqueue_many(1),
        "jobs is 'x', not a list": lambda: service.batches.enqueue("x"),
    }
    for expected, call in calls.items():
        with pytest.raises(errors.InvalidArgument) as refused:
            await call()
        assert expected in str(refused.value)


async def test_an_iterator_is_accepted_in_the_payload_and_in_tags(service, queue):
    enqueued = await service.jobs.enqueue(
        "x", {"n": (n for n in (1, 2))}, queue=queue, tags=(tag for tag in ("a", "b"))
    )
    job = await service.jobs.get(enqueued.id)
    assert (job.payload, sorted(job.tags)) == ({"n": [1, 2]}, ["a", "b"])


async def test_none_in_place_of_an_id_raises_a_library_error(service):
    with pytest.raises((errors.JobNotFound, errors.InvalidArgument)):
        await service.jobs.get(None)


@pytest.fixture
def zone_behind_utc(monkeypatch):
    """Set the local time zone to five hours behind UTC.

    In this zone, `datetime.max` is in the year 10000 of UTC, which Python cannot represent.
    """
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Etc/GMT+5")
        time.tzset()
        yield
    time.tzset()


async def test_a_time_after_the_year_9999_is_refused(service, queue, zone_behind_utc):
    with pytest.raises(errors.InvalidArgument, match="scheduled_for is of type datetime"):
        await service.jobs.enqueue("x", queue=queue, scheduled_for=datetime.max)
