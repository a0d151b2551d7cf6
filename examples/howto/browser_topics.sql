-- The policies of realtime.messages decide who can join the private channel of a topic: everyone who can
-- select a message of the topic. The migrations create this policy:
--
--   create policy "picture_queue: read own topics" on realtime.messages for select to authenticated
--   using (extension = 'broadcast' and topic = 'pq:user:' || (select auth.uid())::text
--     and topic = (select realtime.topic()));
--
-- You can add other policies. This policy lets users with a claim "support" receive the events of all users.
begin;
create policy "support receives all job events" on realtime.messages for select to authenticated
using (
  extension = 'broadcast' and topic like 'pq:user:%' and topic = (select realtime.topic())
  and (select auth.jwt()) -> 'app_metadata' ->> 'support' = 'true'
);
rollback; -- or commit, to keep the policy

-- List the policies. Users need no policy for insert: only the database sends events.
select policyname, roles, qual from pg_policies where (schemaname, tablename) = ('realtime', 'messages');
