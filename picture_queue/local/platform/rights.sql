-- Owners and grants. May run again: an upgrade of the stack runs it on the databases that an older
-- version made.
--
-- No table belongs to a superuser. Triggers are not the only code that a table runs with its owner's
-- rights: to check a foreign key Postgres reads the referenced table as its owner, and a cast of the
-- key's type, which everybody may make, runs in that query.

grant usage on schema public, extensions, auth, realtime, storage
  to anon, authenticated, service_role;
grant all on schema public, extensions to postgres;
grant usage on schema auth to postgres;
grant usage on schema realtime, storage to postgres with grant option;
grant usage on schema auth to supabase_auth_admin;
grant usage on schema realtime to supabase_realtime_admin;
grant usage on schema storage to supabase_storage_admin;

alter table auth.users owner to supabase_auth_admin;
alter table auth.sessions owner to supabase_auth_admin;
alter table auth.refresh_tokens owner to supabase_auth_admin;
alter table realtime.messages owner to supabase_realtime_admin;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
alter publication supabase_realtime owner to postgres;

-- The API's roles get no TRIGGER and no REFERENCES, which the platform grants them on Storage's
-- tables: a trigger runs in the gateway's sessions.
revoke all on storage.buckets, storage.objects from anon, authenticated, service_role;
revoke trigger, truncate, references on all tables in schema auth, realtime
  from anon, authenticated, service_role;
grant all on all tables in schema auth to postgres;
grant select, insert, update on realtime.messages
  to postgres, anon, authenticated, service_role;
grant all on storage.buckets, storage.objects to postgres;
grant select, insert, update, delete on storage.buckets, storage.objects
  to anon, authenticated, service_role;
