begin;
select plan(2);

select throws_like($$ select enqueue_job('t', jsonb_build_object('x', repeat('y', 70000))) $$, 'PQ_TOO_LARGE%', '64 KiB is the limit');
select set_setting('{"max_payload_bytes": 100000}');
select lives_ok($$ select enqueue_job('t', jsonb_build_object('x', repeat('y', 70000))) $$, 'unless the setting says more');

select * from finish();
rollback;
