begin;
select plan(7);

select enqueue_job('t', queue => 'q', user_id => '00000000-0000-0000-0000-0000000000a1', job_id => '00000000-0000-0000-0000-000000000001');
select enqueue_job('t', queue => 'q', user_id => '00000000-0000-0000-0000-0000000000a2', job_id => '00000000-0000-0000-0000-000000000002');
set local role authenticated;
select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "00000000-0000-0000-0000-0000000000a1"}', true);
select is((select count(*) from job_queue), 1::bigint, 'one row');
select throws_like($$ select get_job('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'not the others');
select throws_like($$ select cancel_job('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'nor cancels it');
select is(cancel_job('00000000-0000-0000-0000-000000000001') ->> 'status', 'cancelled', 'but the own');

-- Without a token, the role decides: it is that of a user, who is unknown.
select set_config('request.jwt.claims', '', true);
select throws_like($$ select cancel_job('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'no job without a token');
select throws_like($$ select start_generation('a cat') $$, 'PQ_NOT_AUTHENTICATED%', 'nor a generation');
select throws_like($$ select job_position('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'nor a place');
reset role;

select * from finish();
rollback;
