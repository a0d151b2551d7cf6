"""Which indexes the hot statements read, on a table with many jobs, with statistics and without.

Each function is run, and the scans it made are counted: no statement is copied here that could
differ from the one in use. The plans of those that decide over speed are looked at as well, taken
from the function's own text.
"""

import re
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.sql.conftest import transaction

LOAD = """
with made as (
  insert into public.job_queue
    (queue, job_type, user_id, tags, status, hold, blocked_on, scheduled_for, finished_at)
  select $1, 'sql-resize', case when i % 50 = 0 then md5('u' || i % 500)::uuid end,
    case when i % 1000 = 0 then '{a}'::text[] end, s.status, s.hold,
    case when s.hold = 'blocked' then 'model:' || i % 20 end,
    case when s.hold = 'scheduled' then picture_queue._now() + interval '1 day' end,
    case when s.status = 'completed' then picture_queue._now() - i * interval '1 second' end
  from (values ('completed', null, 20000), ('pending', 'scheduled', 5000),
    ('pending', 'blocked', 5000), ('pending', null, 500)) as s (status, hold, n)
  cross join lateral generate_series(1, s.n) i
  returning queue, status, hold
)
insert into picture_queue.depth_change (queue, status, hold, n, at)
select queue, status, hold, count(*), picture_queue._now() from made group by queue, status, hold
"""
SCANS = """
select c.relname, pg_stat_get_xact_numscans(c.oid) as scans,
  pg_stat_get_xact_tuples_returned(c.oid) as rows
from pg_class c
where c.oid = 'public.job_queue'::regclass
  or c.oid in (select indexrelid from pg_index where indrelid = 'public.job_queue'::regclass)
"""


@pytest.fixture(params=["analyzed", "never analyzed"])
async def many(own_database, request):
    """A queue of 30,500 jobs, and no dead entries of other tests in the indexes."""
    other = await asyncpg.connect(own_database, timeout=10, command_timeout=30)
    await other.execute("vacuum public.job_queue")
    await other.close(timeout=10)
    async with transaction(own_database) as db:
        await db.value("select set_queue($1)", db.queue)
        await db.connection.execute(LOAD, db.queue)
        if request.param == "analyzed":
            await db.run("analyze public.job_queue")
        yield db


async def scans(db, sql, *args):
    """Runs a statement; returns the rows it read by each index and by sequential scan."""
    before = {row["relname"]: row for row in await db.rows(SCANS)}
    await db.rows(sql, *args)
    return {
        row["relname"]: row["rows"] - before[row["relname"]]["rows"]
        for row in await db.rows(SCANS)
        if row["scans"] > before[row["relname"]]["scans"]
    }


async def source(db, function):
    return await db.value(f"select prosrc from pg_proc where oid = '{function}'::regproc")


def reads_only(found, **allowed):
    """At most so many rows by each of these indexes, and nothing by another."""
    names = {f"job_queue_{name}": rows for name, rows in allowed.items()}
    extra = {name: rows for name, rows in found.items() if name not in names or rows > names[name]}
    assert not extra, f"read beyond what is allowed ({allowed}): {extra}; all: {found}"


CLAIM = "select claim_jobs($1, $2, $3, $4, 30, gen_random_uuid(), $5)"


async def claim(db, n=20, weights=None):
    return await scans(db, CLAIM, "w1", [db.queue], ["sql-resize"], n, weights)


@pytest.mark.parametrize("weights", [None, [2.0]], ids=["one line", "weighted"])
async def test_a_claim_reads_its_candidates_from_its_own_index(many, weights):
    await claim(many)  # the first one of a worker also sweeps
    found = await claim(many, weights=weights)
    # Half of them are dead: entries of the first claim, in the same transaction. By id they are
    # read to be moved, announced and told, versions of this transaction included.
    reads_only(found, claimable=40, pkey=100, due=0, leased=0)


async def test_a_claim_under_limits_reads_no_more(many):
    await many.value("select set_limit($1, max_running => 1000)", f"queue:{many.queue}")
    await many.value("select set_limit('user:*', max_running => 1000)")
    await claim(many)
    reads_only(await claim(many), claimable=60, pkey=100, due=0, leased=0, blocked=0)


async def test_a_claim_that_sweeps_reads_what_is_due_only(many):
    found = await claim(many)
    reads_only(found, claimable=20, pkey=100, due=0, leased=0, expiring=0)


async def test_a_report_and_a_heartbeat_read_by_id(many):
    jobs = await many.claim(20)
    leases = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in jobs]
    # Four looks at each of 20 rows, of which this transaction has left up to five versions.
    reads_only(await scans(many, "select heartbeat_jobs('w1', $1)", leases), pkey=400)
    done = [{**lease, "outcome": "completed"} for lease in leases]
    reads_only(await scans(many, "select report_jobs($1)", done), pkey=400)


async def test_promoting_reads_what_is_due(many):
    await many.run(
        "update job_queue set scheduled_for = picture_queue._now() - interval '1 s' where id in "
        "(select id from job_queue where queue = $1 and hold = 'scheduled' limit 10)",
        many.queue,
    )
    found = await scans(many, "select picture_queue._promote(100)")
    reads_only(found, due=20, pkey=80)


async def test_unblocking_reads_who_is_let_through(many):
    found = await scans(many, "select picture_queue._unblock('{model:1}', '{}')")
    # A key without a rule lets everybody through.
    reads_only(found, blocked=800, pkey=1250)


async def test_the_doctor_counts_the_states_of_few_jobs_only(many):
    await many.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        select $1, 'sql-many', case when i <= 60000 then 'completed' else 'failed' end, now()
        from generate_series(1, 75000) i""",
        many.queue,
    )
    await many.value("select picture_queue.repair()")
    found = await scans(many, "select queue_doctor()")
    # The failed ones, but not those completed, of whom there are over 20,000.
    reads_only(found, finished=15000, claimable=600, due=5000, blocked=10100, parked=0, leased=0)


async def test_pruning_reads_what_is_old(many):
    await many.run(
        "update job_queue set finished_at = finished_at - interval '1 year' where id in "
        "(select id from job_queue where queue = $1 and status = 'completed' limit 10)",
        many.queue,
    )
    found = await scans(many, "select picture_queue._prune(100)")
    reads_only(found, finished=20, pkey=60, parked=0)


async def test_waking_reads_who_waits_for_the_event(many):
    await many.enqueue(priority=100)
    (job,) = await many.claim()
    await many.report(job, "parked", event="sql-event", delay_seconds=60)
    reads_only(await scans(many, "select send_event('sql-event')"), parked=3, pkey=11)


RARE = """
with few as (
  select id from job_queue where queue = $1 and status = 'completed' order by seq limit 40
)
update job_queue set queue = $1 || '-rare', status = 'pending', finished_at = null,
  user_id = '00000000-0000-4000-8000-000000000001'
where id in (select id from few)
"""
OWNER = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
async def rare(many):
    """Beside the many jobs 40 of another queue, the oldest of all and pending."""
    await many.value("select set_queue($1)", f"{many.queue}-rare")
    await many.connection.execute(RARE, many.queue)
    return many


@pytest.mark.parametrize(
    ("given", "reads"),
    [
        # The newest of each queue and status are looked up first, past the rows that were moved.
        ({}, {"listed": 320}),
        ({"limit": 1000}, {"listed": 4200}),
        ({"status": "failed"}, {"listed": 60}),
        ({"status": "processing"}, {"listed": 60}),
        ({"status": "completed"}, {"listed": 120}),
        # 10,500 jobs of that status and 20,000 others are newer.
        ({"queue": "rare"}, {"listed": 60}),
        ({"queue": "rare", "status": "pending"}, {"listed": 60}),
        ({"queue": "rare", "status": "completed"}, {"listed": 20}),
        ({"queue": "rare", "hold": "waiting"}, {"listed": 60}),
        ({"queue": "none"}, {"listed": 20}),
        ({"user_id": "md5"}, {"owned": 100}),
        ({"user_id": OWNER}, {"owned": 40}),
        ({"user_id": OWNER, "status": "completed"}, {"owned": 40}),
        ({"user_id": OWNER, "status": "pending", "job_type": "none"}, {"owned": 40}),
        ({"batch_id": str(uuid4())}, {"batch": 0}),
        ({"batch_id": str(uuid4()), "status": "pending"}, {"batch": 0}),
        ({"job_ids": [str(uuid4())], "status": "completed"}, {"pkey": 0}),
        ({"hold": "parked"}, {"parked": 0}),
    ],
)
async def test_a_list_reads_the_index_of_its_filter(rare, given, reads):
    if given.get("user_id") == "md5":
        user = "select user_id from job_queue where user_id is not null limit 1"
        given = {**given, "user_id": str(await rare.value(user))}
    if "queue" in given:
        given = {**given, "queue": f"{rare.queue}-{given['queue']}"}
    found = await scans(rare, "select list_jobs($1)", {"limit": 50, **given})
    assert "job_queue" not in found, f"reads the whole table: {found}"
    reads_only(found, **{"leased": 0, "parked": 0, "due": 0, **reads})


@pytest.mark.parametrize("given", [{}, {"status": "completed"}, {"job_type": "none"}])
async def test_a_user_lists_without_reading_jobs_of_others(rare, given):
    await rare.act_as("authenticated", UUID(OWNER))
    found = await scans(rare, "select list_jobs($1)", {**given, "limit": 50})
    reads_only(found, owned=40)


async def test_a_policy_of_the_project_lets_users_list_more(rare):
    """Only under our policy alone is it known whose jobs a user can see."""
    await rare.run("create policy team on job_queue for select to authenticated using (true)")
    await rare.act_as("authenticated", UUID(OWNER))
    rows = await rare.value("select list_jobs($1)", {"limit": 50})
    assert {row["user_id"] for row in rows} != {OWNER}
    assert len(rows) == 50


async def test_a_purge_reads_what_is_pending_in_its_queue(rare):
    queue = f"{rare.queue}-rare"
    found = await scans(rare, f"select purge_queue('{queue}')")
    # Found once by the queue, then by id to be moved, versions of this transaction included.
    reads_only(found, listed=40, pkey=1000, parked=0)
    states = await rare.rows("select distinct status from job_queue where queue = $1", queue)
    assert [row["status"] for row in states] == ["cancelled"]


@pytest.mark.parametrize(
    ("action", "given", "reads"),
    [
        ("cancel", {}, {"listed": 80, "pkey": 1000}),
        ("cancel", {"job_type": "none"}, {"listed": 40}),
        ("discard", {}, {"listed": 0}),
    ],
)
async def test_changing_the_jobs_of_a_queue_reads_that_queue(rare, action, given, reads):
    given = {"queue": f"{rare.queue}-rare", **given}
    found = await scans(rare, f"select change_jobs('{action}', $1)", given)
    reads_only(found, **{"leased": 0, "parked": 0, "finished": 0, "unique": 0, **reads})


async def test_counts_do_not_look_at_all_jobs(many):
    # Of each queue the first 50 of each priority, and the steps from one to the next.
    found = await scans(many, "select queue_counts()")
    assert set(found) <= {"job_queue_claimable", "job_queue_finished"}, found
    assert found.get("job_queue_finished", 0) == 0, "no job failed"
    assert found.get("job_queue_claimable", 0) <= 2000, found
    found = await scans(many, "select desired_workers($1)", many.queue)
    reads_only(found, due=10)


@pytest.mark.parametrize(
    ("function", "first", "last", "parameters", "bitmaps"),
    [
        (
            "_candidates",
            "select row(",
            ");\n  perform",
            {
                "p_queues": "text[]",
                "p_weights": "real[]",
                "p_job_types": "text[]",
                "p_limit": "integer",
                "p_heads": "jsonb",
            },
            set(),
        ),
        (
            "_start",
            "with chosen as",
            "\n  into v_made;",
            {
                "p_queues": "text[]",
                "p_job_types": "text[]",
                "p_max_jobs": "integer",
                "p_heads": "jsonb",
                "p_ids": "uuid[]",
                "p_slots": "jsonb",
                "p_worker": "text",
                "p_lease_id": "uuid",
                "p_lease_seconds": "real",
                "p_legacy": "boolean",
                "p_drawn": "boolean",
            },
            {"job_queue_pkey"},  # those picked are started by their ids
        ),
    ],
)
async def test_the_plan_of_a_pick(many, function, first, last, parameters, bitmaps):
    """In the order of its index, so that it can stop: what is sorted is what was picked."""
    text = await source(many, f"picture_queue.{function}")
    text = text[text.index(first) :]
    text = text[: text.index(last)].replace("v_now", "now()")
    for i, name in enumerate(parameters, 1):
        text = re.sub(rf"\b{name}\b", f"${i}", text)
    name = f"p{uuid4().hex[:8]}"
    await many.run("set local plan_cache_mode = force_generic_plan")
    await many.run(f"prepare {name} ({', '.join(parameters.values())}) as {text}")
    given = {"p_queues": f"array['{many.queue}']", "p_job_types": "'{sql-resize}'"}
    values = ", ".join(given.get(name, "null") for name in parameters)
    rows = await many.rows(f"explain (costs off) execute {name}({values})")
    found = "\n".join(row["QUERY PLAN"] for row in rows)
    assert "Index Scan using job_queue_claimable on job_queue j" in found, found
    assert "Seq Scan on job_queue" not in found, found
    assert set(re.findall(r"Bitmap Index Scan on (\w+)", found)) <= bitmaps, found
    inner = found[found.index("LockRows") :].split("CTE started")[0]
    assert "Bitmap" not in inner, found
    assert "Sort" not in inner.split("job_queue_claimable")[0], found


@pytest.mark.parametrize(
    ("function", "table_part", "index"),
    [
        ("_promote", "hold in", "job_queue_due"),
        ("_sweep", "expires_at <=", "job_queue_expiring"),
        ("_prune", "finished_at <", "job_queue_finished"),
    ],
)
async def test_the_plan_of_what_housekeeping_seeks(many, function, table_part, index):
    """The time is a condition of the index, not a filter on all that waits."""
    text = await source(many, f"picture_queue.{function}")
    parts = re.findall(r"select (?:j\.)?id(?:(?!select).)*?for update skip locked", text, re.S)
    (part,) = [part for part in parts if table_part in part and "lease_expires_at" not in part]
    part = part.replace("v_now", "$1").replace("p_limit", "$2")
    part = part.replace("k.status", "'completed'").replace("k.seconds", "604800")
    await many.run("set local plan_cache_mode = force_generic_plan")
    name = f"p{uuid4().hex[:8]}"
    await many.run(f"prepare {name}(timestamptz, integer) as {part}")
    rows = await many.rows(f"explain (costs off) execute {name}(now(), 100)")
    found = "\n".join(row["QUERY PLAN"] for row in rows)
    assert f"Index Scan using {index} on job_queue" in found, found
    assert "Index Cond" in found, found
    assert "Sort" not in found, found
