"""Index usage of the frequent statements on a table with many jobs, with and without statistics.

The tests run each function and count the rows that it reads, because a copy of its statements could
differ from the statements in use. They also check the plans that matter most for speed. They take
the statements of these plans from the text of the functions.
"""

import re
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.sql.conftest import transaction

INSERT_JOBS = """
with inserted as (
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
select queue, status, hold, count(*), picture_queue._now() from inserted
group by queue, status, hold
"""
SCANS = """
select c.relname, pg_stat_get_xact_numscans(c.oid) as scans,
  pg_stat_get_xact_tuples_returned(c.oid) as rows
from pg_class c
where c.oid = 'public.job_queue'::regclass
  or c.oid in (select indexrelid from pg_index where indrelid = 'public.job_queue'::regclass)
"""


@pytest.fixture(params=["analyzed", "never analyzed"])
async def big_db(own_database, request):
    """A queue of 30,500 jobs, without dead index entries of other tests."""
    other = await asyncpg.connect(own_database, timeout=10, command_timeout=30)
    # Rows that other tests rolled back leave pages without rows. If a table is analyzed in this
    # state, plans read whole indexes until the next analyze.
    for table in ("public.job_queue", "picture_queue.dependency", "picture_queue.follow_up"):
        await other.execute(f"vacuum {table}")
    await other.close(timeout=10)
    async with transaction(own_database) as db:
        await db.value("select set_queue($1)", db.queue)
        await db.connection.execute(INSERT_JOBS, db.queue)
        if request.param == "analyzed":
            await db.run("analyze public.job_queue")
        yield db


async def count_reads(db, sql, *args):
    """Run a statement; return how many rows it read of each index and table that it scanned.

    The keys are the names of the indexes of job_queue, and job_queue itself for sequential scans.
    Dead row versions that earlier statements of the transaction left count too.
    """
    before = {row["relname"]: row for row in await db.rows(SCANS)}
    await db.rows(sql, *args)
    return {
        row["relname"]: row["rows"] - before[row["relname"]]["rows"]
        for row in await db.rows(SCANS)
        if row["scans"] > before[row["relname"]]["scans"]
    }


async def function_body(db, function):
    return await db.value(f"select prosrc from pg_proc where oid = '{function}'::regproc")


def check_reads(found, **allowed):
    """Check that only these indexes were read, and of each at most this number of rows.

    Where no comment explains a number, it is slightly above the number that the intended plan
    reads. A plan that reads unrelated jobs exceeds it by hundreds of rows.
    """
    names = {f"job_queue_{name}": rows for name, rows in allowed.items()}
    extra = {name: rows for name, rows in found.items() if name not in names or rows > names[name]}
    assert not extra, f"read more than allowed ({allowed}): {extra}; all: {found}"


CLAIM = "select claim_jobs($1, $2, $3, $4, 30, gen_random_uuid(), $5)"


async def claim(db, n=20, weights=None):
    return await count_reads(db, CLAIM, "w1", [db.queue], ["sql-resize"], n, weights)


@pytest.mark.parametrize("weights", [None, [2.0]], ids=["unweighted", "weighted"])
async def test_a_claim_reads_its_candidates_from_the_claim_index(big_db, weights):
    await claim(big_db)
    found = await claim(big_db, weights=weights)
    # Half of the entries are dead: the first claim left them, in the same transaction. Rows are
    # read by id for the start and the event, dead row versions included, and by lease for the
    # answer.
    check_reads(found, claimable=40, pkey=60, leased=20)


async def test_a_claim_of_two_queues_reads_its_candidates_by_id(big_db):
    """Claim from both queues; the first one has 500 claimable jobs."""
    await big_db.value("select set_queue('sql-second')")
    await big_db.value("select enqueue_job('sql-resize', queue => 'sql-second')")
    both = [big_db.queue, "sql-second"]
    for _ in range(2):
        found = await count_reads(big_db, CLAIM, "w1", both, ["sql-resize"], 20, None)
    # Unlike a claim of one queue, this claim reads each candidate by its id to lock it.
    check_reads(found, claimable=60, pkey=80, leased=20)


async def test_a_repeated_claim_reads_only_its_lease(big_db):
    lease = uuid4()
    first = await big_db.claim(20, request_id=lease)
    await claim(big_db)
    found = await count_reads(
        big_db, "select claim_jobs('w1', $1, '{sql-resize}', 20, 30, $2)", [big_db.queue], lease
    )
    assert len(await big_db.claim(20, request_id=lease)) == len(first) == 20
    # One row is read to check that the lease exists, and then the jobs of the lease.
    check_reads(found, leased=21)


async def test_a_claim_under_limits_reads_no_more_rows(big_db):
    await big_db.value("select set_limit($1, max_running => 1000)", f"queue:{big_db.queue}")
    await big_db.value("select set_limit('user:*', max_running => 1000)")
    await claim(big_db)
    check_reads(await claim(big_db), claimable=40, pkey=60, leased=20)


async def test_a_claim_does_no_maintenance(big_db):
    """The claim does not promote, sweep or expire jobs, even if many are due."""
    await big_db.claim(10, lease=5.0)
    await big_db.run(
        "update job_queue set scheduled_for = picture_queue._now() - interval '1 s', "
        "expires_at = picture_queue._now() - interval '1 s' "
        "where queue = $1 and hold = 'scheduled'",
        big_db.queue,
    )
    await big_db.pass_time(6, maintained=False)
    found = await claim(big_db)
    check_reads(found, claimable=30, pkey=60, leased=20)
    assert "job_queue_due" not in found
    assert "job_queue_expiring" not in found
    count = "select count(*) from job_queue where queue = $1 and status = "
    scheduled = await big_db.value(count + "'pending' and hold = 'scheduled'", big_db.queue)
    assert scheduled == 5000, "no job is promoted or expired"
    running = await big_db.value(count + "'processing'", big_db.queue)
    assert running == 30, "no lease is swept"


async def test_maintenance_reads_due_jobs_and_leases(big_db):
    await big_db.claim(20)
    await big_db.maintain()
    await big_db.run(
        "update job_queue set scheduled_for = picture_queue._now() - interval '1 s' where id in "
        "(select id from job_queue where queue = $1 and hold = 'scheduled' limit 10)",
        big_db.queue,
    )
    found = await count_reads(big_db, "select picture_queue._do_due_steps(1000, true)")
    # Each of the 10 rows is read ten times by id, dead row versions included.
    check_reads(found, due=20, pkey=100, leased=20, expiring=0)
    found = await count_reads(big_db, "select picture_queue._do_due_steps(1000, false)")
    check_reads(found, due=20, expiring=0)


async def test_a_report_and_a_heartbeat_read_by_id(big_db):
    jobs = await big_db.claim(20)
    leases = [{"job_id": job["id"], "lease_id": job["lease_id"]} for job in jobs]
    # Each of the 20 rows is read four times, and up to five versions of each, most of them dead.
    check_reads(await count_reads(big_db, "select heartbeat_jobs('w1', $1)", leases), pkey=400)
    done = [{**lease, "outcome": "completed"} for lease in leases]
    check_reads(await count_reads(big_db, "select report_jobs($1)", done), pkey=400)


async def test_a_promotion_reads_due_jobs(big_db):
    await big_db.run(
        "update job_queue set scheduled_for = picture_queue._now() - interval '1 s' where id in "
        "(select id from job_queue where queue = $1 and hold = 'scheduled' limit 10)",
        big_db.queue,
    )
    found = await count_reads(big_db, "select picture_queue._do_due_steps(100, false)")
    # Each of the 10 rows is read ten times by id, dead row versions included.
    check_reads(found, due=20, pkey=100, expiring=0)


async def test_unblocking_reads_the_unblocked_jobs(big_db):
    found = await count_reads(big_db, "select picture_queue._unblock_keys('{model:1}')")
    # A key without a limit unblocks all of its 250 jobs. The search for the pairs of queue and job
    # type reads one entry per pair. Each job is read six times by id, dead row versions included. A
    # last search for blocked jobs of the key reads the dead entries of the unblocked jobs.
    check_reads(found, blocked=502, pkey=1500)


INSERT_FAMILIES = """
with parent as (
  insert into public.job_queue (queue, job_type, hold, scheduled_for)
  select $1, 'sql-resize', 'scheduled', picture_queue._now() + interval '1 day'
  from generate_series(1, 5000)
  returning id
),
child as (
  insert into public.job_queue (queue, job_type, hold)
  select $1, 'sql-resize', 'waiting' from generate_series(1, 5000)
  returning id
)
insert into picture_queue.dependency (child_id, parent_id)
select c.id, p.id
from (select id, row_number() over () as n from child) c
join (select id, row_number() over () as n from parent) p on p.n = c.n
"""


async def count_reads_with_table(db, table, sql, *args):
    """Return the result of `count_reads`, and the rows and entries read of another table."""
    read = """select sum(pg_stat_get_xact_tuples_returned(c.oid)) from pg_class c
      where c.oid = $1::regclass or c.oid in (
        select indexrelid from pg_index where indrelid = $1::regclass)"""
    before = await db.value(read, table)
    found = await count_reads(db, sql, *args)
    return found, await db.value(read, table) - before


async def test_a_report_reads_the_children_of_its_jobs(big_db):
    """Report an outcome while 5,000 children of other jobs exist."""
    await big_db.run(INSERT_FAMILIES, big_db.queue)
    parent = await big_db.enqueue(priority=100)
    for _ in range(3):
        await big_db.enqueue(options={"depends_on": [str(parent)]})
    await big_db.maintain()
    (job,) = await big_db.claim()
    done = [{"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}]
    table = "picture_queue.dependency"
    found, dependencies = await count_reads_with_table(
        big_db, table, "select report_jobs($1)", done
    )
    check_reads(found, pkey=60)
    assert dependencies <= 30
    left = "select count(*) from picture_queue.dependency where parent_id = $1"
    assert await big_db.value(left, parent) == 0


async def test_a_report_reads_only_the_children_that_it_resolves(big_db):
    parent = await big_db.enqueue(priority=100)
    await big_db.run(
        """with child as (
          insert into public.job_queue (queue, job_type, status, hold)
          select $1, 'sql-resize', 'pending', 'waiting' from generate_series(1, 3000) returning id
        )
        insert into picture_queue.dependency (child_id, parent_id) select id, $2 from child""",
        big_db.queue,
        parent,
    )
    (job,) = await big_db.claim()
    done = [{"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}]
    table = "picture_queue.dependency"
    _, dependencies = await count_reads_with_table(big_db, table, "select report_jobs($1)", done)
    assert dependencies <= 1000


async def test_a_report_reads_the_changes_of_its_batch(big_db):
    """Report an outcome while 5,000 changes of other batches wait to be counted."""
    await big_db.run(
        "insert into picture_queue.follow_up (kind, subject, data) "
        "select 'batch', gen_random_uuid(), '{}' from generate_series(1, 5000)"
    )
    job = {"job_type": "sql-resize", "queue": big_db.queue, "priority": 100}
    await big_db.value("select enqueue_batch($1)", [job] * 3)
    for job in await big_db.claim(3):
        done = [{"job_id": job["id"], "lease_id": job["lease_id"], "outcome": "completed"}]
        table = "picture_queue.follow_up"
        found, follow_ups = await count_reads_with_table(
            big_db, table, "select report_jobs($1)", done
        )
        check_reads(found, pkey=12)
        # The changes of this batch are read, dead row versions included.
        assert follow_ups <= 20


async def test_maintenance_reads_the_dependents_it_resolves(big_db):
    """Resolve 100 or more of the 200 children that a report left; 5,000 have other parents."""
    await big_db.run(INSERT_FAMILIES, big_db.queue)
    parent = await big_db.enqueue(priority=100)
    child = {
        "job_type": "sql-resize",
        "queue": big_db.queue,
        "options": {"depends_on": [str(parent)]},
    }
    await big_db.value("select enqueue_jobs($1)", [child] * 300)
    await big_db.maintain()
    (job,) = await big_db.claim()
    await big_db.report(job, "completed")
    left = "select count(*) from picture_queue.dependency where parent_id = $1"
    assert await big_db.value(left, parent) == 200
    await big_db.run("update picture_queue.follow_up set due_at = '-infinity'")
    table = "picture_queue.dependency"
    step = "select picture_queue._do_due_steps(100, false)"
    found, dependencies = await count_reads_with_table(big_db, table, step)
    assert await big_db.value(left, parent) <= 100
    # Up to 200 children are read: 100 in the step for finished parents, and 100 in the step that
    # checks new children again.
    check_reads(found, due=0, expiring=0, pkey=2200)
    assert dependencies <= 1500


async def test_the_doctor_does_not_read_states_with_many_jobs(big_db):
    await big_db.run(
        """insert into job_queue (queue, job_type, status, finished_at)
        select $1, 'sql-many', case when i <= 60000 then 'completed' else 'failed' end, now()
        from generate_series(1, 75000) i""",
        big_db.queue,
    )
    await big_db.value("select picture_queue.repair()")
    found = await count_reads(big_db, "select queue_doctor()")
    # The doctor reads only states with up to 20,000 jobs: the 15,000 failed jobs, but not the
    # 80,000 completed ones.
    check_reads(found, finished=15000, claimable=600, due=5000, blocked=10100, parked=0, leased=0)


async def test_pruning_reads_old_jobs(big_db):
    await big_db.run(
        "update job_queue set finished_at = finished_at - interval '1 year' where id in "
        "(select id from job_queue where queue = $1 and status = 'completed' limit 10)",
        big_db.queue,
    )
    found = await count_reads(big_db, "select picture_queue.prune(0)")
    check_reads(found, finished=20, pkey=60, parked=0)


async def test_an_event_reads_the_jobs_parked_on_it(big_db):
    await big_db.enqueue(priority=100)
    (job,) = await big_db.claim()
    await big_db.report(job, "parked", event="sql-event", delay_seconds=60)
    check_reads(await count_reads(big_db, "select send_event('sql-event')"), parked=3, pkey=14)


MOVE_TO_OTHER_QUEUE = """
with moved as (
  select id from job_queue where queue = $1 and status = 'completed' order by seq limit 40
)
update job_queue set queue = $1 || '-rare', status = 'pending', finished_at = null,
  user_id = '00000000-0000-4000-8000-000000000001'
where id in (select id from moved)
"""
OWNER = "00000000-0000-4000-8000-000000000001"
ANY_OWNER = "any owner"  # The test replaces it with the owner of some job.


@pytest.fixture
async def mixed_db(big_db):
    """Move 40 jobs to another queue as pending jobs, which are older than all others."""
    await big_db.value("select set_queue($1)", f"{big_db.queue}-rare")
    await big_db.connection.execute(MOVE_TO_OTHER_QUEUE, big_db.queue)
    return big_db


@pytest.mark.parametrize(
    ("filters", "reads"),
    [
        # The query first finds the queues, and the newest job of each queue and status. This also
        # reads the dead entries of the 40 moved jobs.
        ({}, {"listed": 320}),
        ({"limit": 1000}, {"listed": 4200}),
        ({"status": "failed"}, {"listed": 60}),
        ({"status": "processing"}, {"listed": 60}),
        ({"status": "completed"}, {"listed": 120}),
        # 10,500 jobs of the same status and 20,000 other jobs are newer.
        ({"queue": "rare"}, {"listed": 60}),
        ({"queue": "rare", "status": "pending"}, {"listed": 60}),
        ({"queue": "rare", "status": "completed"}, {"listed": 20}),
        ({"queue": "rare", "hold": "waiting"}, {"listed": 60}),
        ({"queue": "none"}, {"listed": 20}),
        ({"user_id": ANY_OWNER}, {"owned": 100}),
        ({"user_id": OWNER}, {"owned": 40}),
        ({"user_id": OWNER, "status": "completed"}, {"owned": 40}),
        ({"user_id": OWNER, "status": "pending", "job_type": "none"}, {"owned": 40}),
        ({"batch_id": str(uuid4())}, {"batch": 0}),
        ({"batch_id": str(uuid4()), "status": "pending"}, {"batch": 0}),
        ({"job_ids": [str(uuid4())], "status": "completed"}, {"pkey": 0}),
        ({"hold": "parked"}, {"parked": 0}),
    ],
)
async def test_a_list_reads_the_index_of_its_filter(mixed_db, filters, reads):
    if filters.get("user_id") == ANY_OWNER:
        user = "select user_id from job_queue where user_id is not null limit 1"
        filters = {**filters, "user_id": str(await mixed_db.value(user))}
    if "queue" in filters:
        filters = {**filters, "queue": f"{mixed_db.queue}-{filters['queue']}"}
    found = await count_reads(mixed_db, "select list_jobs($1)", {"limit": 50, **filters})
    assert "job_queue" not in found, f"reads the whole table: {found}"
    check_reads(found, **{"leased": 0, "parked": 0, "due": 0, **reads})


@pytest.mark.parametrize("filters", [{}, {"status": "completed"}, {"job_type": "none"}])
async def test_a_user_lists_jobs_without_reading_jobs_of_other_users(mixed_db, filters):
    await mixed_db.act_as("authenticated", UUID(OWNER))
    found = await count_reads(mixed_db, "select list_jobs($1)", {**filters, "limit": 50})
    check_reads(found, owned=40)


async def test_a_policy_of_the_project_lets_users_list_more(mixed_db):
    """With such a policy, list_jobs must not read only the jobs of the caller."""
    await mixed_db.run("create policy team on job_queue for select to authenticated using (true)")
    await mixed_db.act_as("authenticated", UUID(OWNER))
    rows = await mixed_db.value("select list_jobs($1)", {"limit": 50})
    assert {row["user_id"] for row in rows} != {OWNER}
    assert len(rows) == 50


async def test_a_purge_reads_the_pending_jobs_of_its_queue(mixed_db):
    queue = f"{mixed_db.queue}-rare"
    await mixed_db.value("select picture_queue.repair()")  # counts the jobs
    found = await count_reads(mixed_db, f"select purge_queue('{queue}')")
    # Each job is found once by the queue, then by id, dead row versions included.
    check_reads(found, listed=40, pkey=1000, parked=0)
    states = await mixed_db.rows("select distinct status from job_queue where queue = $1", queue)
    assert [row["status"] for row in states] == ["cancelled"]


@pytest.mark.parametrize(
    ("action", "filters", "reads"),
    [
        ("cancel", {}, {"listed": 80, "pkey": 1000}),
        ("cancel", {"job_type": "none"}, {"listed": 40}),
        ("discard", {}, {"listed": 0}),
    ],
)
async def test_changing_the_jobs_of_a_queue_reads_only_that_queue(mixed_db, action, filters, reads):
    filters = {"queue": f"{mixed_db.queue}-rare", **filters}
    found = await count_reads(mixed_db, f"select change_jobs('{action}', $1)", filters)
    check_reads(found, **{"leased": 0, "parked": 0, "finished": 0, "unique": 0, **reads})


async def test_counts_do_not_read_all_jobs(big_db):
    # For each queue the first 50 jobs of each priority are read, and one step between priorities.
    found = await count_reads(big_db, "select queue_counts()")
    assert set(found) <= {"job_queue_claimable", "job_queue_finished"}, found
    assert found.get("job_queue_finished", 0) == 0, "no job failed"
    assert found.get("job_queue_claimable", 0) <= 2000, found
    found = await count_reads(big_db, "select desired_workers($1)", big_db.queue)
    check_reads(found, due=10)


async def explain(big_db, text, types, values):
    """Return the generic plan of a statement of a function.

    Args:
        text: The statement, with the variables of the function.
        types: The SQL type of each variable.
        values: For each variable that is not null, an SQL expression of its value.
    """
    for i, name in enumerate(types, 1):
        text = re.sub(rf"\b{name}\.", f"(${i}).", text)
        text = re.sub(rf"\b{name}\b", f"${i}", text)
    statement = f"p{uuid4().hex[:8]}"
    await big_db.run("set local plan_cache_mode = force_generic_plan")
    # The functions have the same setting: a growing table is never scanned sequentially.
    await big_db.run("set local seq_page_cost = 100")
    await big_db.run(f"prepare {statement} ({', '.join(types.values())}) as {text}")
    arguments = ", ".join(values.get(name, "null") for name in types)
    rows = await big_db.rows(f"explain (costs off) execute {statement}({arguments})")
    return "\n".join(row["QUERY PLAN"] for row in rows)


PICK_TYPES = {
    "p_claim": "picture_queue.claim",
    "p_queues": "text[]",
    "v_rank": "integer",
    "v_turn": "double precision",
    "v_seq": "bigint",
    "p_limit": "integer",
    "v_now": "timestamptz",
}


async def test_a_pick_reads_its_index_in_order(big_db):
    """The pick does not sort all claimable jobs, only the picked ones."""
    text = await function_body(big_db, "picture_queue._pick")
    text = text[text.rindex("return array(") + len("return array(") : text.rindex(");")]
    found = await explain(
        big_db,
        text,
        PICK_TYPES,
        {
            "p_claim": f"row('w', array['{big_db.queue}'], '{{sql-resize}}', 20, 30, "
            "gen_random_uuid(), null, false, true, true, null)::picture_queue.claim",
            "p_queues": f"array['{big_db.queue}']",
            "v_rank": "-2147483648",
            "v_turn": "'-infinity'",
            "v_seq": "0",
            "p_limit": "20",
            "v_now": "now()",
        },
    )
    assert "Index Scan using job_queue_claimable on job_queue j" in found, found
    assert "Seq Scan on job_queue" not in found, found
    assert not re.search(r"Bitmap \w+ Scan on job_queue", found), found
    inner = found[found.index("LockRows") :]
    assert "Sort" not in inner.split("job_queue_claimable")[0], found


async def test_a_start_reads_its_jobs_by_id(big_db):
    """Jobs are started by their ids, in time that is linear in their number."""
    text = await function_body(big_db, "picture_queue._start")
    text = text[text.index("with started as") : text.index(";\n  if cardinality")]
    text = re.sub(r"\binto v_ids.*", "", text)
    types = {
        "v_candidates": "picture_queue.candidate[]",
        "p_claim": "picture_queue.claim",
        "v_now": "timestamptz",
    }
    found = await explain(big_db, text, types, {})
    assert "Seq Scan on job_queue" not in found, found
    read = set(re.findall(r"(?:Index Scan using|Bitmap Index Scan on) (job_queue_\w+)", found))
    assert read == {"job_queue_pkey"}, found
    # A hash join matches the jobs with their candidates. A nested loop takes n² steps.
    assert re.search(r"Hash Cond: \((c\.id = j\.id|j\.id = c\.id)\)", found), found


async def test_the_jobs_of_a_lease_are_read_from_the_index_of_leases(big_db):
    text = await function_body(big_db, "picture_queue._leased_jobs")
    text = text[text.index("to_jsonb(array(") + len("to_jsonb(array(") : text.rindex("));")]
    parameters = {"p_lease_id": "uuid", "p_worker": "text", "p_order": "uuid[]"}
    found = await explain(big_db, text.replace("v_now", "now()"), parameters, {})
    assert "Seq Scan on job_queue" not in found, found
    read = set(re.findall(r"(?:Index Scan using|Bitmap Index Scan on) (job_queue_\w+)", found))
    assert read == {"job_queue_leased"}, found


@pytest.mark.parametrize(
    ("function", "time", "index"),
    [
        ("_do_due_steps", "scheduled_for", "job_queue_due"),
        ("_do_due_steps", "expires_at", "job_queue_expiring"),
        ("_prune", "finished_at", "job_queue_finished"),
    ],
)
async def test_due_jobs_are_read_from_an_index_on_their_time(big_db, function, time, index):
    """The time is a condition of the index, not a filter on all jobs of the state."""
    text = await function_body(big_db, f"picture_queue.{function}")
    parts = re.findall(r"select j\.id(?:(?!select j\.).)*?limit (?:p_limit|1000)\b", text, re.S)
    (part,) = [part for part in parts if f"{time} <" in part]
    part = part.replace("k.status", "'completed'").replace("k.seconds", "604800")
    types = {"v_now": "timestamptz", "v_start": "timestamptz", "p_limit": "integer"}
    values = {"v_now": "now()", "v_start": "now()", "p_limit": "100"}
    found = await explain(big_db, part, types, values)
    assert f"Index Scan using {index} on job_queue" in found, found
    assert re.search(rf"Index Cond: .*\b{time} <", found), found
    assert "Sort" not in found, found


async def test_overdue_jobs_are_read_from_the_index_of_leases(big_db):
    text = await function_body(big_db, "picture_queue._jobs_with_expired_lease")
    text = text[text.index("select count(*)") : text.index(";\n  update")]
    text = text.replace("into v_running, v_overdue", "")
    found = await explain(big_db, text, {"v_now": "timestamptz"}, {"v_now": "now()"})
    assert "Seq Scan" not in found, found
    assert "job_queue_leased" in found, found


@pytest.mark.parametrize(
    ("first", "into"), [("with resolved", "into v_endings"), ("select array_agg", "into v_changes")]
)
async def test_dependents_are_resolved_by_their_ids(big_db, first, into):
    """Jobs are read by id, even if the statistics show few failed jobs.

    With such statistics, an index of finished jobs could seem cheaper to the planner.
    """
    await big_db.run(INSERT_FAMILIES, big_db.queue)
    text = await function_body(big_db, "picture_queue._resolve_dependents")
    text = text[text.index(first) :]
    text = text[: text.index(";\n")].replace(into, "")
    found = await explain(big_db, text, {"v_children": "uuid[]", "v_endings": "jsonb"}, {})
    assert "Seq Scan" not in found, found
    read = set(re.findall(r"(?:using|Index Scan on) (job_queue_\w+)", found))
    assert read == {"job_queue_pkey"}, found


async def test_unblocked_jobs_are_read_from_the_index_of_blocked_jobs(big_db):
    text = await function_body(big_db, "picture_queue._unblock_keys")
    text = text[text.index("with recursive") : text.index("), 10000);")]
    text = re.sub(r"v_taken\.\w+", "'x'::text", text)
    types = {"v_keys": "text[]", "v_now": "timestamptz"}
    found = await explain(big_db, text, types, {})
    assert "Seq Scan on job_queue" not in found, found
    read = set(re.findall(r"using (job_queue_\w+)", found))
    assert read == {"job_queue_blocked"}, found


async def test_claims_keep_the_order_of_jobs_after_many_of_another_type(db):
    """The first queue holds 25,000 jobs of a type that the worker does not run."""
    queues = [db.queue, f"{db.queue}-b"]
    await db.run(
        """insert into job_queue (job_type, queue)
        select 'sql-other', $1 from generate_series(1, 25000)""",
        db.queue,
    )
    jobs = [
        await db.value("select enqueue_job('sql-resize', queue => $1, priority => $2)", queue, rank)
        for queue, rank in ((queues[1], 1), (queues[0], 0), (queues[0], 0))
    ]
    claim = "select claim_jobs('w1', $1, '{sql-resize}', 1)"
    claimed = [await db.value(claim, queues) for _ in jobs]
    assert [[job["id"] for job in found] for found in claimed] == [[str(job)] for job in jobs]
