-- The one clock. Tests replace it inside a transaction to move time. It stands still within a statement,
-- so that an index can be searched by it. In PL/pgSQL, since one in SQL takes three times as long where it
-- cannot be written out in place, and with a search_path it cannot.
create function picture_queue._now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$ begin return clock_timestamp(); end $$;
