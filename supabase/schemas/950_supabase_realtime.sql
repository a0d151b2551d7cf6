-- Only where Realtime is: events become rows of realtime.messages, which the server sends after
-- commit. One insert for many; realtime.send(), a subtransaction each, where the insert is refused.
-- What goes wrong is a warning: an event is a hint and must never undo the change it announces.
do $do$
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  execute $sql$
    create or replace function picture_queue._broadcast(p_events picture_queue.event[]) returns void
    language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
    as $$
    begin
      insert into realtime.messages (topic, extension, event, payload, private)
      select e.topic, 'broadcast', e.name, e.payload, true from unnest(p_events) e;
    exception
      when insufficient_privilege then
        perform realtime.send(e.payload, e.name, e.topic, true) from unnest(p_events) e;
      when others then
        raise warning 'picture_queue: no event was sent: %', sqlerrm;
    end
    $$;
    create policy "picture_queue: read own topics" on realtime.messages
      for select to authenticated
      using (extension = 'broadcast' and (select realtime.topic()) = 'pq:user:' || (select auth.uid())::text);
  $sql$;
end
$do$;
