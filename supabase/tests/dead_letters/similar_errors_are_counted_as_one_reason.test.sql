begin;
select plan(2);

select enqueue_job('t', queue => 'q', max_attempts => 1) from generate_series(1, 3);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed',
  'error', case when n = 1 then 'other' else 'no space on disk ' || n end)))
from (select *, row_number() over () as n from claimed) c;
select is(jsonb_array_length(failure_reasons('{"queue": "q"}')), 2, 'there are two reasons');
select is(failure_reasons('{"queue": "q"}') #>> '{0,count}', '2', 'the most frequent reason is the first');

select * from finish();
rollback;
