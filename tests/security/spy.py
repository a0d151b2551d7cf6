"""A spy function in SQL, and the SQL that attaches it to tables of Storage and Realtime.

The spy records which roles it can set, and the dangerous rights of each role: to act as a
superuser, to run a program, or to read a file.
"""

#: The spy writes its findings to the log of the server, which a rollback does not undo.
SPY = """
create function public.spy(place text) returns void language plpgsql as $$
declare
  v_before text := current_setting('role');
  v_role text;
  v_roles name[] := '{}';
  v_rights text[] := '{}';
begin
  -- The first round keeps the role: no role can be set while Postgres checks a foreign key.
  for v_role in
    select null union all select 'none' union all select rolname from pg_roles
  loop
    begin
      if v_role is not null then
        perform set_config('role', v_role, true);
      end if;
    exception when others then continue;
    end;
    v_roles := v_roles || current_user;
    if (select rolsuper from pg_roles where rolname = current_user) then
      v_rights := v_rights || format('superuser as %%s', current_user);
    end if;
    begin
      copy (select 1) to program 'cat > %(proof)s';
      v_rights := v_rights || format('program as %%s', current_user);
    exception when insufficient_privilege then null;
    end;
    begin
      perform pg_read_file('PG_VERSION');
      v_rights := v_rights || format('file as %%s', current_user);
    exception when insufficient_privilege then null;
    end;
  end loop;
  begin
    perform set_config('role', v_before, true);
  exception when others then null;
  end;
  raise log 'SPY %%', jsonb_build_object(
    'place', place, 'session', session_user, 'roles', v_roles, 'dangerous_rights', v_rights
  );
end $$;
create function public.spy_row() returns trigger language plpgsql as $$
begin
  perform public.spy(tg_table_schema || '.' || tg_table_name || ' trigger');
  return coalesce(new, old);
end $$;
create function public.spy_check(place text) returns boolean language plpgsql as $$
begin
  perform public.spy(place);
  return true;
end $$;
create function public.spy_time(place text) returns timestamptz language plpgsql as $$
begin
  perform public.spy(place);
  return now();
end $$;
grant execute on function public.spy, public.spy_row, public.spy_check, public.spy_time to public;
"""

ATTACH_SPY = """
create policy spy on storage.objects for select to authenticated
  using (public.spy_check('storage.objects policy'));
create policy spy_insert on storage.objects for insert to authenticated with check (true);
create policy spy on realtime.messages for select to authenticated
  using (public.spy_check('realtime.messages policy'));
alter table storage.objects alter column created_at
  set default public.spy_time('storage.objects default');
alter table storage.buckets add constraint spy check (public.spy_check('storage.buckets check'));
alter table realtime.messages add constraint spy check (public.spy_check('realtime.messages check'));
create function public.spy_rest() returns void language sql
  as $$ select public.spy('rest function') $$;
grant execute on function public.spy_rest to service_role;
"""  # noqa: E501

#: Policies under which users may write to Storage and Realtime, and a `spy_rest` that does nothing.
PERMISSIVE_POLICIES = """
create function public.spy_rest() returns void language sql as '';
grant execute on function spy_rest to service_role;
create policy permissive on storage.objects for all to authenticated using (true);
create policy permissive on realtime.messages for all to authenticated using (true);
"""
