begin;
select plan(1);

select enqueue_jobs('[{"job_type": "p", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000001", "max_attempts": 1}, {"job_type": "t", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000002", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"], "on_parent_failure": "run"}}]');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{p}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "no"}')) from claimed;
select is((select concat_ws(' ', status, hold) from job_queue where id = '00000000-0000-0000-0000-000000000002'), 'pending', 'the child is claimable');

select * from finish();
rollback;
