begin;
select plan(2);

select set_limit('user:*', 1);
select enqueue_job('t', queue => 'q', user_id => u) from (values ('00000000-0000-0000-0000-0000000000a1'::uuid), ('00000000-0000-0000-0000-0000000000a1'), ('00000000-0000-0000-0000-0000000000a2')) as v (u);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 2, 'one job of each user starts');
select set_limit('user:00000000-0000-0000-0000-0000000000a1', 2);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'the limit of one user takes precedence');

select * from finish();
rollback;
