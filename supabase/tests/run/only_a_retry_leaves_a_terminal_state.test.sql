begin;
select plan(4);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select throws_like($$ select cancel_job('00000000-0000-0000-0000-000000000001') $$, 'PQ_FINISHED_JOB%', 'a completed job cannot be cancelled');
select throws_like($$ select retry_job('00000000-0000-0000-0000-000000000001') $$, 'PQ_FINISHED_JOB%', 'a completed job cannot be retried');
select is((select count(*) from picture_queue.state_transition where from_status in ('completed', 'failed', 'cancelled') and action <> 'retry'), 0::bigint, 'no other transition leaves a terminal state');
select is((select array_agg(from_status order by from_status) from picture_queue.state_transition where action = 'retry'), '{cancelled,failed}', 'failed and cancelled jobs can be retried');

select * from finish();
rollback;
