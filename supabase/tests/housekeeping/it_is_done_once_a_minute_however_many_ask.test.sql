begin;
select plan(4);

select ok(maintain_jobs(true) ? 'aggregated', 'forced');
select ok(not maintain_jobs() ? 'aggregated', 'not due');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select ok(maintain_jobs() ? 'aggregated', 'due');
select ok(not maintain_jobs() ? 'aggregated', 'and done');

select * from finish();
rollback;
