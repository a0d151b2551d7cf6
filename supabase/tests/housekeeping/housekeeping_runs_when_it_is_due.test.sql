begin;
select plan(4);

select ok(maintain_jobs(true) ? 'aggregated', 'a forced call does the housekeeping');
select ok(not maintain_jobs() ? 'aggregated', 'the next call does no housekeeping');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select ok(maintain_jobs() ? 'aggregated', 'a call after a minute does housekeeping');
select ok(not maintain_jobs() ? 'aggregated', 'a second call in the same minute does no housekeeping');

select * from finish();
rollback;
