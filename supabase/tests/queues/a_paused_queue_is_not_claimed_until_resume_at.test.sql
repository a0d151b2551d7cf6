begin;
select plan(4);

select enqueue_job('t', queue => 'q');
select is(pause_queue('q', now() + interval '1 hour', 'repairs') ->> 'pause_reason', 'repairs', 'the answer of pause_queue() has the reason');
select is(claim_jobs('w', '{q}', '{t}'), '[]', 'no job starts during the pause');
-- Set the clock of picture-queue 1 hour 1 second ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '1 hour 1 second' $$;
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}')), 1, 'the job starts after the pause');
select throws_like($$ select pause_queue('nowhere') $$, 'PQ_UNKNOWN_QUEUE%', 'an unknown queue is refused');

select * from finish();
rollback;
