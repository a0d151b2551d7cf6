begin;
select plan(3);

select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'snoozed') || '{"delay_seconds": 60}')) from claimed;
select is((select (hold, attempt)::text from job_queue where queue = 'q'), '(scheduled,0)', 'the snoozed job is scheduled, and its attempt is not counted');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select picture_queue.maintain();
create temp table second_claim as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select attempt from second_claim), 1, 'the next claim is the first attempt again');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'released'))) from second_claim;
select is((select (status, hold, attempt)::text from job_queue where queue = 'q'), '(pending,,0)', 'a released job is claimable at once');

select * from finish();
rollback;
