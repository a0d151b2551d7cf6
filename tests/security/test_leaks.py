"""Side channels: counts, plans, relations, listings and events reveal nothing of other users."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.security.access_attempts import AccessAttempts
from tests.security.realtime_socket import broadcast_event, open_socket
from tests.security.sample_project import SECRET, SampleProject

TABLES = ("job_queue", "generations", "images")


@pytest.mark.parametrize("role", ["anon", "other_user", "owner", "service"])
async def test_query_plans_are_not_shown(project: SampleProject, role: str):
    for accept in (
        "application/vnd.pgrst.plan+json",
        "application/vnd.pgrst.plan+text; options=analyze|verbose|settings|buffers",
    ):
        for method, target in (("GET", "job_queue"), ("POST", "rpc/list_jobs")):
            answer = await project.request(
                role, method, f"/rest/v1/{target}", headers={"accept": accept}
            )
            # PostgREST 12 answers 415, later versions 406.
            assert (answer.status in (406, 415), answer.code) == (True, "PGRST107"), answer


@pytest.mark.parametrize("role", ["anon", "other_user"])
async def test_embedding_reveals_no_rows_of_other_users(project: SampleProject, role: str):
    attempts = AccessAttempts(project, role)
    for table in TABLES:
        for other in (*TABLES, "prediction", "log", "history", "queue_health"):
            for select in (
                f"*,{other}(*)",
                f"id,{other}!inner(*)",
                f"id,...{other}(*)",
                f"id,{other}(count)",
                f"id,a:{other}(id,b:{table}(*))",
            ):
                answer = await attempts.request(
                    "GET",
                    f"/rest/v1/{table}?select={select}",
                    headers={"prefer": "count=exact"},
                )
                if answer.status < 300:
                    assert answer.json == []
                    assert answer.headers["content-range"] == "*/0"
                else:
                    assert answer.status in (300, 400, 401, 403), answer


async def test_embedding_reveals_no_private_rows(project: SampleProject):
    for table in TABLES:
        for other in ("prediction", "log", "history", "setting", "users", "objects", "messages"):
            answer = await project.request("owner", "GET", f"/rest/v1/{table}?select=*,{other}(*)")
            assert (answer.status, answer.code) == (400, "PGRST200"), answer


@pytest.mark.parametrize("table", TABLES)
async def test_counts_do_not_include_rows_of_other_users(project: SampleProject, table: str):
    """Count without a filter, and with filters that match rows of other users."""
    for query in ("", "?status=eq.processing", f"?user_id=eq.{project.users['owner']}"):
        if table == "images" and "status" in query:
            continue
        answer = await project.request(
            "other_user", "GET", f"/rest/v1/{table}{query}", headers={"prefer": "count=exact"}
        )
        assert (answer.json, answer.headers["content-range"]) == ([], "*/0")


@pytest.mark.parametrize("table", TABLES)
async def test_aggregates_do_not_include_rows_of_other_users(project: SampleProject, table: str):
    for select in ("count()", "id.count()", "id.max()"):
        answer = await project.request("other_user", "GET", f"/rest/v1/{table}?select={select}")
        assert answer.status == 400 or answer.json in ([], [{"count": 0}], [{"max": None}]), answer


#: Columns whose estimates may depend on values of other users. They reveal only how much work of a
#: queue, type or state exists, which `job_position` also reveals.
REVEALABLE = {
    "queue", "job_type", "status", "hold", "worker", "lease_id", "model_id", "mime_type"
}  # fmt: skip
#: Two thousand rows of one user, with the same value in every column, so that it is common.
_COMMON_ROWS = {
    "job_queue": f"""insert into public.job_queue (status, finished_at, job_type, user_id, tenant,
        generation_id, batch_id, idempotency_key, unique_key, parked_on, blocked_on, message, error,
        tags, limit_keys, slots)
      select 'completed', now(), '{SECRET}', $1, '{SECRET}', $1, $1, '{SECRET}' || n, '{SECRET}',
        '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', array['{SECRET}'], array['{SECRET}'],
        array['{SECRET}']
      from generate_series(1, 2000) n""",
    "generations": f"""insert into public.generations (user_id, job_id, batch_id, model_id, prompt,
        error)
      select $1, $1, $1, 'm', '{SECRET}', '{SECRET}' from generate_series(1, 2000)""",
    "images": f"""insert into public.images (generation_id, user_id, n, path, mime_type)
      select g.id, $1, n, '{SECRET}', 'image/png'
      from generate_series(1001, 3000) n, (select id from public.generations limit 1) g""",
}
_REVEALED_COLUMN = {"job_queue": "job_type", "generations": "model_id", "images": "mime_type"}


@pytest.mark.parametrize("table", TABLES)
async def test_estimates_do_not_depend_on_values_of_other_users(
    project: SampleProject, admin: Any, table: str
):
    """Compare the planner's estimates for a common value and for a value that does not occur.

    `count=planned` returns the estimate of the planner, which knows the most common values of a
    column. If the two estimates differed, a user could confirm a guess of another user's value.
    """
    user = uuid4()
    await admin.execute(_COMMON_ROWS[table].replace("$1", f"'{user}'::uuid"))
    await admin.execute(f"analyze public.{table}")
    columns = await admin.fetch(
        """select a.attname::text, a.atttypid = 'text[]'::regtype from pg_attribute a
        where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
          and a.atttypid in ('text'::regtype, 'text[]'::regtype, 'uuid'::regtype)""",
        f"public.{table}",
    )
    differs = {}
    for column, is_array in sorted(columns):
        common = await admin.fetchval(
            f"""select {column}::text from public.{table} where {column} is not null
            group by {column} order by count(*) desc limit 1""",
        )
        guesses = [f"cs.{common or '{}'}", f"cs.{{{uuid4()}}}"]
        if not is_array:
            guesses = [f"eq.{common}", f"eq.{uuid4()}"]
        answers = [await _estimate(project, table, column, guess) for guess in guesses]
        differs[column] = answers[0] != answers[1]
    # If estimates for ranges of ids differed, a user could find an id by bisection.
    ends = [await _estimate(project, table, "id", f"lt.{UUID(int=n << 124)}") for n in (1, 15)]
    differs["id"] |= ends[0] != ends[1]
    assert {column for column, is_different in differs.items() if is_different} <= REVEALABLE
    # The comparison works: it detects that the estimates of this permitted column differ.
    assert differs[_REVEALED_COLUMN[table]]
    await admin.execute(f"delete from public.{table} where user_id = $1", user)


async def _estimate(project: SampleProject, table: str, column: str, condition: str) -> Any:
    answer = await project.request(
        "other_user",
        "GET",
        f"/rest/v1/{table}",
        params={column: condition},
        headers={"prefer": "count=planned"},
    )
    return answer.status, answer.headers.get("content-range"), answer.code


@pytest.mark.parametrize("role", ["anon", "other_user"])
async def test_the_api_description_lists_only_usable_objects(project: SampleProject, role: str):
    answer = await project.request(role, "GET", "/rest/v1/")
    paths = set(answer.json["paths"]) - {"/"}
    if role == "anon":
        assert paths == set()
    else:
        assert {name.removeprefix("/rpc/") for name in paths if "/rpc/" in name} == {
            "get_job", "list_jobs", "job_position", "explain_jobs", "cancel_job", "get_generation",
            "list_generations", "cancel_generation", "start_generation", "list_models",
            "picture_queue_version", "set_favourite", "delete_generation",
            "get_account", "start_generations", "generation_batch", "cancel_generation_batch",
        }  # fmt: skip
        assert {name[1:] for name in paths if "/rpc/" not in name} == {*TABLES}


async def test_an_owner_sees_no_internal_details_of_a_failure(project: SampleProject):
    """Check that internal details of a failure stay in a private table."""
    history = await project.rpc("owner", "get_job_history", job_id=project["failed"])
    assert history.code == "42501"
    job = await project.call("owner", "get_job", job_id=project["failed"])
    assert "detail" not in job


async def test_other_users_receive_no_events(project: SampleProject):
    """Listen on the user's own topic, and on public channels named like the owner's topics."""
    owner_topic = f"pq:user:{project.users['owner']}"
    names = [
        owner_topic,
        f"pq:job:{project['pending']}",
        f"pq:queue:{project.queue}",
        "*",
        "pq:user:*",
    ]
    async with (
        open_socket(project.api_url, project.tokens["anon"]) as anonymous,
        open_socket(project.api_url, project.tokens["anon"]) as other,
        open_socket(project.api_url, project.tokens["anon"]) as owner,
    ):
        assert await owner.join(owner_topic, project.tokens["owner"]) is None
        assert (
            await other.join(f"pq:user:{project.users['other_user']}", project.tokens["other_user"])
            is None
        )
        for name in names:
            for socket, role in ((anonymous, "anon"), (other, "other_user")):
                assert await socket.join(name, project.tokens[role], private=False) is None
        started = await project.call("owner", "start_generation", prompt=SECRET)
        await project.call("owner", "cancel_generation", generation_id=started["generation_id"])
        await owner.receive_until("job")
        # Events arrive in the order of the commits, so this event comes after the owner's events.
        await project.call("other_user", "start_generation", prompt="x")
        await other.receive_until("job")
        await anonymous.send("realtime:none", "none", {})
    messages = [
        message
        for socket in (anonymous, other)
        for message in socket.messages
        if broadcast_event(message)
    ]
    assert len(messages) == 1
    assert SECRET not in str(messages) and project.users["owner"] not in str(messages)
