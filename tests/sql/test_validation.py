"""Validation: accepted jobs can be enqueued later, and errors name the invalid value."""

import json
from typing import Any
from uuid import UUID

import pytest

ENQUEUE = "select enqueue_jobs($1)"
BATCH = "select enqueue_batch($1, $2)"
START = "select start_generation('a cat', input => $1)"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def refusal_of_json(db: Any, sql: str, text: str) -> Any:
    """Return the error of a call with JSON that Python would not write."""
    return await db.refusal(sql.replace("$1", "$1::text::jsonb"), text)


# The id is fixed, because the workers of xdist must collect the same names.
UUID_TEXT = "0198c0de-0000-4000-8000-000000000001"
UUIDS = ["x", "", 5, UUID_TEXT + "-", "{" + UUID_TEXT, UUID_TEXT[:-1]]


@pytest.mark.parametrize("field", ["job_id", "user_id", "generation_id"])
@pytest.mark.parametrize("value", UUIDS)
async def test_every_way_to_enqueue_refuses_a_malformed_uuid(db, field, value):
    job = {"job_type": "a", field: value}
    expected = f"{field} is {json.dumps(value)}, which is not a uuid"
    assert (await db.refusal(ENQUEUE, [job])).detail == expected
    assert (await db.refusal(ENQUEUE, [{"job_type": "a"}, job])).detail == f"jobs[1]: {expected}"
    assert (await db.refusal(BATCH, [job], None)).detail == expected
    assert (await db.refusal(BATCH, [], job)).detail == f"callback: {expected}"


@pytest.mark.parametrize(
    "bad",
    [
        {"user_id": "x"},
        {"priority": 10_000_000_000},
        {"priority": 1.5},
        {"max_attempts": 10**12},
        {"job_type": "cb\n"},
        {"queue": "bad name!"},
        {"queue": "q\n"},
        # The payload is too large once the counts of the batch are added.
        {"payload": {"a": "x" * 65_500}},
        {"payload": 5},
        {"options": 5},
        {"options": {"tags": "{a}"}},
        {"options": {"unique": {"by": ["nothing"]}}},
        {"options": {"backoff": {"jitter": 1e-50}}},
        {"scheduled_for": "soon"},
        {"idempotency_key": {"a": 1}},
    ],
)
async def test_a_callback_that_could_not_be_enqueued_is_refused(db, bad):
    jobs = [{"job_type": "t", "queue": db.queue, "max_attempts": 1}]
    refused = await db.refusal(BATCH, jobs, {"job_type": "cb", **bad})
    assert refused.sqlstate in ("PT400", "PT413")
    assert refused.detail.startswith(f"callback: {next(iter(bad))}")
    assert await db.value("select count(*) from job_queue where queue = $1", db.queue) == 0


async def test_a_callback_may_be_unique_by_fields_of_the_batch(db):
    callback = {"job_type": "cb", "options": {"unique": {"by": ["batch_id"]}}}
    answer = await db.value(BATCH, [], callback)
    batch = await db.value("select get_batch($1)", UUID(answer["batch_id"]))
    assert (batch["callback_job_id"], batch["callback_error"]) != (None, None)
    assert batch["callback_error"] is None


@pytest.mark.parametrize("callback", [[1], 5, "x", True])
async def test_a_callback_that_is_not_a_job_is_refused(db, callback):
    assert (await db.refusal(BATCH, [], callback)).detail == "callback is not a job"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"queue": "bad name!"}, 'job_types.cb.queue is "bad name!"'),
        ({"queue": "q\n"}, 'job_types.cb.queue is "q\\n"'),
        ({"max_attempts": 0}, "job_types.cb.max_attempts is 0, not 1 to 1000000000"),
        ({"max_attempts": 10**12}, "job_types.cb.max_attempts is 1000000000000, not 1 to"),
        ({"timeout_seconds": "5"}, 'job_types.cb.timeout_seconds is "5", not 0.001 to 31536000'),
        ({"backoff_policy": "x"}, 'job_types.cb.backoff_policy is "x", not constant, linear or'),
        ({"backoff_jitter": 1e-50}, "job_types.cb.backoff_jitter is 0.000"),
        ({"timeout": 5}, "job_types.cb.timeout is not known"),
        (5, "job_types.cb is not an object"),
        (None, "job_types.cb is not an object"),
    ],
)
async def test_the_error_for_an_invalid_policy_names_job_type_field_and_value(db, policy, expected):
    refused = await db.refusal("select register_worker('w', '{default}', $1)", {"cb": policy})
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail.startswith(expected)


@pytest.mark.parametrize(
    ("worker", "queues", "job_types"),
    [
        ("w" * 2700, ["default"], {}),
        ("a\nb", ["default"], {}),
        ("", ["default"], {}),
        (None, ["default"], {}),
        ("w", ["a b"], {}),
        ("w", [None], {}),
        ("w", [], {}),
        ("w", ["default"] * 100_000, {}),
        ("w", ["default"], {f"t{n}": {} for n in range(100_000)}),
        ("w", ["default"], {"a b": {}}),
    ],
)
async def test_an_invalid_worker_is_refused_with_a_code(db, worker, queues, job_types):
    sql = "select register_worker($1, $2, $3)"
    refused = await db.refusal(sql, worker, queues, job_types)
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert len(refused.detail) < 300


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"user_id": "zzz"}, 'user_id is "zzz", which is not a uuid'),
        ({"priority": 10**10}, "priority is 10000000000"),
        ({"queue": "a b"}, 'queue is "a b"'),
        ({"payload": {"a": "x" * 70_000}}, "payload has 70009 bytes"),
        # The payload of each job also contains its schedule and its tick.
        ({"options": {"metadata": {"a": "x" * 65_500}}}, "options.metadata has 65"),
        ({"options": {"unique": {"by": ["x"]}}}, 'options.unique.by has "x"'),
        ({"missed": "x" * 100_000}, 'missed is "xxx'),
    ],
)
async def test_a_schedule_whose_jobs_could_not_be_enqueued_is_refused(db, fields, expected):
    schedule = {"every_seconds": 60, "job_type": "t", **fields}
    refused = await db.refusal("select set_schedule('s', $1)", schedule)
    assert refused.sqlstate in ("PT400", "PT413")
    assert refused.detail.startswith(expected)
    assert len(refused.detail) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scheduled_for", "soon"),
        ("scheduled_for", "infinity"),
        ("scheduled_for", 5),
        ("user_id", "x"),
        ("generation_id", "x"),
        ("priority", 10**10),
        ("priority", "high"),
        ("idempotency_key", {"a": 1}),
        ("idempotency_key", ""),
        ("idempotency_key", "x" * 3000),
    ],
)
async def test_the_error_for_an_invalid_option_of_a_generation_names_the_option(db, field, value):
    refused = await db.refusal("select start_generation('a', options => $1)", {field: value})
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail.startswith(f"options.{field} ")


# JSON that some parsers cannot read


@pytest.mark.parametrize("number", ["1" + "0" * 5000, "-1" + "0" * 400, "1e309"])
@pytest.mark.parametrize(
    ("sql", "text"),
    [
        (ENQUEUE, '[{"job_type": "a", "payload": {"n": %s}}]'),
        (ENQUEUE, '[{"job_type": "a", "options": {"metadata": {"n": [%s]}}}]'),
        (ENQUEUE, '[{"job_type": "a"}, {"job_type": "a", "payload": {"n": %s}}]'),
        ("select enqueue_job('a', $1)", '{"n": %s}'),
        ("select enqueue_batch('[]', $1)", '{"job_type": "a", "payload": {"n": %s}}'),
        ("select enqueue_batch('[]', metadata => $1)", '{"n": %s}'),
        ("select set_schedule('s', $1)",
         '{"every_seconds": 60, "job_type": "a", "payload": {"n": %s}}'),
        ("select send_event('e', $1)", '{"n": %s}'),
        (START, '{"seed": %s}'),
    ],
)  # fmt: skip
async def test_a_number_outside_the_range_of_a_double_is_refused(db, sql, text, number):
    refused = await refusal_of_json(db, sql, text % number)
    assert refused.message.startswith(("PQ_INVALID_ARGUMENT", "PQ_INVALID_INPUT"))
    assert "has a number beyond 1e308" in refused.detail
    assert len(refused.detail) < 200


@pytest.mark.parametrize(
    ("sql", "wrap"),
    [
        (ENQUEUE, lambda v: [{"job_type": "a", "payload": {"v": v}}]),
        (ENQUEUE, lambda v: [{"job_type": "a", "options": {"metadata": {"v": v}}}]),
        ("select enqueue_batch('[]', metadata => $1)", lambda v: {"v": v}),
        ("select send_event('e', $1)", lambda v: {"v": v}),
        (START, lambda v: {"v": v}),
    ],
)
async def test_json_that_is_nested_too_deeply_is_refused(db, sql, wrap):
    refused = await db.refusal(sql, wrap(nested(500)))
    assert "is nested deeper than 100 levels" in refused.detail


async def test_json_at_the_limits_is_accepted(db):
    payload = {"n": 10**307, "text": "1" * 5000, "deep": nested(98), "small": [1e-300] * 9}
    job_id = await db.enqueue(payload=payload)
    assert (await db.job(job_id))["payload"] == payload


async def test_the_error_for_an_invalid_result_names_the_problem(db):
    call = "select picture_queue._json_problem($1::text::jsonb, 1000)"
    assert await db.value(call, '{"a": 1}') is None
    assert await db.value(call, json.dumps("x" * 2000)) == "has 2002 bytes, the limit is 1000"
    digits = " " * 50 + "9" * 400
    assert (await db.value(call, digits)).startswith("has a number beyond 1e308: 9999")


async def test_the_size_of_a_generations_input_is_limited(db):
    sql = "select start_generation('a', $1, $2)"
    model = "black-forest-labs/flux-2-pro"
    for images in (300_000, 101):
        fields = {"input_images": ["https://example.com/a.png"] * images}
        refused = await db.refusal(sql, model, fields)
        assert refused.message.startswith("PQ_INVALID_INPUT")
        assert len(refused.detail) < 300
    refused = await db.refusal(
        sql, "bytedance/sdxl-lightning-4step", {"negative_prompt": "x" * 10**6}
    )
    assert (
        refused.detail
        == "input has 1000023 bytes, the limit is 65536: pass the URLs of files, not the files"
    )
    refused = await db.refusal(START, {"seed": 2**63})
    assert refused.detail == "input.seed is 9223372036854775808 and is beyond 64 bits"
    # The length is checked first: searching a million characters takes 0.4 seconds.
    refused = await db.refusal("select start_generation($1)", "\u2003" * 100_000)
    assert refused.detail == "prompt has 100000 characters, the limit is 4000"


BLANKS = (
    "\u00a0\u1680\u2000\u2003\u200b\u200d\u2028\u202f\u205f\u2060\u2800\u3000\u3164\ufeff\u00ad"
    "\U000e0020"
)


@pytest.mark.parametrize("prompt", [*BLANKS, BLANKS, " \t\r\n\v\f\u0085"])
async def test_a_prompt_of_invisible_characters_is_blank(db, prompt):
    refused = await db.refusal("select start_generation($1)", prompt)
    assert (refused.sqlstate, refused.detail) == ("PT422", "prompt is empty")
    assert await db.value("select start_generation($1)", f"{prompt}\u00e4{prompt}")


# The maximum number of jobs in one call


async def test_more_jobs_than_one_call_may_have_are_refused(db):
    refused = await db.refusal(ENQUEUE, [{"job_type": "a"}] * 100_001)
    assert refused.detail == "jobs has 100001 entries, at most 100000 are possible"


@pytest.mark.parametrize(
    ("bad", "expected"), [({"priority": "x"}, "priority is x"), ({"prio": 1}, "prio is not known")]
)
async def test_the_error_for_one_invalid_job_of_many_names_the_job(db, bad, expected):
    jobs = [{"job_type": "a"}] * 20_000
    jobs[12_345] = {"job_type": "a", **bad}
    jobs[19_999] = {"job_type": "a", "max_attempts": "x"}
    assert (await db.refusal(ENQUEUE, jobs)).detail.startswith(f"jobs[12345]: {expected}")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"options": {"tags": ["a", "b" * 5000]}}, "has 5000 characters, not 1 to 64"),
        ({"options": {"tags": [""]}}, 'has the entry "", which has 0 characters, not 1 to 64'),
        ({"options": {"tags": [5]}}, "has the entry 5, which is 5, not text"),
        ({"options": {"tags": ["a"] * 21}}, "has 21 entries, at most 20 are possible"),
        # The parser of times of Postgres ignores the brackets.
        ({"scheduled_for": ["now"]}, 'scheduled_for is ["now"], not text'),
        ({"options": {"expires_at": ["tomorrow"]}}, 'expires_at is ["tomorrow"], not text'),
    ],
)
async def test_a_wrong_entry_or_type_is_named(db, fields, expected):
    refused = await db.refusal(ENQUEUE, [{"job_type": "a", **fields}])
    assert refused.message.startswith("PQ_INVALID_ARGUMENT")
    assert refused.detail.endswith(expected)
    assert len(refused.detail) < 200
