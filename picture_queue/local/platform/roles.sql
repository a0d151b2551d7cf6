-- The roles of a Supabase project and their memberships. An upgrade of the stack runs this file again
-- on databases that an older version created.
--
-- Differences from the platform, where the extension supautils restricts these roles:
--   * `postgres` has no REPLICATION. A role that creates a replication slot chooses the library that
--     the server loads for the slot, and this library may be any file that the server can read.
--   * Before Postgres 16 `postgres` has no CREATEROLE. A role with CREATEROLE could grant itself every
--     role that is not a superuser. With the role pg_execute_server_program, it could run programs as
--     the operating system's user of the server.
--   * The roles of Auth and Storage have no CREATEROLE, for the same reason.
--   * `supabase_realtime_admin` can log in. The platform's Realtime logs in as a superuser.

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

-- Revokes privileges that `postgres` could grant in an older version. With most of these privileges, a
-- role can act as the operating system's user of the server. With pg_read_all_data, a role can read the
-- stored passwords. Before Postgres 16, CREATEROLE is also revoked, even from roles that `postgres`
-- created, because a role with CREATEROLE can grant itself these privileges.
do $$
declare
  v_revocation record;
begin
  for v_revocation in
    select pg_catalog.format(
      'revoke %s from %s cascade',
      membership.roleid::pg_catalog.regrole,
      membership.member::pg_catalog.regrole
    ) as statement
    from pg_catalog.pg_auth_members as membership
    join pg_catalog.pg_roles as member on member.oid = membership.member
    where membership.roleid::pg_catalog.regrole::pg_catalog.text
        in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files',
          'pg_read_all_data', 'supabase_auth_admin')
      and not member.rolsuper
    union all
    select pg_catalog.format('alter role %I noreplication', role.rolname)
    from pg_catalog.pg_roles as role
    where role.rolreplication and not role.rolsuper
    union all
    select pg_catalog.format('alter role %I nocreaterole', role.rolname)
    from pg_catalog.pg_roles as role
    where role.rolcreaterole and not role.rolsuper
      and pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 160000
  loop
    execute v_revocation.statement;
  end loop;
end
$$;

-- In an older version, `postgres` could create replication slots. If nobody reads from a slot, the
-- server keeps its write-ahead log for the slot until the disk is full.
select pg_catalog.pg_drop_replication_slot(slot_name)
from pg_catalog.pg_replication_slots
where not active;

grant anon, authenticated, service_role
  to authenticator, supabase_realtime_admin, supabase_storage_admin;
grant anon, authenticated, service_role, authenticator to postgres with admin option;
-- On the platform, the extension supautils lets `postgres` create policies on the tables of these
-- roles. Membership gives the same right.
grant supabase_realtime_admin, supabase_storage_admin to postgres;

-- Users' triggers on the tables of Auth run with this search_path, as on the platform.
alter role supabase_auth_admin set search_path = auth;
alter role supabase_realtime_admin set search_path = realtime;
alter role supabase_storage_admin set search_path = storage;
