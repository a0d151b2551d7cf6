"""Nothing is told on the side: by counts, plans, relations, lists of what there is, or events."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.security.line import dial, said
from tests.security.ways import Tries
from tests.security.world import SECRET, World

TABLES = ("job_queue", "generations", "images")


@pytest.mark.parametrize("role", ["anon", "stranger", "owner", "service"])
async def test_no_plan_is_shown(world: World, role: str):
    for accept in (
        "application/vnd.pgrst.plan+json",
        "application/vnd.pgrst.plan+text; options=analyze|verbose|settings|buffers",
    ):
        for method, target in (("GET", "job_queue"), ("POST", "rpc/list_jobs")):
            answer = await world.ask(role, method, f"/rest/v1/{target}", headers={"accept": accept})
            # 415 of PostgREST 12, 406 of later ones
            assert (answer.status in (406, 415), answer.code) == (True, "PGRST107"), answer


@pytest.mark.parametrize("role", ["anon", "stranger"])
async def test_no_relation_leads_to_rows_of_others(world: World, role: str):
    tries = Tries(world, role)
    for table in TABLES:
        for other in (*TABLES, "prediction", "log", "history", "queue_health"):
            for select in (
                f"*,{other}(*)",
                f"id,{other}!inner(*)",
                f"id,...{other}(*)",
                f"id,{other}(count)",
                f"id,a:{other}(id,b:{table}(*))",
            ):
                answer = await tries.ask(
                    "GET",
                    f"/rest/v1/{table}?select={select}",
                    headers={"prefer": "count=exact"},
                )
                if answer.status < 300:
                    assert answer.json == []
                    assert answer.headers["content-range"] == "*/0"
                else:
                    assert answer.status in (300, 400, 401, 403), answer


async def test_no_relation_leads_from_ones_own_to_what_is_private(world: World):
    for table in TABLES:
        for other in ("prediction", "log", "history", "setting", "users", "objects", "messages"):
            answer = await world.ask("owner", "GET", f"/rest/v1/{table}?select=*,{other}(*)")
            assert (answer.status, answer.code) == (400, "PGRST200"), answer


@pytest.mark.parametrize("table", TABLES)
async def test_no_count_tells_of_rows_that_are_not_shown(world: World, table: str):
    """Also not with a filter that rows of others would pass."""
    for query in ("", "?status=eq.processing", f"?user_id=eq.{world.users['owner']}"):
        if table == "images" and "status" in query:
            continue
        answer = await world.ask(
            "stranger", "GET", f"/rest/v1/{table}{query}", headers={"prefer": "count=exact"}
        )
        assert (answer.json, answer.headers["content-range"]) == ([], "*/0")


@pytest.mark.parametrize("table", TABLES)
async def test_no_aggregate_counts_rows_of_others(world: World, table: str):
    for select in ("count()", "id.count()", "id.max()"):
        answer = await world.ask("stranger", "GET", f"/rest/v1/{table}?select={select}")
        assert answer.status == 400 or answer.json in ([], [{"count": 0}], [{"max": None}]), answer


#: What an estimate may tell: how much work of which kind the project has, as `job_position` does.
PROJECTS_OWN = {
    "queue", "job_type", "status", "hold", "worker", "lease_id", "model_id", "mime_type"
}  # fmt: skip
#: Two thousand rows of somebody's, with one value wherever that can be, so that it is a common one.
_CROWD = {
    "job_queue": f"""insert into public.job_queue (status, finished_at, job_type, user_id, tenant,
        generation_id, batch_id, idempotency_key, unique_key, parked_on, blocked_on, message, error,
        tags, limit_keys, slots)
      select 'completed', now(), '{SECRET}', $1, '{SECRET}', $1, $1, '{SECRET}' || n, '{SECRET}',
        '{SECRET}', '{SECRET}', '{SECRET}', '{SECRET}', array['{SECRET}'], array['{SECRET}'],
        array['{SECRET}']
      from generate_series(1, 2000) n""",
    "generations": f"""insert into public.generations (user_id, job_id, model_id, prompt, error)
      select $1, $1, 'm', '{SECRET}', '{SECRET}' from generate_series(1, 2000)""",
    "images": f"""insert into public.images (generation_id, user_id, n, path, mime_type)
      select g.id, $1, n, '{SECRET}', 'image/png'
      from generate_series(1001, 3000) n, (select id from public.generations limit 1) g""",
}
_KNOWN = {"job_queue": "job_type", "generations": "model_id", "images": "mime_type"}


@pytest.mark.parametrize("table", TABLES)
async def test_no_estimate_depends_on_what_others_said(world: World, admin: Any, table: str):
    """`count=planned` asks the planner, who knows the most common values of a column.

    Whether a guess is right must not be told: the answer is that to a value nobody has.
    """
    somebody = uuid4()
    await admin.execute(_CROWD[table].replace("$1", f"'{somebody}'::uuid"))
    await admin.execute(f"analyze public.{table}")
    columns = await admin.fetch(
        """select a.attname::text, a.atttypid = 'text[]'::regtype from pg_attribute a
        where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped
          and a.atttypid in ('text'::regtype, 'text[]'::regtype, 'uuid'::regtype)""",
        f"public.{table}",
    )
    told = {}
    for column, is_array in sorted(columns):
        common = await admin.fetchval(
            f"""select {column}::text from public.{table} where {column} is not null
            group by {column} order by count(*) desc limit 1""",
        )
        guesses = [f"cs.{common or '{}'}", f"cs.{{{uuid4()}}}"]
        if not is_array:
            guesses = [f"eq.{common}", f"eq.{uuid4()}"]
        answers = [await _estimate(world, table, column, guess) for guess in guesses]
        told[column] = answers[0] != answers[1]
    # Whose id is greater: by halves, that is the id.
    ends = [await _estimate(world, table, "id", f"lt.{UUID(int=n << 124)}") for n in (1, 15)]
    told["id"] |= ends[0] != ends[1]
    assert {column for column, tells in told.items() if tells} <= PROJECTS_OWN
    # The attack does work where there are statistics.
    assert told[_KNOWN[table]]
    await admin.execute(f"delete from public.{table} where user_id = $1", somebody)


async def _estimate(world: World, table: str, column: str, condition: str) -> Any:
    answer = await world.ask(
        "stranger",
        "GET",
        f"/rest/v1/{table}",
        params={column: condition},
        headers={"prefer": "count=planned"},
    )
    return answer.status, answer.headers.get("content-range"), answer.code


@pytest.mark.parametrize("role", ["anon", "stranger"])
async def test_what_there_is_is_listed_only_for_who_may_use_it(world: World, role: str):
    answer = await world.ask(role, "GET", "/rest/v1/")
    paths = set(answer.json["paths"]) - {"/"}
    if role == "anon":
        assert paths == set()
    else:
        assert {name.removeprefix("/rpc/") for name in paths if "/rpc/" in name} == {
            "get_job", "list_jobs", "job_position", "explain_jobs", "cancel_job", "get_generation",
            "list_generations", "cancel_generation", "start_generation", "list_models",
            "picture_queue_version",
        }  # fmt: skip
        assert {name[1:] for name in paths if "/rpc/" not in name} == {*TABLES}


async def test_an_owner_sees_nothing_internal_of_a_failure(world: World):
    """What a worker knew beside the error stays in a table of ours."""
    history = await world.rpc("owner", "get_job_history", job_id=world["failed"])
    assert history.code == "42501"
    job = await world.do("owner", "get_job", job_id=world["failed"])
    assert "detail" not in job


async def test_others_hear_nothing(world: World):
    """Neither on a topic of their own, nor on public channels of the owner's names."""
    owners = f"pq:user:{world.users['owner']}"
    names = [owners, f"pq:job:{world['pending']}", f"pq:queue:{world.queue}", "*", "pq:user:*"]
    async with (
        dial(world.api_url, world.tokens["anon"]) as nobody,
        dial(world.api_url, world.tokens["anon"]) as other,
        dial(world.api_url, world.tokens["anon"]) as owner,
    ):
        assert await owner.join(owners, world.tokens["owner"]) is None
        assert (
            await other.join(f"pq:user:{world.users['stranger']}", world.tokens["stranger"]) is None
        )
        for name in names:
            for line, role in ((nobody, "anon"), (other, "stranger")):
                assert await line.join(name, world.tokens[role], private=False) is None
        started = await world.do("owner", "start_generation", prompt=SECRET)
        await world.do("owner", "cancel_generation", generation_id=started["generation_id"])
        await owner.until("job")
        # The stranger's own comes after it, in the order of the commits.
        await world.do("stranger", "start_generation", prompt="x")
        await other.until("job")
        await nobody.send("realtime:none", "none", {})
    heard = [message for line in (nobody, other) for message in line.heard if said(message)]
    assert len(heard) == 1
    assert SECRET not in str(heard) and world.users["owner"] not in str(heard)
