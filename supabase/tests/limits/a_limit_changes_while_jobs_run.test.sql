begin;
select plan(5);

select enqueue_job('t', queue => 'q') from generate_series(1, 5);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select set_limit('queue:q', 5);
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'no job starts before the running jobs are counted');
select picture_queue.maintain();
select set_limit('queue:q', 3);
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'jobs that started before the limit count');
select set_limit('queue:q', 4);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'a higher limit lets one more job start');
select set_limit('queue:q', 1);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'no job starts while one runs under a limit of one');
select delete_limit('queue:q');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'without a limit the last job starts');

select * from finish();
rollback;
