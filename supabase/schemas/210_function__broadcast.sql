-- The one door to Realtime. Here it does nothing, so the core runs on any Postgres; the last file
-- of the schema replaces it where Realtime is present.
create function picture_queue._broadcast(p_events picture_queue.event[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  null;
end
$$;
