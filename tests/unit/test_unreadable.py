"""Rows with JSON that Python cannot parse completely."""

import json

import pytest

from picture_queue import _rpc
from picture_queue._transport.unreadable import read_json
from picture_queue.records import ClaimedJob, Unreadable

#: A number with more digits than `int` parses.
LONG_NUMBER = "1" + "0" * 5000
ROWS = [
    {"id": "a", "lease_id": "c", "payload": {"n": 1, "s": 'x,]}"\\'}, "tags": []},
    {"id": "b", "lease_id": "d", "payload": {"n": 5}, "tags": [1, 2]},
]
TEXT = json.dumps(ROWS)


@pytest.mark.parametrize(
    "value", [LONG_NUMBER, "[" * 3000 + "]" * 3000, '{"a":[' + LONG_NUMBER + "]}"]
)
def test_only_the_unreadable_field_is_replaced(value):
    first, second = read_json(TEXT.replace('{"n": 5}', value).encode())
    assert first == ROWS[0]
    assert isinstance(second["payload"], Unreadable)
    assert {**second, "payload": None} == {**ROWS[1], "payload": None}
    assert ClaimedJob(first).unreadable is None
    assert (ClaimedJob(second).unreadable or "").startswith("payload: The value ")


def test_a_single_row_is_read_like_a_row_in_a_list():
    row = read_json(json.dumps(ROWS[1]).replace("5", LONG_NUMBER))
    assert (row["id"], row["tags"]) == ("b", [1, 2])
    assert row["payload"].keys() == {"unreadable"}


def test_json_nested_too_deeply_for_the_fast_parser_is_read():
    deep = "[" * 300 + "]" * 300
    assert read_json(f'{{"a": {deep}}}')["a"] == json.loads(deep)


@pytest.mark.parametrize(
    "text", ["", "nope", '[{"a":1}', "[1,2", '{"a" 1}', f'[{LONG_NUMBER}, {{"a":']
)
def test_invalid_json_is_refused(text):
    with pytest.raises(ValueError):
        read_json(text)


def test_an_invalid_row_is_logged_and_the_others_are_returned(make_row, caplog):
    # PostgreSQL accepts years up to 294276, and Python up to 9999.
    valid, invalid = make_row(), make_row(created_at="294276-01-01T00:00:00Z")
    jobs = _rpc.list_jobs({}).parse([valid, invalid])
    assert [str(job.id) for job in jobs] == [valid["id"]]
    assert f"Skipped Job {invalid['id']}, which cannot be read" in caplog.text
