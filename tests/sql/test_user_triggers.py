"""A trigger of the project that raises: the call says so, with a code that stays the same."""

from uuid import UUID

import pytest

TRIGGER = """
create function public.refuse_for_test() returns trigger language plpgsql
as $$ begin raise exception 'not on my watch' {using}; end $$;
create trigger refuse_for_test before {event} on public.{table}
  for each row execute function public.refuse_for_test();
"""
BATCH = 'enqueue_batch(\'[{"job_type": "t"}]\')'
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
    "start_generation, its row": ("insert", "generations", "start_generation('a boat')"),
    "run_schedule": ("insert", "job_queue", "run_schedule('sql-triggers')"),
}


@pytest.mark.parametrize("using", ["", "using errcode = '22012'"], ids=["P0001", "22012"])
@pytest.mark.parametrize("name", list(CALLS))
async def test_what_a_trigger_raises_is_answered_as_a_conflict(db, name, using):
    failed = await db.enqueue(max_attempts=1)
    (job,) = await db.claim()
    await db.report(job, "failed")
    await db.value(
        'select set_schedule(\'sql-triggers\', \'{"every_seconds": 60, "job_type": "t"}\')'
    )
    begun = await db.value("select start_generation('a boat')")
    await db.run("update job_queue set queue = $1 where id = $2", db.queue, UUID(begun["job_id"]))
    (job,) = await db.claim(1, "generate-image")
    event, table, call = CALLS[name]
    await db.run(TRIGGER.format(event=event, table=table, using=using))
    things = [failed, UUID(job["id"]), UUID(job["lease_id"]), UUID(begun["generation_id"])]
    for place in range(4, 0, -1):
        call = call.replace(f"${place}", f"'{things[place - 1]}'")
    refused = await db.refusal(f"select {call}")
    assert refused.sqlstate == "PT409"
    assert "not on my watch" in refused.detail
    assert "trigger" in refused.hint
