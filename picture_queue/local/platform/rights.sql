-- Who owns the services' tables, and what nobody else may do with them. May run again: an upgrade of
-- the stack runs it on the databases that an older version made.
--
-- No table belongs to a superuser. Triggers are not the only code that a table runs with its owner's
-- rights: to check a foreign key Postgres reads the referenced table as its owner, and a cast of the
-- key's type, which everybody may make, runs in that query.

alter table auth.users owner to supabase_auth_admin;
alter table auth.sessions owner to supabase_auth_admin;
alter table auth.refresh_tokens owner to supabase_auth_admin;
alter table realtime.messages owner to supabase_realtime_admin;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;

-- The platform grants the API's roles all of it on Storage's tables, and older versions did. A
-- trigger runs in the gateway's sessions.
revoke trigger, truncate, references on all tables in schema auth, realtime, storage
  from anon, authenticated, service_role;

do $$
begin
  if pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 170000 then
    revoke maintain on all tables in schema auth, realtime, storage
      from anon, authenticated, service_role;
  end if;
end
$$;
