begin;
select plan(4);

select set_schedule('s', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
select is(maintain_jobs(true, 'w') ->> 'scheduled', '0', 'no job is enqueued before the tick');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is(maintain_jobs(false, 'w') ->> 'aggregated' is not null, true, 'the housekeeping that is due is done first');
select is(maintain_jobs(false, 'w') ->> 'scheduled', '1', 'the next call of the worker enqueues the job');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}')), 1, 'the worker can claim the job');

select * from finish();
rollback;
