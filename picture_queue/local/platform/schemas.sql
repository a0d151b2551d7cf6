-- The settings of the roles and of the database, the schemas, the extensions, the event triggers that
-- notify PostgREST, and the publication `supabase_realtime`.

alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role postgres set search_path = "$user", public, extensions;
alter role supabase_admin set search_path = "$user", public, auth, extensions;

do $$
begin
  execute format(
    'alter database %I set search_path = "$user", public, extensions',
    current_database()
  );
  execute format('grant all on database %I to postgres', current_database());
end
$$;

create schema extensions;
create schema auth;
create schema realtime;
create schema storage;

grant usage on schema public, extensions, auth, realtime, storage
  to anon, authenticated, service_role;
grant all on schema public, extensions to postgres;
grant usage on schema auth to postgres;
grant usage on schema realtime, storage to postgres with grant option;
grant usage on schema auth to supabase_auth_admin;
grant usage on schema realtime to supabase_realtime_admin;
grant usage on schema storage to supabase_storage_admin;

-- Create the extensions if they are available: the Postgres of the wheel has none, an installed
-- Postgres may have them.
do $$
declare
  v_extension text;
begin
  for v_extension in
    select name from pg_available_extensions where name in ('pgcrypto', 'uuid-ossp')
  loop
    execute format('create extension if not exists %I with schema extensions', v_extension);
  end loop;
end
$$;

-- Notify PostgREST of DDL, so that it reloads its schema cache within a second.
create function extensions.pgrst_ddl_watch() returns event_trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_command record;
begin
  for v_command in select * from pg_event_trigger_ddl_commands()
  loop
    if v_command.command_tag in (
        'CREATE SCHEMA', 'ALTER SCHEMA', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
        'ALTER TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE VIEW', 'ALTER VIEW',
        'CREATE MATERIALIZED VIEW', 'ALTER MATERIALIZED VIEW', 'CREATE FUNCTION', 'ALTER FUNCTION',
        'CREATE TRIGGER', 'CREATE TYPE', 'ALTER TYPE', 'CREATE RULE', 'COMMENT'
      )
      and v_command.schema_name is distinct from 'pg_temp'
    then
      notify pgrst, 'reload schema';
    end if;
  end loop;
end
$$;

create function extensions.pgrst_drop_watch() returns event_trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_object record;
begin
  for v_object in select * from pg_event_trigger_dropped_objects()
  loop
    if v_object.object_type in (
        'schema', 'table', 'foreign table', 'view', 'materialized view', 'function', 'trigger',
        'type', 'rule'
      )
      and not v_object.is_temporary
    then
      notify pgrst, 'reload schema';
    end if;
  end loop;
end
$$;

create event trigger pgrst_ddl_watch on ddl_command_end
  execute function extensions.pgrst_ddl_watch();
create event trigger pgrst_drop_watch on sql_drop
  execute function extensions.pgrst_drop_watch();

-- On the platform, postgres_changes sends the changes of the tables in this publication.
create publication supabase_realtime;
alter publication supabase_realtime owner to postgres;
