"""An error of a trigger or constraint that a project added is raised as PQ_CONFLICT."""

from uuid import UUID, uuid4

import pytest

TRIGGER = """
create function public.refuse_for_test() returns trigger language plpgsql
as $$ begin raise exception 'not allowed here' {using}; end $$;
create trigger refuse_for_test before {event} on public.{table}
  for each row execute function public.refuse_for_test();
"""
BATCH = 'enqueue_batch(\'[{"job_type": "t"}]\')'
#: For each call: the event and the table of the trigger that makes the call fail, and its SQL.
CALLS = {
    "retry_job": ("update", "job_queue", "retry_job($1)"),
    "cancel_job": ("update", "job_queue", "cancel_job($2)"),
    "report_progress": ("update", "job_queue", "report_progress($2, $3, 50)"),
    "complete_job": ("update", "job_queue", "complete_job($2, lease_id => $3)"),
    "save_images": (
        "insert",
        "images",
        'save_images($2, $3, \'[{"n": 1, "path": "a", "mime_type": "b"}]\')',
    ),
    "cancel_generation": ("update", "job_queue", "cancel_generation($4)"),
    "enqueue_batch": ("insert", "job_queue", BATCH),
    "start_generation": ("insert", "job_queue", "start_generation('a boat')"),
    "start_generation, row of generations": ("insert", "generations", "start_generation('a boat')"),
    "run_schedule": ("insert", "job_queue", "run_schedule('sql-triggers')"),
}


@pytest.mark.parametrize("using", ["", "using errcode = '22012'"], ids=["P0001", "22012"])
@pytest.mark.parametrize("name", list(CALLS))
async def test_an_error_of_a_trigger_is_reported_as_a_conflict(db, name, using):
    failed = await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "failed")
    await db.value(
        'select set_schedule(\'sql-triggers\', \'{"every_seconds": 60, "job_type": "t"}\')'
    )
    generation = await db.value("select start_generation('a boat')")
    await db.run(
        "update job_queue set queue = $1 where id = $2", db.queue, UUID(generation["job_id"])
    )
    (job,) = await db.claim(1, "generate-image")
    event, table, call = CALLS[name]
    await db.run(TRIGGER.format(event=event, table=table, using=using))
    ids = [failed, UUID(job["id"]), UUID(job["lease_id"]), UUID(generation["generation_id"])]
    for number, value in enumerate(ids, 1):
        call = call.replace(f"${number}", f"'{value}'")
    refused = await db.refusal(f"select {call}")
    assert refused.sqlstate == "PT409"
    assert "not allowed here" in refused.detail
    assert "trigger" in refused.hint


JOB = '"job_type": "t", "queue": "q"'
#: Every way to enqueue one job.
ENQUEUES = {
    "enqueue_job": "enqueue_job('t', queue => 'q')",
    "in a new queue": "enqueue_job('t', queue => 'sql-new')",
    "for later": "enqueue_job('t', queue => 'q', scheduled_for => now() + interval '1 hour')",
    "with an id": "enqueue_job('t', queue => 'q', job_id => gen_random_uuid())",
    "with a key": "enqueue_job('t', queue => 'q', idempotency_key => 'sql-triggers')",
    "with options": "enqueue_job('t', queue => 'q', options => '{\"tags\": [\"a\"]}')",
    "enqueue_jobs": f"enqueue_jobs('[{{{JOB}}}]')",
    "enqueue_jobs with ids": f"enqueue_jobs('[{{{JOB}}}]', request_id => gen_random_uuid())",
    "enqueue_batch": f"enqueue_batch('[{{{JOB}}}]')",
}
#: For each kind of rule that a project may add: SQL that makes every insert of a job fail.
RULES = {
    "trigger": TRIGGER.format(event="insert", table="job_queue", using=""),
    "trigger, 23505": TRIGGER.format(
        event="insert", table="job_queue", using="using errcode = '23505'"
    ),
    "check": "alter table public.job_queue add constraint mine check (job_type <> 't') not valid",
    "foreign key": """create table public.kind (name text primary key);
        alter table public.job_queue add constraint mine
        foreign key (job_type) references public.kind not valid""",
    "exclusion": """insert into public.job_queue (job_type) values ('t');
        alter table public.job_queue add constraint mine exclude (job_type with =)
        where (job_type = 't')""",
    "unique index": """insert into public.job_queue (job_type) values ('t');
        create unique index mine on public.job_queue (job_type) where job_type = 't'""",
    "index of an expression": """create function public.refuse_for_test(text) returns text
        language plpgsql immutable
        as $$ begin raise exception 'not allowed here' using errcode = '22P02'; end $$;
        create index mine on public.job_queue (public.refuse_for_test(job_type))""",
    "condition of an index": """create function public.refuse_for_test(text) returns boolean
        language plpgsql immutable as $$ begin raise exception 'not allowed here'; end $$;
        create index mine on public.job_queue (seq) where public.refuse_for_test(job_type)""",
    "new column that must not be null": """alter table public.job_queue add mine text;
        alter table public.job_queue alter mine set not null""",
    "existing column that must not be null": """delete from public.job_queue;
        alter table public.job_queue alter user_id set not null""",
    "default of a column": """create function public.refuse_for_test() returns text
        language plpgsql as $$ begin raise exception 'not allowed here'; end $$;
        alter table public.job_queue add mine text;
        alter table public.job_queue alter mine set default public.refuse_for_test()""",
    "generated column": """create function public.refuse_for_test(text) returns text
        language plpgsql immutable as $$ begin
          if $1 = 't' then raise exception 'not allowed here'; end if; return $1; end $$;
        alter table public.job_queue add mine text
        generated always as (public.refuse_for_test(job_type)) stored""",
    "domain": """create domain public.mine as double precision check (value < 5);
        alter table public.job_queue alter turn type public.mine""",
    "length of a column": "alter table public.job_queue alter turn type numeric(3)",
    "rule": "create rule mine as on insert to public.job_queue do instead nothing",
    "trigger that returns null": """create function public.refuse_for_test() returns trigger
        language plpgsql as $$ begin return null; end $$;
        create trigger mine before insert on public.job_queue
        for each row execute function public.refuse_for_test()""",
}
#: The detail of the error contains one of these texts.
REASONS = (
    *("not allowed here", '"mine"', "domain public.mine", '"user_id"', "numeric field overflow"),
    *('relation "job_queue"', "a trigger on public.job_queue prevented the insert of a job"),
)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("call", list(ENQUEUES))
async def test_every_way_to_enqueue_reports_the_same_error(db, call, rule):
    # Postgres cannot create some of the rules while jobs of other tests exist.
    await db.run("delete from job_queue")
    await db.value("select set_queue('q')")
    await db.run(RULES[rule])
    refused = await db.refusal(f"select {ENQUEUES[call]}")
    assert (refused.sqlstate, refused.message.split(":")[0]) == ("PT409", "PQ_CONFLICT")
    assert any(reason in refused.detail for reason in REASONS), refused.detail
    assert "your own triggers and constraints" in refused.hint


async def test_a_simple_job_is_inserted_without_a_subtransaction(db):
    await db.value("select set_queue('q')")
    ids = [await db.value("select enqueue_job('t', queue => 'q')") for _ in range(2)]
    # A row that a subtransaction inserted has the id of the subtransaction as its xmin.
    inserted_by = "select array_agg(distinct xmin::text) from job_queue where id = any($1)"
    main_transaction = await db.value("select pg_current_xact_id()::xid::text")
    assert await db.value(inserted_by, ids) == [main_transaction]


@pytest.mark.parametrize("call", ["enqueue_job", "with an id", "enqueue_jobs"])
async def test_a_job_that_a_trigger_moves_to_another_queue_is_counted_there(db, call):
    await db.value("select set_queue('q')")
    await db.run(
        """create function public.move_for_test() returns trigger language plpgsql
        as $$ begin new.queue := 'sql-elsewhere'; return new; end $$;
        create trigger mine before insert on public.job_queue
        for each row execute function public.move_for_test()"""
    )
    await db.value(f"select {ENQUEUES[call]}")
    counted = await db.rows("select * from picture_queue._depths() where queue = 'sql-elsewhere'")
    assert [(row["status"], row["n"]) for row in counted] == [("pending", 1)]


async def test_a_simple_job_takes_the_fast_path_without_user_triggers(db):
    await db.value("select set_queue('q')")
    await db.run(
        """create or replace function picture_queue._enqueue(
          p_jobs jsonb, p_is_callback boolean default false)
        returns jsonb language plpgsql as $$ begin raise exception 'the slow path'; end $$"""
    )
    assert await db.value("select enqueue_job('t', queue => 'q')")


async def test_a_violation_of_a_projects_unique_index_is_not_a_duplicate_job(db):
    await db.run("create unique index mine on public.job_queue (job_type) where job_type = 't'")
    items = [{"job_type": "t", "queue": db.queue, "job_id": str(uuid4())} for _ in range(2)]
    refused = await db.refusal("select enqueue_jobs($1)", items)
    assert refused.message.startswith("PQ_CONFLICT")
    assert '"mine"' in refused.detail
