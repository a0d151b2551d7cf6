begin;
select plan(4);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
select is(cancel_job('00000000-0000-0000-0000-000000000001') ->> 'status', 'cancelled', 'a pending job is cancelled at once');
select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000002');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is(cancel_job('00000000-0000-0000-0000-000000000002') ->> 'status', 'processing', 'a running job continues');
select is((select heartbeat_jobs('w', jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id))) -> 'cancel' from claimed),
  '["00000000-0000-0000-0000-000000000002"]', 'the answer to the heartbeat names the job');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "stopped"}')) from claimed;
select is((select status from job_queue where id = '00000000-0000-0000-0000-000000000002'), 'cancelled', 'a failure reported after the request cancels the job');

select * from finish();
rollback;
