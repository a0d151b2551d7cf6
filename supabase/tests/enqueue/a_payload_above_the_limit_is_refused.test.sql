begin;
select plan(2);

select throws_like($$ select enqueue_job('t', jsonb_build_object('x', repeat('y', 70000))) $$, 'PQ_TOO_LARGE%', 'a payload above 64 KiB is refused');
select set_setting('{"max_payload_bytes": 100000}');
select lives_ok($$ select enqueue_job('t', jsonb_build_object('x', repeat('y', 70000))) $$, 'the setting raises the limit');

select * from finish();
rollback;
