begin;
select plan(3);

select enqueue_jobs('[{"job_type": "p", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000001"}, {"job_type": "p", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000002"},
  {"job_type": "t", "queue": "q", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"]}}]');
select is(claim_jobs('w', '{q}', '{t}'), '[]', 'the child waits for both parents');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{p}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is(claim_jobs('w', '{q}', '{t}'), '[]', 'the child waits for the second parent');
create temp table second_claim as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{p}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from second_claim;
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}')), 1, 'the child is claimed after both parents');

select * from finish();
rollback;
