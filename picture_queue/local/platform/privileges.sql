-- The owners of the services' tables, and privileges on them that are revoked from the API's roles. An
-- upgrade of the stack runs this file again on the databases that an older version made.
--
-- No table belongs to a superuser, because code of users can run with the privileges of a table's owner.
-- For example, Postgres checks a foreign key with a query as the owner of the referenced table, and
-- this query runs a cast of the key's type, which any user can create.

alter table auth.users owner to supabase_auth_admin;
alter table auth.sessions owner to supabase_auth_admin;
alter table auth.refresh_tokens owner to supabase_auth_admin;
alter table realtime.messages owner to supabase_realtime_admin;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;

-- The platform and older versions grant the API's roles all privileges on Storage's tables. Here these
-- roles could then create triggers, which would run in the gateway's sessions.
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
