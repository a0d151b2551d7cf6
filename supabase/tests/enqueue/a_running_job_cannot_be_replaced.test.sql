begin;
select plan(2);

select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "replace"}}}]');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select throws_like($$ select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "replace"}}}]') $$, 'PQ_RUNNING_JOB%', 'a replacement of a running job is refused');
select is((select enqueue_jobs('[{"job_type": "t", "queue": "q", "payload": {"id": 1}, "options": {"unique": {"by": ["id"], "on_conflict": "ignore"}}}]')) #>> '{0,outcome}', 'existing', 'a running job is still a duplicate');

select * from finish();
rollback;
