begin;
select plan(4);

select enqueue_job('t', queue => 'q', options => '{"delay_seconds": 60}');
select picture_queue.maintain();  -- promotes no job yet
select is((select hold from job_queue where queue = 'q'), 'scheduled', 'the job is scheduled');
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'the job is not claimed before it is due');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select picture_queue.maintain();
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 1, 'the job is claimed when it is due');
select throws_like($$ select enqueue_job('t', options => '{"delay_seconds": -1}') $$, 'PQ_INVALID_ARGUMENT%', 'a negative delay is refused');

select * from finish();
rollback;
