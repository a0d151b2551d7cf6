begin;
select plan(2);

select set_limit('global', 2);
select enqueue_job('t', queue => 'q') from generate_series(1, 3);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 2, 'two jobs start');
select is((select item ->> 'running' from jsonb_array_elements(list_limits()) item where item ->> 'key' = 'global'), '2', 'the running jobs are counted');

select * from finish();
rollback;
