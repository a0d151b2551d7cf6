begin;
select plan(3);

select enqueue_job('t', queue => 'q', max_attempts => 2);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
-- Set the clock of picture-queue 31 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '31 seconds' $$;
select picture_queue.maintain();
create temp table second_claim as
select * from jsonb_to_recordset(claim_jobs('x', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select attempt from second_claim), 2, 'the next claim is the second attempt');
select is((select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) #>> '{outcomes,0,outcome}' from claimed),
  'stale', 'a report of the first worker is stale');
-- Set the clock of picture-queue 62 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '62 seconds' $$;
select picture_queue.maintain();
select is((select status from job_queue where queue = 'q'), 'failed', 'the job fails after its last attempt');

select * from finish();
rollback;
