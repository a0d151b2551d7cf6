begin;
select plan(4);

select set_limit('model:flux', 1);
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["model:flux"]}') from generate_series(1, 3);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed), 1::bigint, 'one job starts');
select is((select count(*) from job_queue where queue = 'q' and hold = 'blocked'), 2::bigint, 'the other jobs are blocked');
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'another claim gets no job');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'the next job starts after the end of the first');

select * from finish();
rollback;
