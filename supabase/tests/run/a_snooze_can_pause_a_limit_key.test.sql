begin;
select plan(2);

select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["api:x"]}') from generate_series(1, 2);
select enqueue_job('t', '{"without_key": true}', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'snoozed') || '{"delay_seconds": 60, "pause_key": "api:x"}')) from claimed;
select picture_queue.maintain();
create temp table other_jobs as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select array_agg(payload) from other_jobs), array['{"without_key": true}']::jsonb[], 'only the jobs of the key wait');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from other_jobs;
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select picture_queue.maintain();
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 2, 'the jobs of the key are claimed after the pause');

select * from finish();
rollback;
