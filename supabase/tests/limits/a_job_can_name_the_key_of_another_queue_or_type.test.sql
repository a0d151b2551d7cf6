begin;
select plan(2);

select set_limit('queue:other', 1), set_limit('type:other', 1);
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["queue:other"]}') from generate_series(1, 3);
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'the limit of the other queue applies');

select enqueue_job('t', queue => 'p', options => '{"limit_keys": ["type:other"]}') from generate_series(1, 3);
select is(jsonb_array_length(claim_jobs('w', '{p}', '{t}', 10)), 1, 'the limit of the other job type applies');

select * from finish();
rollback;
