begin;
select plan(4);

select set_queue('q', '{"breaker_failures": 3, "breaker_seconds": 60}');
select enqueue_job('t', queue => 'q', max_attempts => 1) from generate_series(1, 6);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
-- The errors differ only in a number. The breaker ignores numbers, so it counts three failures for the same reason.
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed', 'error', 'no route to host 10.0.0.' || n)))
from (select *, row_number() over () as n from claimed) c;
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'three failures pause the queue');
select matches((select pause_reason from picture_queue.queue where name = 'q'), '3 failures in a row', 'the queue has the reason of the pause');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
create temp table claimed_after_pause as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed_after_pause), 1::bigint, 'one job starts after the pause');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed_after_pause;
select is((select count(*) from picture_queue.breaker where queue = 'q'), 0::bigint, 'a completed job closes the breaker');

select * from finish();
rollback;
