begin;
select plan(4);

select enqueue_job('t', queue => 'q', max_attempts => 1) from generate_series(1, 3);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed',
  'error', case when n = 1 then 'other' else 'no space on disk ' || n end)))
from (select *, row_number() over () as n from claimed) c;
select is(change_jobs('retry', '{"queue": "q", "error": "DISK"}') ->> 'changed', '2', 'the jobs with the error are retried');
select is(change_jobs('cancel', '{"queue": "q", "status": "pending"}') ->> 'changed', '2', 'the pending jobs are cancelled');
select is(change_jobs('discard', '{"queue": "q"}') ->> 'changed', '3', 'the finished jobs are discarded');
select is((select count(*) from job_queue where queue = 'q'), 0::bigint, 'the discarded jobs are deleted');

select * from finish();
rollback;
