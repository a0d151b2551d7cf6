begin;
select plan(5);

select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'parked') || '{"delay_seconds": 60, "event": "paid:7"}')) from claimed;
select is((select (status, hold)::text from job_queue where queue = 'q'), '(processing,parked)', 'the job is parked');
select is(send_event('paid:7', '{"amount": 3}') ->> 'woken', '1', 'the event wakes the job');
create temp table woken as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select (attempt, event)::text from woken), (1, '{"amount": 3}'::jsonb)::text, 'the claim has the same attempt and the payload of the event');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'parked') || '{"delay_seconds": 60, "event": "paid:7"}')) from woken;
select picture_queue.maintain();
select is(claim_jobs('w', '{q}', '{t}'), '[]', 'the job is parked again');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select picture_queue.maintain();
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}')), 1, 'the job is claimed when it is due');

select * from finish();
rollback;
