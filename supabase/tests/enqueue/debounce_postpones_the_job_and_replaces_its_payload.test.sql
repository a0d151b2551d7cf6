begin;
select plan(4);

select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "debounce"}, "delay_seconds": 10}}]');
-- Set the clock of picture-queue 5 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '5 seconds' $$;
select is((select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1, "v": 2}, "options": {"unique": {"by": ["id"], "on_conflict": "debounce"}, "delay_seconds": 10}}]')) #>> '{0,outcome}', 'debounced', 'the outcome is debounced');
-- Set the clock of picture-queue 12 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '12 seconds' $$;
select picture_queue.maintain();
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'the job is not claimed at the first time');
-- Set the clock of picture-queue 16 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '16 seconds' $$;
select picture_queue.maintain();
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed), 1::bigint, 'the job is claimed at the second time');
select is((select payload ->> 'v' from claimed), '2', 'the job has the newest payload');

select * from finish();
rollback;
