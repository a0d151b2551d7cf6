-- The roles of a Supabase project, and what they may become. May run again: an upgrade of the stack
-- runs it on the databases that an older version made.
--
-- Differences from the platform, which has an extension (supautils) in these roles' way:
--   * `postgres` has no REPLICATION: whoever makes a replication slot names the library that the
--     server loads for it, any file that the server can read.
--   * before Postgres 16 `postgres` has no CREATEROLE: there it may grant itself every role that is
--     no superuser, also pg_execute_server_program, which runs programs as the server's user.
--   * the roles of Auth and Storage have no CREATEROLE, for the same reason; nothing here needs it.
--   * `supabase_realtime_admin` logs in: the platform's Realtime is a superuser.

do $$
declare
  v_role record;
  v_createrole text := case
    when pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 160000
      then 'createrole'
    else 'nocreaterole'
  end;
begin
  for v_role in
    select *
    from (values
      ('postgres', 'login inherit createdb ' || v_createrole || ' bypassrls'),
      ('anon', 'nologin noinherit nocreatedb nocreaterole nobypassrls'),
      ('authenticated', 'nologin noinherit nocreatedb nocreaterole nobypassrls'),
      ('service_role', 'nologin noinherit nocreatedb nocreaterole bypassrls'),
      ('authenticator', 'login noinherit nocreatedb nocreaterole nobypassrls'),
      ('supabase_auth_admin', 'login noinherit nocreatedb nocreaterole nobypassrls'),
      ('supabase_realtime_admin', 'login noinherit nocreatedb nocreaterole nobypassrls'),
      ('supabase_storage_admin', 'login noinherit nocreatedb nocreaterole nobypassrls')
    ) as wanted (name, attributes)
  loop
    if not exists (select from pg_catalog.pg_roles where rolname = v_role.name) then
      execute pg_catalog.format('create role %I', v_role.name);
    end if;
    execute pg_catalog.format(
      'alter role %I nosuperuser noreplication %s', v_role.name, v_role.attributes
    );
  end loop;
end
$$;

-- Takes back what an older version let `postgres` give away. Most of it means the server's user. Before
-- Postgres 16 CREATEROLE does too, on a role that `postgres` made when it had that itself. pg_read_all_data
-- shows the stored passwords.
do $$
declare
  v_grant record;
begin
  for v_grant in
    select pg_catalog.format(
      'revoke %s from %s cascade', m.roleid::pg_catalog.regrole, m.member::pg_catalog.regrole
    ) as statement
    from pg_catalog.pg_auth_members as m
    join pg_catalog.pg_roles as r on r.oid = m.member
    where m.roleid::pg_catalog.regrole::pg_catalog.text
        in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files',
          'pg_read_all_data', 'supabase_auth_admin')
      and not r.rolsuper
    union all
    select pg_catalog.format('alter role %I noreplication', r.rolname)
    from pg_catalog.pg_roles as r
    where r.rolreplication and not r.rolsuper
    union all
    select pg_catalog.format('alter role %I nocreaterole', r.rolname)
    from pg_catalog.pg_roles as r
    where r.rolcreaterole and not r.rolsuper
      and pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 160000
  loop
    execute v_grant.statement;
  end loop;
end
$$;

grant anon, authenticated, service_role
  to authenticator, supabase_realtime_admin, supabase_storage_admin;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
-- The platform lets `postgres` write policies on these owners' tables through the extension
-- supautils; membership gives the same right without it.
grant supabase_realtime_admin, supabase_storage_admin to postgres;

-- Triggers of the user's on the tables of Auth run with this path, as on the platform.
alter role supabase_auth_admin set search_path = auth;
alter role supabase_realtime_admin set search_path = realtime;
alter role supabase_storage_admin set search_path = storage;
