"""Ids of new rows."""

import time
from uuid import RFC_4122, UUID

from picture_queue._ids import new_id, new_ids


def test_ids_are_distinct_uuids_of_version_7():
    ids = [UUID(text) for text in new_ids(2000)]
    assert {(new.version, new.variant) for new in ids} == {(7, RFC_4122)}
    assert len(set(ids)) == 2000
    assert new_ids(0) == []


def test_ids_begin_with_the_time_in_milliseconds():
    before_ms = time.time_ns() // 1_000_000
    created_at_ms = UUID(new_id()).int >> 80  # The first 48 of 128 bits.
    assert before_ms <= created_at_ms <= time.time_ns() // 1_000_000
