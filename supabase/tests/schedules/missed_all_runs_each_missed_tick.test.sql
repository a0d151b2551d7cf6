begin;
select plan(1);

select set_schedule('hourly', '{"every_seconds": 3600, "job_type": "t", "queue": "q", "missed": "all"}');
-- Set the clock of picture-queue 5 hours 30 minutes ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '5 hours 30 minutes' $$;
select picture_queue._do_due_steps(100, false);
select is((select count(*) from job_queue where queue = 'q'), 5::bigint, 'one job is enqueued for each missed tick');

select * from finish();
rollback;
