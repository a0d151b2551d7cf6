begin;
select plan(12);

create function pg_temp.start(p_n integer) returns text language sql as $$ select start_generation('a cat', input => jsonb_build_object('num_outputs', p_n), options => '{"user_id": "00000000-0000-0000-0000-0000000000a1"}') ->> 'generation_id' $$;
create function pg_temp.credits() returns jsonb language sql as $$ select get_account('00000000-0000-0000-0000-0000000000a1') -> 'credits_usd' $$;
select lives_ok($$ select pg_temp.start(1) $$, 'without a budget no credits are needed');
select set_budget('user:*', '{"needs_credits": true}');
select throws_ok($$ select pg_temp.start(1) $$, 'PT429', 'PQ_NO_CREDIT: not enough credits', 'a user without credits is refused');
select grant_credits('00000000-0000-0000-0000-0000000000a1', 0.01, 'payment 1') from generate_series(1, 2);
select is(pg_temp.credits(), '0.01', 'a repeated grant is counted once');
select throws_ok($$ select grant_credits('00000000-0000-0000-0000-0000000000a1', 5, 'payment 1') $$, 'PT409', 'PQ_CONFLICT: the call conflicts with existing data', 'another amount with the same key is refused');
select throws_ok($$ select grant_credits('00000000-0000-0000-0000-0000000000a2', 0.01, 'payment 1') $$, 'PT409', 'PQ_CONFLICT: the call conflicts with existing data', 'another user with the same key is refused');
select pg_temp.start(3);
select is(pg_temp.credits(), '0.001', 'three pictures at 0.003 are paid by credits');
select throws_ok($$ select pg_temp.start(1) $$, 'PT429', 'PQ_NO_CREDIT: not enough credits', 'the remaining 0.001 is not enough for a picture');
select cancel_generation(id) from generations;
select is(pg_temp.credits(), '0.010', 'only the generation that was paid by credits is refunded');
select throws_ok($$ select grant_credits('00000000-0000-0000-0000-0000000000a1', -0.02) $$, 'PT409', 'PQ_CONFLICT: the call conflicts with existing data', 'more credits than are left cannot be taken back');
select grant_credits('00000000-0000-0000-0000-0000000000a1', -0.01);
select is(pg_temp.credits(), '0.000', 'credits can be taken back');
select throws_ok($$ select retry_job(job_id) from generations where cost_usd = 0 and input = '{"num_outputs": 3}' $$, 'PT429', 'PQ_NO_CREDIT: not enough credits', 'a retry needs credits, too');
select throws_ok($$ select start_generation('a', 'black-forest-labs/flux-kontext-dev', '{"input_image": "https://example.com/a.png"}', '{"user_id": "00000000-0000-0000-0000-0000000000a1"}') $$, 'PT429', 'PQ_NO_CREDIT: not enough credits', 'a model of unknown cost is refused');

select * from finish();
rollback;
