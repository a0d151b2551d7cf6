begin;
select plan(4);

select set_schedule('minutely', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
select is(picture_queue._run_schedules(100), 0, 'not before its time');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is(picture_queue._run_schedules(100), 1, 'one');
select is(picture_queue._run_schedules(100), 0, 'however often it is looked at');
select is((select metadata ->> 'schedule' from job_queue where queue = 'q'), 'minutely', 'the job knows whose it is');

select * from finish();
rollback;
