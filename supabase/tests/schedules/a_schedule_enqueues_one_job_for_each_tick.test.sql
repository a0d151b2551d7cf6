begin;
select plan(4);

select set_schedule('minutely', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
select is((picture_queue._do_due_steps(100, false) ->> 'scheduled')::integer, 0, 'no job is enqueued before the tick');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is((picture_queue._do_due_steps(100, false) ->> 'scheduled')::integer, 1, 'one job is enqueued at the tick');
select is((picture_queue._do_due_steps(100, false) ->> 'scheduled')::integer, 0, 'no second job is enqueued for the same tick');
select is((select metadata ->> 'schedule' from job_queue where queue = 'q'), 'minutely', 'the metadata of the job name the schedule');

select * from finish();
rollback;
