-- Sends events over Realtime. This version does nothing, so that the queue runs on a Postgres without Realtime;
-- 950_supabase_realtime.sql replaces it where Realtime is installed.
create function picture_queue._broadcast(p_events picture_queue.event[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  null;
end
$$;
