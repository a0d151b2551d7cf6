begin;
select plan(4);

select enqueue_batch('[{"job_type": "t", "queue": "q"}, {"job_type": "t", "queue": "q", "max_attempts": 1}]',
  '{"job_type": "done", "queue": "q", "payload": {"to": "ada"}}', '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is(get_batch('00000000-0000-0000-0000-000000000001') ->> 'progress', '50', 'the progress is 50 after one of two jobs');
create temp table second_claim as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "no"}')) from second_claim;
select is((select count(*) from job_queue where job_type = 'done'), 1::bigint, 'one callback is enqueued');
select is((select payload from job_queue where job_type = 'done'),
  '{"to": "ada", "batch_id": "00000000-0000-0000-0000-000000000001", "total": 2, "completed": 1, "failed": 1, "cancelled": 0}'::jsonb, 'the callback has the counts');
select throws_like($$ select get_batch('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_BATCH%', 'an unknown batch is refused');

select * from finish();
rollback;
