begin;
select plan(2);

select pause_key('k:1');
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["k:1"], "unique": {"on_conflict": "replace"}}');
select is(claim_jobs('w', '{q}', '{t}', 1), '[]', 'paused');
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["k:2"], "unique": {"on_conflict": "replace"}}');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 1)), 1, 'the new one is not');

select * from finish();
rollback;
