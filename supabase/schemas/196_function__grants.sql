-- The privileges of other roles on our objects.

-- Returns the functions of picture-queue. In the schema public, these are the functions of our owner whose body refers
-- to our objects.
create function picture_queue._our_functions() returns table (oid oid, is_public boolean)
language sql stable rows 200 set search_path = pg_catalog, pg_temp
as $$
  select p.oid, p.pronamespace = 'public'::regnamespace
  from pg_catalog.pg_proc p
  where p.pronamespace = 'picture_queue'::regnamespace
    or (p.pronamespace = 'public'::regnamespace and p.prosrc ~ 'picture_queue[.]|public[.](job_queue|generations|queue_health)'
      and p.proowner = (select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'picture_queue'))
$$;

-- Returns the names of the functions in both schemas that users may execute.
create function picture_queue._user_functions() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select '{cancel_job,get_job,list_jobs,get_generation,list_generations,picture_queue_version,start_generation,
    cancel_generation,start_generations,generation_batch,cancel_generation_batch,list_models,job_position,explain_jobs,
    get_account,may_upload,may_read_picture,delete_generation,set_favourite,
    search_generations,_generation_filter,version,_raise_error,_require,_jobs_where,
    _filter_condition,_reason,_check_fields,_fields_problem,_value_problem,_with_images}'::text[]
$$;

-- Returns every privilege on our objects that a role other than the owner has, with the words of a GRANT statement. It
-- leaves out types, which every role may use, and privileges that a role has as a member of another role.
create function picture_queue._grants() returns table (
  object oid, kind text, name text, "column" name, role text, privilege text, is_grantable boolean)
language sql stable rows 200 set search_path = pg_catalog, pg_temp
as $$
  with relations as (
    select c.oid, case c.relkind when 'S' then 'sequence' else 'table' end as kind, c.relowner, c.relacl
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and (c.relnamespace = 'picture_queue'::regnamespace or c.oid in (
      select to_regclass(n.name) from (values ('public.job_queue'), ('public.generations'), ('public.images'),
        ('public.queue_health'), ('public.failed_jobs_recent'), ('public.stuck_jobs'),
        (pg_get_serial_sequence('public.job_queue', 'seq'))) as n (name)))
  ),
  objects (oid, kind, name, "column", owner, acl) as (
    select n.oid, 'schema', n.nspname::text, null::name, n.nspowner, n.nspacl
    from pg_catalog.pg_namespace n where n.nspname = 'picture_queue'
    union all
    select r.oid, r.kind, r.oid::regclass::text, null, r.relowner, r.relacl from relations r
    union all
    select r.oid, r.kind, r.oid::regclass::text, a.attname, r.relowner, a.attacl
    from relations r join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attacl is not null
    union all
    -- Without an ACL every role may execute a function.
    select p.oid, 'function', p.oid::regprocedure::text, null, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    from picture_queue._our_functions() f join pg_catalog.pg_proc p on p.oid = f.oid
  )
  select o.oid, o.kind, o.name, o."column", coalesce(quote_ident(r.rolname), 'public'), a.privilege_type, a.is_grantable
  from objects o
  cross join lateral aclexplode(o.acl) a
  left join pg_catalog.pg_roles r on r.oid = a.grantee
  where a.grantee <> o.owner
$$;

-- Returns the statement that revokes a privilege. The arguments are columns of _grants; p_column is null except for a
-- privilege on a column.
create function picture_queue._revoke_statement(
  p_privilege text, p_column text, p_kind text, p_name text, p_role text)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select format('revoke %s%s on %s %s from %s cascade;', p_privilege, ' (' || quote_ident(p_column) || ')', p_kind, p_name,
    p_role)
$$;

-- Revokes all privileges of other roles on our objects, or on the object with this name (as _grants writes it). It is
-- called before our own grants, since the default privileges of a project may give any role privileges on each new
-- object.
create function picture_queue._revoke_grants(p_name text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  for v_statement in
    select distinct picture_queue._revoke_statement('all', g."column", g.kind, g.name, g.role)
    from picture_queue._grants() g where p_name is null or g.name = p_name
  loop
    execute v_statement;
  end loop;
end
$$;
