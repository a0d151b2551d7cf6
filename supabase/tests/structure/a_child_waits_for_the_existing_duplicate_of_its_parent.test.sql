begin;
select plan(3);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001', idempotency_key => 'k');
select enqueue_jobs('[{"job_type": "t", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000002", "idempotency_key": "k"},
  {"job_type": "t", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000003", "options": {"depends_on": ["00000000-0000-0000-0000-000000000002"]}}]');
select is((select hold from job_queue where id = '00000000-0000-0000-0000-000000000003'), 'waiting', 'the child waits');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid);
select is((select id from claimed), '00000000-0000-0000-0000-000000000001', 'the existing job is claimed');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id) || '{"outcome": "completed"}')) from claimed;
select is((select hold from job_queue where id = '00000000-0000-0000-0000-000000000003'), null, 'the child is claimable after the existing job');

select * from finish();
rollback;
