begin;
select plan(3);

select set_schedule('s', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
update picture_queue.maintenance set round_began_at = picture_queue._now() - interval '4 seconds';
select is((select count(*) from claim_next_job('q')), 0::bigint, 'no schedule runs 4 seconds after the last maintenance');
update picture_queue.maintenance set round_began_at = picture_queue._now() - interval '6 seconds';
select is((select count(*) from claim_next_job('q')), 1::bigint, 'schedules run 6 seconds after the last maintenance');
select is((select last_error from picture_queue.schedule where name = 's'), null, 'the schedule has no error');

select * from finish();
rollback;
