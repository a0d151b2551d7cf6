begin;
select plan(3);

select enqueue_job('t', queue => 'q');
select pause_key('type:t');
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'no job starts while the key is paused');
select resume_key('type:t');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'the job starts after the resume');
select throws_like($$ select pause_key('k', now() - interval '1 hour') $$, 'PQ_INVALID_ARGUMENT%', 'a time in the past is refused');

select * from finish();
rollback;
