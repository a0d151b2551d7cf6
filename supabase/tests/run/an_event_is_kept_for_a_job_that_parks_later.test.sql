begin;
select plan(2);

select is(send_event('early', '1') ->> 'woken', '0', 'the event wakes no job');
select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'parked') || '{"delay_seconds": 60, "event": "early"}')) from claimed;
create temp table woken as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select event from woken), '1'::jsonb, 'a job that parks later gets the event');

select * from finish();
rollback;
