-- If Realtime is installed, _broadcast writes the events to realtime.messages with one insert, and the server of
-- Realtime sends them after the commit. An error becomes a warning, since an event is only a hint: a failure must not
-- undo the change that the event announces. For the same reason the insert waits only briefly for a lock on the table.
--
-- When a user joins a topic, Realtime sets realtime.topic, inserts a row with the topic, and selects that row as the
-- user. The policy compares the topic of the row as well, since a database connection can set realtime.topic itself.
do $do$
begin
  if picture_queue._find_table('realtime.messages', true) is null then
    return;
  end if;
  execute $sql$
    create or replace function picture_queue._broadcast(p_events picture_queue.event[]) returns void
    language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
    as $$
    begin
      insert into realtime.messages (topic, extension, event, payload, private)
      select e.topic, 'broadcast', e.name, e.payload, true from unnest(p_events) e;
    exception
      when others then
        raise warning 'picture_queue: no event was sent: %', sqlerrm;
    end
    $$;
    create policy "picture_queue: read own topics" on realtime.messages
      for select to authenticated
      using (extension = 'broadcast' and topic = 'pq:user:' || (select auth.uid())::text
        and topic = (select realtime.topic()));
  $sql$;
end
$do$;
