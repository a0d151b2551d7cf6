-- Returns the current time. All functions call _now instead of now(), and tests replace it to set the time. It is
-- stable, so that its result can be searched in an index. A function with a set search_path cannot be inlined; a call
-- of PL/pgSQL that is not inlined takes a third of the time of a call of SQL.
create function picture_queue._now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$ begin return clock_timestamp(); end $$;
