"""Random calls of every function: each returns, or raises a PQ error with a detail and a hint.

The calls are generated from the signatures of the installed functions, so that new functions are
included. Most arguments are valid, so that a call reaches the checks of the invalid ones. Values
that Postgres refuses before a function begins (NUL, lone surrogates, malformed uuids) are left out.
"""

import copy
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

LONG = os.environ.get("PICTURE_QUEUE_TEST_PROFILE") == "long"

SIGNATURES = """
select p.proname, array(
  select jsonb_build_array(a.name, format_type(a.type, null))
  from unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) as a (name, type))
from pg_proc p where p.oid in (select oid from picture_queue._our_functions() where is_public)
order by p.proname
"""
#: SQL that creates one object of each kind whose name or id an argument may contain.
CREATE_OBJECTS = """
select set_config('request.jwt.claims', '{"role": "service_role"}', false);
select set_queue('odd', '{"fair_share": true}');
select set_limit('odd', 1);
select set_schedule('odd', '{"every_seconds": 60, "job_type": "odd"}');
select register_worker('odd', '{odd}', '{"odd": {}, "generate-image": {}}');
select enqueue_job('odd', queue => 'odd', job_id => '00000000-0000-4000-8000-000000000001');
select enqueue_job('odd', queue => 'odd', job_id => '00000000-0000-4000-8000-000000000002',
  options => '{"limit_keys": ["odd"]}');
select enqueue_batch('[{"job_type": "odd"}]', '{"job_type": "odd"}',
  '00000000-0000-4000-8000-000000000003');
select start_generation('a cat', options => '{"generation_id":
  "00000000-0000-4000-8000-000000000004"}');
select claim_jobs('odd', '{odd,default}', '{odd,generate-image}', 9, 3600,
  '00000000-0000-4000-8000-000000000005');
select begin_prediction(id, lease_id) from job_queue where generation_id is not null;
select enqueue_job('odd', queue => 'odd', job_id => '00000000-0000-4000-8000-000000000006');
select start_generations('[{"prompt": "a cat", "then": [{"kind": "upscale"}]}]',
  '{"batch_id": "00000000-0000-4000-8000-00000000ba7c"}');
"""

UUIDS = [f"00000000-0000-4000-8000-{n:012}" for n in range(7)]
RUNNING, PENDING, LEASE = UUIDS[1], UUIDS[6], UUIDS[5]
GENERATION_JOB = "(select id from job_queue where generation_id is not null order by seq limit 1)"
TIMES = ["infinity", "-infinity", "294276-12-31", "4713-01-01 BC", "1969-12-31", "2999-01-01"]
BACKOFF = {"policy": "linear", "base_seconds": 1, "cap_seconds": 9, "jitter": 0.5}
UNIQUE = {"by": ["a"], "period_seconds": 9, "states": ["pending"], "on_conflict": "ignore"}
OPTIONS = {
    "delay_seconds": 1,
    "timeout_seconds": 9,
    "expires_in_seconds": 9,
    "backoff": BACKOFF,
    "tags": ["a"],
    "metadata": {},
    "tenant": "t",
    "limit_keys": ["odd"],
    "depends_on": [PENDING],
    "on_parent_failure": "run",
    "unique": UNIQUE,
    "expires_at": "2999-01-01",
}
JOB = {
    "job_type": "odd",
    "queue": "odd",
    "payload": {"a": 1},
    "priority": 1,
    "max_attempts": 2,
    "user_id": UUIDS[0],
    "idempotency_key": "k",
    "options": OPTIONS,
}
POLICY = {
    "max_attempts": 2,
    "timeout_seconds": 9,
    "lease_seconds": 9,
    "backoff_policy": "linear",
    "backoff_seconds": 1,
    "backoff_cap_seconds": 9,
    "backoff_jitter": 0.5,
}
REPORT = {
    "job_id": RUNNING,
    "lease_id": LEASE,
    "outcome": "parked",
    "result": {},
    "error": "e",
    "detail": "d",
    "retryable": True,
    "delay_seconds": 1,
    "run_at": None,
    "event": "odd",
    "duration_seconds": 1,
    "pause_key": "odd",
}
STEP = {
    "kind": "upscale",
    "model_id": "nightmareai/real-esrgan",
    "prompt": "",
    "input": {"scale": 2},
}
FILTER = {
    "job_ids": UUIDS,
    "queue": "odd",
    "status": "pending",
    "hold": None,
    "job_type": "odd",
    "tag": "a",
    "user_id": UUIDS[0],
    "tenant": "t",
    "batch_id": UUIDS[3],
    "error": "e",
    "reason": "r",
    "metadata": {},
    "created_before": "2999-01-01",
    "created_after": "1999-01-01",
    "finished_before": "2999-01-01",
    "finished_after": "1999-01-01",
    "limit": 9,
    "before_seq": 9,
    "before": "2999-01-01",
}
#: Valid values of the jsonb parameters, with every field that the functions accept.
DOCUMENTS: dict[str, list[Any]] = {
    "jobs": [[JOB], [{"job_type": "odd"}]],
    "callback": [JOB, {"job_type": "odd"}],
    "changes": [{"usd_per_day": 1, "per_minute": 5}, POLICY,
        {"fair_share": True, "aging_seconds": 1, "events": "none"}],
    "claim": [{"worker": "odd", "queues": ["odd"], "job_types": ["odd"], "max_jobs": 1,
        "lease_seconds": 9, "request_id": UUIDS[0], "weights": [1], "start_jobs": 1}],
    "filter": [FILTER, {"status": "pending"}, {"queue": "odd"}],
    "images": [[{"n": 1, "path": "a", "mime_type": "b", "width": 1, "height": 1, "bytes": 1}]],
    "input": [{"num_outputs": 1, "seed": 1, "aspect_ratio": "1:1", "output_format": "png"}],
    "job_types": [{"odd": POLICY | {"queue": "odd"}}],
    "leases": [[{"job_id": RUNNING, "lease_id": LEASE}]],
    "lines": [[{"at": "2020-01-01", "level": "info", "message": "m"}]],
    "options": [OPTIONS, {"scheduled_for": None, "idempotency_key": "k", "priority": 1,
        "user_id": UUIDS[0], "generation_id": UUIDS[0]}, {"priority": 1, "user_id": UUIDS[0]},
        {"then": [STEP]}],
    "requests": [[{"prompt": "a cat"}],
        [{"prompt": "a cat", "input": {"seed": 1}, "then": [STEP]}, {"prompt": "a dog"}]],
    "outcomes": [[REPORT], [REPORT, REPORT]],
    "schedule": [{"every_seconds": 60, "timezone": "UTC", "missed": "all", "paused": True, **JOB},
        {"cron": "0 0 * * *", "timezone": "Europe/Berlin", "job_type": "odd"}],
}  # fmt: skip
GENERATION_BATCH = "00000000-0000-4000-8000-00000000ba7c"
ENDED_GENERATION = "00000000-0000-4000-8000-00000000e0de"
#: Valid values of the other parameters, in SQL.
PARAMETERS = {
    "action": ["'retry'", "'cancel'", "'discard'", "'refuse'"],
    "key": ["'odd'", "'project'"],
    "generation_id": [f"'{UUIDS[4]}'", f"'{ENDED_GENERATION}'"],
    "generation_ids": [f"array['{UUIDS[4]}']::uuid[]"],
    "batch_id": [f"'{UUIDS[3]}'", f"'{UUIDS[0]}'", f"'{GENERATION_BATCH}'"],
    "job_id": [f"'{RUNNING}'", f"'{PENDING}'", GENERATION_JOB],
    "job_ids": [f"array['{RUNNING}', '{PENDING}']::uuid[]"],
    "lease_id": [f"'{LEASE}'"],
    "model_id": ["null", "'black-forest-labs/flux-schnell'"],
    "prediction": ["(select id from picture_queue.prediction)"],
    "state": ["'succeeded'", "'lost'"],
    "job_types": ["'{odd}'"],
    "queues": ["'{odd}'"],
    "weights": ["'{1}'", "null"],
}
ODD_TEXTS = [
    *["", " ", "\n", "\u00a0", "\u200b\u3000", "%s", "%", "'", "\\", "$1", "{}", "NaN", "-1", "*"],
    *["Infinity", "1e400", ":*", "user:*", "\x01", "é" * 10_000, "x" * 201, "😀", "null", *TIMES],
]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
)
NUMBERS = st.sampled_from(
    [0, 1, -1, 0.5, 1e-46, 1e39, -1e39, 1001, 2**31, 2**63, -(2**63), 10**19, 10**400, 1e308]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(UUIDS)
ODD_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2)
)
REALS = st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "-1", "1e-45", "3e38", "1", "3.5"])


def quote_literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one_dimension = st.lists(items.map(quote_literal) | st.just("null"), max_size=3)
    return one_dimension.map(lambda values: f"array[{', '.join(values)}]") | st.sampled_from(
        ["array[[null, null]]", "array_fill('x'::text, array[2000])"]
    )


#: Odd values in SQL for each type of parameter.
ODD = {
    "text": TEXTS.map(quote_literal),
    "text[]": arrays(TEXTS),
    "integer": st.sampled_from(["0", "1", "-1", "50", "1001", "2147483647", "'-2147483648'"]),
    "real": REALS.map(quote_literal),
    "numeric": st.sampled_from(
        ["'NaN'", "'Infinity'", "1e400", "0.0000001", "0", "-1", "5", "1e9"]
    ),
    # The filter excludes the array of 2,000 texts 'x'.
    "real[]": arrays(REALS).filter(lambda array: "x" not in array),
    "boolean": st.sampled_from(["true", "false"]),
    "uuid": st.sampled_from(UUIDS).map(quote_literal),
    "uuid[]": arrays(st.sampled_from(UUIDS)).filter(lambda array: "x" not in array),
    "timestamp with time zone": st.sampled_from(TIMES).map(quote_literal),
    "jsonb": ODD_JSON.map(json.dumps).map(quote_literal),
}


@st.composite
def changed_document(draw: st.DrawFn, document: Any) -> Any:
    """Return the document with one random value at a random key, or without one field or item."""
    document = copy.deepcopy(document)
    container: Any = document
    while True:
        keys = list(container) if isinstance(container, dict) else range(len(container))
        key = draw(st.sampled_from(keys))
        if (
            not isinstance(container[key], dict | list)
            or not container[key]
            or draw(st.integers(0, 3)) == 0
        ):
            break
        container = container[key]
    if draw(st.integers(0, 4)) == 0:
        del container[key]
    else:
        container[key] = draw(SCALARS | ODD_JSON)
    return document


@st.composite
def argument(draw: st.DrawFn, name: str, type_: str) -> str:
    kind = draw(st.sampled_from(["good", "good", "good", "odd", "null"]))
    if kind == "odd":
        return draw(ODD[type_])
    if kind == "null":
        return "null"
    if type_ == "jsonb":
        document = draw(st.sampled_from(DOCUMENTS.get(name, [{"a": 1}])))
        if draw(st.booleans()):
            document = draw(changed_document(document))
        return quote_literal(json.dumps(document))
    valid_by_type = {
        "text": ["'odd'"], "boolean": ["false"], "uuid": [quote_literal(UUIDS[0])],
        "timestamp with time zone": ["null", "'2999-01-01'"],
    }  # fmt: skip
    return draw(st.sampled_from(PARAMETERS.get(name) or valid_by_type.get(type_, ["1"])))


@st.composite
def calls(draw: st.DrawFn, functions: list[tuple[str, list[list[str]]]]) -> str:
    name, parameters = draw(st.sampled_from(functions))
    arguments = [
        f"{parameter} => {draw(argument(parameter, type_))}::{type_}"
        for parameter, type_ in parameters
    ]
    return f"select public.{name}({', '.join(arguments)})"


@pytest.fixture(scope="module")
def connection(own_database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(own_database) as connection:
        connection.execute(CREATE_OBJECTS)
        connection.execute(
            "insert into generations (id, job_id, model_id, prompt, status) "
            "values (%s, gen_random_uuid(), 'm', 'a cat', 'completed')",
            [ENDED_GENERATION],
        )
        yield connection
        connection.rollback()


def find_problem(error: psycopg.Error) -> str | None:
    """Return the reason why an error is not a complete PQ error, or None."""
    diagnostics = error.diag
    if not re.fullmatch("PT[45][0-9]{2}", diagnostics.sqlstate or ""):
        return f"raw {diagnostics.sqlstate}: {diagnostics.message_primary}"
    if not diagnostics.message_detail or diagnostics.message_detail.endswith(" is "):
        return (
            f"no value in the detail: {diagnostics.message_primary} ({diagnostics.message_detail})"
        )
    return None if diagnostics.message_hint else f"no hint: {diagnostics.message_primary}"


@pytest.mark.timeout(3600 if LONG else 300)
def test_any_call_returns_or_raises_a_complete_error(connection: psycopg.Connection[Any]) -> None:
    functions = connection.execute(SIGNATURES).fetchall()
    assert len(functions) > 50
    successful = set()
    problems: dict[tuple[str, str], str] = {}

    @settings(
        max_examples=60_000 if LONG else 3_000,
        deadline=None,
        database=None,
        derandomize=not LONG,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(functions))
    def call(sql: str) -> None:
        name = sql.split("(")[0]
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("set local statement_timeout = '10s'")
                connection.execute(sql)
            successful.add(name)
        except psycopg.Error as error:
            if problem := find_problem(error):
                # Keep only the shortest call with this problem.
                text = f"{problem}\n    {sql}"
                key = name, problem[:50]
                problems[key] = min(problems.get(key, text), text, key=len)

    call()
    assert not problems, "\n".join(problems.values())
    assert len(successful) > 0.9 * len(functions), "too few functions accepted a call"
