"""Somebody else's id and one that nobody has are answered alike, wherever an id can be said."""

import json
import re
from typing import Any
from uuid import uuid4

import pytest

from tests.security.calls import CALLS
from tests.security.world import Answer, World, path

_UNLIKE = ("date", "content-length")


def alike(answer: Answer, asked: str) -> tuple[Any, ...]:
    """An answer without the id that was asked for, to be compared."""
    headers = sorted(
        (name, value.replace(asked, "<id>"))
        for name, value in answer.headers.multi_items()
        if name not in _UNLIKE
    )
    return answer.status, headers, answer.text.replace(asked, "<id>")


async def test_no_function_tells_a_foreign_id_from_a_missing_one(world: World, admin: Any):
    """Every parameter of type uuid that names a thing, of what users may call."""
    parameters = await admin.fetch(
        """select p.proname, n.name
        from pg_proc p, unnest(p.proargnames, p.proargtypes::oid[]) as n (name, type)
        where p.pronamespace = 'public'::regnamespace and n.type = 'uuid'::regtype
          and n.name <> 'request_id'
          and has_function_privilege('authenticated', p.oid, 'execute')"""
    )
    assert len(parameters) >= 5
    for function, name in parameters:
        foreign = CALLS[function](world)[name]
        answers = []
        for asked in (foreign, str(uuid4())):
            answer = await world.rpc("stranger", function, **{name: asked})
            assert answer.status == 404, (function, answer)
            answers.append(alike(answer, asked))
        assert answers[0] == answers[1], function


async def test_a_request_id_of_somebody_else_gives_nothing_away(world: World):
    request = str(uuid4())
    started = (await world.rpc("owner", "start_generation", prompt="a boat")).json
    for function, name in (("cancel_job", "job_id"), ("cancel_generation", "generation_id")):
        asked = {name: started[name], "request_id": request}
        assert (await world.rpc("owner", function, **asked)).status == 200
        assert (await world.rpc("stranger", function, **asked)).status == 404


async def test_no_reason_tells_a_foreign_job_from_a_missing_one(world: World):
    answers = []
    for asked in (world["running"], str(uuid4())):
        answer = await world.rpc("stranger", "explain_jobs", job_ids=[asked])
        assert answer.status == 200
        answers.append(alike(answer, asked))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("table", ["job_queue", "generations", "images"])
async def test_no_query_tells_a_foreign_row_from_a_missing_one(
    world: World, admin: Any, table: str
):
    foreign = str(
        await admin.fetchval(
            f"select id from public.{table} where user_id = $1::text::uuid limit 1",
            world.users["owner"],
        )
    )
    one = {"accept": "application/vnd.pgrst.object+json"}
    for method, query, headers in (
        ("GET", "", {}),
        ("GET", "", one),
        ("GET", "", {"prefer": "count=exact"}),
        ("GET", "", {"prefer": "count=planned"}),
        ("GET", "", {"prefer": "count=estimated"}),
        ("HEAD", "", {"prefer": "count=exact"}),
        ("GET", "&offset=1", {"prefer": "count=exact"}),
        ("GET", "&limit=0", {"prefer": "count=exact"}),
        ("GET", "", {"range": "0-0", "prefer": "count=exact"}),
        ("PATCH", "", {"prefer": "return=representation"}),
        ("DELETE", "", {"prefer": "return=representation"}),
    ):
        answers = []
        for asked in (foreign, str(uuid4())):
            url = f"/rest/v1/{table}?id=eq.{asked}{query}"
            content = {"json": {"user_id": world.users["stranger"]}} if method == "PATCH" else {}
            answer = await world.ask("stranger", method, url, headers=headers, **content)
            answers.append(alike(answer, asked))
        assert answers[0] == answers[1], (method, query, headers)


async def test_storage_tells_no_foreign_file_from_a_missing_one(world: World):
    """But for the deletion of a single file, where the platform says 403 and 404."""
    mine = path(world)
    missing = re.sub(r"[^/]+\.png$", "7.png", mine)
    for method, target, content in (
        ("GET", "object/pictures/{}", {}),
        ("HEAD", "object/pictures/{}", {}),
        ("GET", "object/info/pictures/{}", {}),
        ("POST", "object/sign/pictures/{}", {"json": {"expiresIn": 60}}),
        ("POST", "object/sign/pictures", {"json": {"expiresIn": 60, "paths": ["{}"]}}),
        ("POST", "object/list/pictures", {"json": {"prefix": "{}"}}),
        ("DELETE", "object/pictures", {"json": {"prefixes": ["{}"]}}),
        ("POST", "object/pictures/{}", {"content": b"x", "headers": {"content-type": "image/png"}}),
        ("PUT", "object/pictures/{}", {"content": b"x", "headers": {"content-type": "image/png"}}),
    ):
        for role in ("anon", "stranger"):
            answers = []
            for asked in (mine, missing):
                sent = dict(content)
                if "json" in sent:
                    sent["json"] = json.loads(json.dumps(sent["json"]).replace("{}", asked))
                url = f"/storage/v1/{target.format(asked)}"
                answers.append(alike(await world.ask(role, method, url, **sent), asked))
            assert answers[0] == answers[1], (role, method, target)


async def test_a_generation_that_is_taken_is_refused_and_stays_as_it_is(world: World, admin: Any):
    """An id of one's own making may be another's: that is a conflict and says no more."""
    before = await admin.fetch("select * from public.generations order by id")
    jobs = await admin.fetchval("select count(*) from public.job_queue")
    taken = world["generation"]
    for role in ("stranger", "service"):
        answer = await world.rpc(
            role, "start_generation", prompt="mine", options={"generation_id": taken}
        )
        assert (answer.status, answer.code) == (409, "PQ_CONFLICT"), answer
        assert answer.json["details"] == f"options.generation_id is {taken}"
        assert (
            world.users["owner"] not in answer.text and world["generation_job"] not in answer.text
        )
    # It is so when the job is gone, too, and the generation is still there.
    await admin.execute("begin")
    assert await admin.fetch("select * from public.generations order by id") == before
    assert await admin.fetchval("select count(*) from public.job_queue") == jobs
    await admin.execute("rollback")


async def test_whose_it_is_comes_from_the_token(world: World, admin: Any):
    owner, stranger = world.users["owner"], world.users["stranger"]
    for options in ({"user_id": owner}, {"user_id": stranger}, {"user_id": None}, {"priority": 9}):
        answer = await world.rpc("stranger", "start_generation", prompt="x", options=options)
        assert (answer.status, answer.code) == (403, "PQ_NOT_ALLOWED"), options
    # What a row has and nobody may say.
    columns = await admin.fetch(
        """select distinct column_name::text from information_schema.columns
        where table_schema = 'public'"""
    )
    said = {"scheduled_for", "idempotency_key", "generation_id", "user_id", "priority"}
    for (column,) in columns:
        if column not in said:
            answer = await world.rpc(
                "stranger", "start_generation", prompt="x", options={column: owner}
            )
            assert (answer.status, answer.code) == (400, "PQ_INVALID_ARGUMENT"), column
        if column not in ("input", "prompt", "model_id"):
            answer = await world.rpc("stranger", "start_generation", prompt="x", **{column: owner})
            assert (answer.status, answer.code) == (404, "PGRST202"), column
    for name in ("user_id", "prediction", "webhook", "job_id"):
        answer = await world.rpc("stranger", "start_generation", prompt="x", input={name: owner})
        assert (answer.status, answer.code) == (422, "PQ_INVALID_INPUT"), name
    started = await world.do("stranger", "start_generation", prompt="x")
    for table, column in (("job_queue", "id"), ("generations", "job_id")):
        found = await admin.fetchval(
            f"select user_id::text from public.{table} where {column} = $1::text::uuid",
            started["job_id"],
        )
        assert found == stranger


async def test_an_idempotency_key_is_its_users_own(world: World):
    asked = {"prompt": "x", "options": {"idempotency_key": "the same"}}
    answers = [await world.do(role, "start_generation", **asked) for role in ("owner", "stranger")]
    assert answers[0]["generation_id"] != answers[1]["generation_id"]
    assert await world.do("owner", "start_generation", **asked) == answers[0]


async def test_a_filter_finds_only_what_is_the_callers(world: World):
    owner = world.users["owner"]
    for asked in (
        {"user_id": owner},
        {"job_ids": [world["pending"], world["failed"]]},
        {"tag": "xyzzy"},
        {"metadata": {"note": "xyzzy"}},
        {"error": "exploded"},
        {"batch_id": world["batch"]},
        {"tenant": owner},
    ):
        assert await world.do("stranger", "list_jobs", filter=asked) == [], asked
    for asked in ({"status": "processing"}, {"limit": 100}):
        found = await world.do("stranger", "list_generations", filter=asked)
        assert all(row["user_id"] == world.users["stranger"] for row in found), asked
