-- The one clock. Tests replace it inside a transaction to move time. It stands still within a statement,
-- so that an index can be searched by it.
create function picture_queue._now() returns timestamptz
language sql stable set search_path = ''
as $$ select clock_timestamp() $$;
