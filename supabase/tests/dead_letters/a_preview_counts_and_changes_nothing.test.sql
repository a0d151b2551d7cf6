begin;
select plan(2);

select enqueue_job('t', queue => 'q', max_attempts => 1) from generate_series(1, 3);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed',
  'error', case when n = 1 then 'other' else 'no space on disk ' || n end)))
from (select *, row_number() over () as n from claimed) c;
select is(change_jobs('retry', '{"queue": "q"}', true), '{"matched": 3, "changed": 0, "more": false}', 'a preview counts three jobs');
select is((select count(*) from job_queue where queue = 'q' and status = 'failed'), 3::bigint, 'the jobs are unchanged');

select * from finish();
rollback;
