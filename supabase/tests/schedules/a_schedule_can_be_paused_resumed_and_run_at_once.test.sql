begin;
select plan(4);

select set_schedule('s', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
select is(pause_schedule('s') ->> 'next_at', null, 'a paused schedule has no next run');
-- Set the clock of picture-queue 2 minutes ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '2 minutes' $$;
select is((picture_queue._do_due_steps(100, false) ->> 'scheduled')::integer, 0, 'a paused schedule enqueues no jobs');
select is(run_schedule('s') ->> 'outcome', 'created', 'run_schedule() enqueues a job');
select isnt(resume_schedule('s') ->> 'next_at', null, 'a resumed schedule has a next run');

select * from finish();
rollback;
