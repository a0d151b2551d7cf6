begin;
select plan(1);

select set_schedule('hourly', '{"every_seconds": 3600, "job_type": "t", "queue": "q", "missed": "skip"}');
-- Set the clock of picture-queue 5 hours 30 minutes ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '5 hours 30 minutes' $$;
select picture_queue._do_due_steps(p_limit => 100, p_sweeps => false);
select is((select count(*) from job_queue where queue = 'q'), 0::bigint, 'no job is enqueued for the missed ticks');

select * from finish();
rollback;
