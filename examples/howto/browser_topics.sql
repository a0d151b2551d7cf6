-- Who may listen to which topic is decided by the policies of realtime.messages: whoever may select a
-- message of the topic may join its private channel. The migrations bring the first one, in these words:
--
--   create policy "picture_queue: read own topics" on realtime.messages for select to authenticated
--   using (extension = 'broadcast' and (select realtime.topic()) = 'pq:user:' || (select auth.uid())::text);
--
-- More may stand beside it. Here those whose token says that they are of the support hear of everybody:
begin;
create policy "support hears of all jobs" on realtime.messages for select to authenticated
using (
  extension = 'broadcast' and (select realtime.topic()) like 'pq:user:%'
  and (select auth.jwt()) -> 'app_metadata' ->> 'support' = 'true'
);
rollback; -- commit, if you want it

-- What there is. Nobody needs a policy for insert: only the database sends.
select policyname, roles, qual from pg_policies where (schemaname, tablename) = ('realtime', 'messages');
