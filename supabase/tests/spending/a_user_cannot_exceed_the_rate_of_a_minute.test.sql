begin;
select plan(9);

create function pg_temp.start(p_options jsonb default '{}') returns text language sql as $$ select start_generation('a cat', options => '{"user_id": "00000000-0000-0000-0000-0000000000a1"}' || p_options) ->> 'status' $$;
select set_budget('user:00000000-0000-0000-0000-0000000000a1', '{"per_minute": 3}');
select lives_ok($$ select pg_temp.start('{"idempotency_key": "first"}') $$, 'the first of three generations starts');
select lives_ok($$ select pg_temp.start() from generate_series(1, 2) $$, 'the second and the third generation start');
select throws_ok($$ select pg_temp.start() $$, 'PT429', 'PQ_RATE_LIMITED: too many generations', 'the fourth start is refused');
select lives_ok($$ select pg_temp.start('{"idempotency_key": "first"}') $$, 'a repeated call is not refused');
select is((select count(*) from generations), 3::bigint, 'three generations exist');
select lives_ok($$ select start_generation('a cat') $$, 'a start without a user is not limited');
delete from generations where user_id is not null;
select throws_ok($$ select pg_temp.start() $$, 'PT429', 'PQ_RATE_LIMITED: too many generations', 'deleted generations count');
update picture_queue.ledger set at = at - interval '1 minute';
select lives_ok($$ select pg_temp.start() $$, 'a minute later another generation starts');
select set_budget('user:00000000-0000-0000-0000-0000000000a1', '{"per_minute": 1, "exempts_service": true}');
select lives_ok($$ select pg_temp.start() from generate_series(1, 2) $$, 'a budget can exempt service keys');

select * from finish();
rollback;
