"""Requests for a row of another user and for an unknown id get the same answer."""

import json
import re
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.security.calls import CALLS
from tests.security.sample_project import Answer, SampleProject, owner_image_path

_VARYING_HEADERS = ("date", "content-length")


def without_id(answer: Answer, requested: str) -> tuple[Any, ...]:
    """Return an answer without the requested id, for comparison."""
    headers = sorted(
        (name, value.replace(requested, "<id>"))
        for name, value in answer.headers.multi_items()
        if name not in _VARYING_HEADERS
    )
    return answer.status, headers, answer.text.replace(requested, "<id>")


async def test_functions_answer_foreign_and_unknown_ids_alike(project: SampleProject, admin: Any):
    """Try every parameter of type uuid of the functions for users."""
    parameters = await admin.fetch(
        """select p.proname, n.name
        from pg_proc p, unnest(p.proargnames, p.proargtypes::oid[]) as n (name, type)
        where p.pronamespace = 'public'::regnamespace and n.type = 'uuid'::regtype
          and n.name <> 'request_id'
          and has_function_privilege('authenticated', p.oid, 'execute')"""
    )
    assert len(parameters) >= 5
    for function, name in parameters:
        foreign = CALLS[function](project)[name]
        answers = []
        for requested in (foreign, str(uuid4())):
            answer = await project.rpc("other_user", function, **{name: requested})
            # A user id is not looked up: the functions permit only the id of the caller.
            assert answer.status == (403 if name == "user_id" else 404), (function, answer)
            answers.append(without_id(answer, requested))
        assert answers[0] == answers[1], function


@pytest.mark.parametrize(
    ("granted", "is_service"),
    [("authenticated", False), ("service_role", True)],
)
async def test_a_direct_session_without_a_token_has_the_rights_of_its_role(
    admin: Any, granted: str, is_service: bool
):
    """A role that the project created is treated as the service only if it may be service_role."""
    transaction = admin.transaction()
    await transaction.start()
    try:
        job_id = await admin.fetchval(
            "select public.enqueue_job('foreign', user_id => $1)", uuid4()
        )
        await admin.execute(
            "create role project_role; grant project_role to postgres;"
            " grant authenticated to project_role"
        )
        await admin.execute(f"grant {granted} to project_role; set local role project_role")
        cancel = admin.fetchval("select public.cancel_job($1)", job_id)
        if is_service:
            assert json.loads(await cancel)["status"] == "cancelled"
        else:
            with pytest.raises(asyncpg.PostgresError, match="PQ_UNKNOWN_JOB"):
                await cancel
    finally:
        await transaction.rollback()


async def test_a_request_id_of_another_user_reveals_nothing(project: SampleProject):
    request = str(uuid4())
    started = (await project.rpc("owner", "start_generation", prompt="a boat")).json
    for function, name in (("cancel_job", "job_id"), ("cancel_generation", "generation_id")):
        requested = {name: started[name], "request_id": request}
        assert (await project.rpc("owner", function, **requested)).status == 200
        assert (await project.rpc("other_user", function, **requested)).status == 404


async def test_explain_answers_foreign_and_unknown_jobs_alike(project: SampleProject):
    answers = []
    for requested in (project["running"], str(uuid4())):
        answer = await project.rpc("other_user", "explain_jobs", job_ids=[requested])
        assert answer.status == 200
        answers.append(without_id(answer, requested))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("table", ["job_queue", "generations", "images"])
async def test_queries_answer_foreign_and_unknown_rows_alike(
    project: SampleProject, admin: Any, table: str
):
    foreign = str(
        await admin.fetchval(
            f"select id from public.{table} where user_id = $1::text::uuid limit 1",
            project.users["owner"],
        )
    )
    single_object = {"accept": "application/vnd.pgrst.object+json"}
    for method, query, headers in (
        ("GET", "", {}),
        ("GET", "", single_object),
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
        for requested in (foreign, str(uuid4())):
            url = f"/rest/v1/{table}?id=eq.{requested}{query}"
            content = (
                {"json": {"user_id": project.users["other_user"]}} if method == "PATCH" else {}
            )
            answer = await project.request("other_user", method, url, headers=headers, **content)
            answers.append(without_id(answer, requested))
        assert answers[0] == answers[1], (method, query, headers)


async def test_storage_answers_foreign_and_unknown_files_alike(project: SampleProject):
    """Compare all requests except DELETE of a single file, which answers 403 or 404."""
    foreign = owner_image_path(project)
    missing = re.sub(r"[^/]+\.png$", "7.png", foreign)
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
        for role in ("anon", "other_user"):
            answers = []
            for requested in (foreign, missing):
                sent = dict(content)
                if "json" in sent:
                    sent["json"] = json.loads(json.dumps(sent["json"]).replace("{}", requested))
                url = f"/storage/v1/{target.format(requested)}"
                answers.append(
                    without_id(await project.request(role, method, url, **sent), requested)
                )
            assert answers[0] == answers[1], (role, method, target)


async def test_a_generation_id_in_use_is_refused_and_changes_nothing(
    project: SampleProject, admin: Any
):
    """The error for the id of another user's generation contains nothing but this id."""
    before = await admin.fetch("select * from public.generations order by id")
    jobs = await admin.fetchval("select count(*) from public.job_queue")
    used_id = project["generation"]
    for role in ("other_user", "service"):
        answer = await project.rpc(
            role, "start_generation", prompt="mine", options={"generation_id": used_id}
        )
        assert (answer.status, answer.code) == (409, "PQ_CONFLICT"), answer
        assert answer.json["details"] == f"options.generation_id is {used_id}"
        assert (
            project.users["owner"] not in answer.text
            and project["generation_job"] not in answer.text
        )
    # The refused calls changed nothing.
    await admin.execute("begin")
    assert await admin.fetch("select * from public.generations order by id") == before
    assert await admin.fetchval("select count(*) from public.job_queue") == jobs
    await admin.execute("rollback")


async def test_the_owner_of_a_generation_comes_from_the_token(project: SampleProject, admin: Any):
    owner, other_user = project.users["owner"], project.users["other_user"]
    for options in (
        {"user_id": owner},
        {"user_id": other_user},
        {"user_id": None},
        {"priority": 9},
    ):
        answer = await project.rpc("other_user", "start_generation", prompt="x", options=options)
        assert (answer.status, answer.code) == (403, "PQ_NOT_ALLOWED"), options
    # Try every column as an option and as a parameter; only a few names are accepted.
    columns = await admin.fetch(
        """select distinct column_name::text from information_schema.columns
        where table_schema = 'public'"""
    )
    permitted = {"scheduled_for", "idempotency_key", "generation_id", "user_id", "priority"}
    for (column,) in columns:
        if column not in permitted:
            answer = await project.rpc(
                "other_user", "start_generation", prompt="x", options={column: owner}
            )
            assert (answer.status, answer.code) == (400, "PQ_INVALID_ARGUMENT"), column
        if column not in ("input", "prompt", "model_id"):
            answer = await project.rpc(
                "other_user", "start_generation", prompt="x", **{column: owner}
            )
            assert (answer.status, answer.code) == (404, "PGRST202"), column
    for name in ("user_id", "prediction", "webhook", "job_id"):
        answer = await project.rpc(
            "other_user", "start_generation", prompt="x", input={name: owner}
        )
        assert (answer.status, answer.code) == (422, "PQ_INVALID_INPUT"), name
    started = await project.call("other_user", "start_generation", prompt="x")
    for table, column in (("job_queue", "id"), ("generations", "job_id")):
        found = await admin.fetchval(
            f"select user_id::text from public.{table} where {column} = $1::text::uuid",
            started["job_id"],
        )
        assert found == other_user


async def test_idempotency_keys_of_different_users_are_independent(project: SampleProject):
    requested = {"prompt": "x", "options": {"idempotency_key": "the same"}}
    answers = [
        await project.call(role, "start_generation", **requested)
        for role in ("owner", "other_user")
    ]
    assert answers[0]["generation_id"] != answers[1]["generation_id"]
    assert await project.call("owner", "start_generation", **requested) == answers[0]


async def test_a_filter_selects_only_rows_of_the_caller(project: SampleProject):
    owner = project.users["owner"]
    for requested in (
        {"user_id": owner},
        {"job_ids": [project["pending"], project["failed"]]},
        {"tag": "xyzzy"},
        {"metadata": {"note": "xyzzy"}},
        {"error": "exploded"},
        {"batch_id": project["batch"]},
        {"tenant": owner},
    ):
        assert await project.call("other_user", "list_jobs", filter=requested) == [], requested
    for requested in ({"status": "processing"}, {"limit": 100}):
        found = await project.call("other_user", "list_generations", filter=requested)
        assert all(row["user_id"] == project.users["other_user"] for row in found), requested
