-- Returns the current time. All functions use it, and tests replace it to set the time. It is stable, so that an index
-- can be searched with it. A function with a set search_path cannot be inlined; without inlining, PL/pgSQL takes a
-- third of the time of SQL.
create function picture_queue._now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$ begin return clock_timestamp(); end $$;
