begin;
select plan(4);

select enqueue_job('t', queue => 'q', max_attempts => 3, options => '{"backoff": {"policy": "linear", "base_seconds": 10, "jitter": 0}}');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "boom"}')) from claimed;
select is((select (status, hold, error)::text from job_queue where queue = 'q'), '(pending,scheduled,boom)', 'the job is scheduled');
select is((select round(extract(epoch from scheduled_for - updated_at)) from job_queue where queue = 'q'), 10::numeric, 'the first delay is 10 seconds');
-- Set the clock of picture-queue 11 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '11 seconds' $$;
select picture_queue.maintain();
create temp table second_claim as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select attempt from second_claim), 2, 'the next claim is the second attempt');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "boom"}')) from second_claim;
select is((select round(extract(epoch from scheduled_for - updated_at)) from job_queue where queue = 'q'), 20::numeric, 'the second delay is 20 seconds');

select * from finish();
rollback;
