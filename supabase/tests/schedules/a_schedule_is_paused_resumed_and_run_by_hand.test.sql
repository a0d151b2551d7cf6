begin;
select plan(4);

select set_schedule('s', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
select is(pause_schedule('s') ->> 'next_at', null, 'paused');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '120 seconds' $$;
select is(picture_queue._run_schedules(100), 0, 'it makes no jobs');
select is(run_schedule('s') ->> 'outcome', 'created', 'but by hand');
select isnt(resume_schedule('s') ->> 'next_at', null, 'resumed');

select * from finish();
rollback;
