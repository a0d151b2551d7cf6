begin;
select plan(1);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'snoozed') || '{"delay_seconds": 0}')) from claimed;
select picture_queue.maintain();
create temp table second_claim as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from second_claim;
select is((select array_agg(s ->> 'action') from jsonb_array_elements(get_job_history('00000000-0000-0000-0000-000000000001') -> 'timeline') s),
  '{enqueue,claim,snooze,promote,claim,complete}'::text[], 'the timeline has all changes of state in order');

select * from finish();
rollback;
