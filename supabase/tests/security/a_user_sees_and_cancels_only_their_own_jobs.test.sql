begin;
select plan(7);

select enqueue_job('t', queue => 'q', user_id => '00000000-0000-0000-0000-0000000000a1', job_id => '00000000-0000-0000-0000-000000000001');
select enqueue_job('t', queue => 'q', user_id => '00000000-0000-0000-0000-0000000000a2', job_id => '00000000-0000-0000-0000-000000000002');
set local role authenticated;
select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "00000000-0000-0000-0000-0000000000a1"}', true);
select is((select count(*) from job_queue), 1::bigint, 'the user sees one row');
select throws_like($$ select get_job('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'a job of another user is unknown');
select throws_like($$ select cancel_job('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'a job of another user cannot be cancelled');
select is(cancel_job('00000000-0000-0000-0000-000000000001') ->> 'status', 'cancelled', 'the user''s own job can be cancelled');

-- Without a token, the role decides. This role is for users, and the user is unknown.
select set_config('request.jwt.claims', '', true);
select throws_like($$ select cancel_job('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'without a token no job can be cancelled');
select throws_like($$ select start_generation('a cat') $$, 'PQ_NOT_AUTHENTICATED%', 'without a token no generation can be started');
select throws_like($$ select job_position('00000000-0000-0000-0000-000000000002') $$, 'PQ_UNKNOWN_JOB%', 'without a token no position is shown');
reset role;

select * from finish();
rollback;
