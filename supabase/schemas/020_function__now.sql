-- Returns the current time; all functions use it, and tests replace it to move time. It is stable, so that an index can
-- be searched with it. It is in PL/pgSQL, which takes a third of the time of SQL for a function that cannot be inlined,
-- and a function with a search_path cannot.
create function picture_queue._now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$ begin return clock_timestamp(); end $$;
