-- The one clock. Tests replace it inside a transaction to move time.
create function picture_queue._now() returns timestamptz
language sql volatile set search_path = ''
as $$ select clock_timestamp() $$;
