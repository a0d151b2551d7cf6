begin;
select plan(4);

select ok(maintain_jobs(true) ? 'folded', 'forced');
select ok(not maintain_jobs() ? 'folded', 'not due');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select ok(maintain_jobs() ? 'folded', 'due');
select ok(not maintain_jobs() ? 'folded', 'and done');

select * from finish();
rollback;
