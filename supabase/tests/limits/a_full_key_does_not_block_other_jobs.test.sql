begin;
select plan(1);

select set_limit('model:slow', 1);
select enqueue_jobs((select jsonb_agg('{"job_type": "t", "queue": "q", "options": {"limit_keys": ["model:slow"]}}'::jsonb) from generate_series(1, 200)));
select enqueue_job('t', '{"n": 1}', queue => 'q') from generate_series(1, 3);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 4)), 4, 'one job of the full key starts, and three jobs that were enqueued after its 200 jobs');

select * from finish();
rollback;
