begin;
select plan(3);

select isnt(maintain_jobs(true), '{}', 'forced');
select is(maintain_jobs(), '{}', 'not due');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select isnt(maintain_jobs(), '{}', 'due');

select * from finish();
rollback;
