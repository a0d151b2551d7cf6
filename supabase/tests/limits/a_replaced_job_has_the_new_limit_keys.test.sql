begin;
select plan(2);

select pause_key('k:1');
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["k:1"], "unique": {"on_conflict": "replace"}}');
select is(claim_jobs('w', '{q}', '{t}', 1), '[]', 'the job waits for its paused key');
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["k:2"], "unique": {"on_conflict": "replace"}}');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 1)), 1, 'the replaced job starts under its new key');

select * from finish();
rollback;
