begin;
select plan(2);

select enqueue_job('t', queue => 'q', max_attempts => 1);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "boom"}')) from claimed;
select is((select status from job_queue where queue = 'q'), 'failed', 'the job fails after its last attempt');
select retry_job(id) from claimed;
select is((select status from job_queue where queue = 'q'), 'pending', 'a retry makes the job pending');

select * from finish();
rollback;
