begin;
select plan(3);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select throws_like($$ select report_progress('00000000-0000-0000-0000-000000000001', gen_random_uuid(), 50) $$, 'PQ_STALE_LEASE%', 'progress is refused under another lease');
select throws_like($$ select log_job('00000000-0000-0000-0000-000000000001', gen_random_uuid(), '[]') $$, 'PQ_STALE_LEASE%', 'log lines are refused under another lease');
select throws_like($$ select complete_job('00000000-0000-0000-0000-000000000001', null, null, gen_random_uuid()) $$, 'PQ_STALE_LEASE%', 'a result is refused under another lease');

select * from finish();
rollback;
