begin;
select plan(2);

select set_setting('{"max_result_bytes": 100}');
select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed', 'result', repeat('x', 200)))) from claimed;
select is((select status from job_queue where queue = 'q'), 'failed', 'the job fails without a retry');
select matches((select error from job_queue where queue = 'q'), 'larger', 'the error names the size');

select * from finish();
rollback;
