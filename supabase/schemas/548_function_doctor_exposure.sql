-- The doctor's check of the access of users, who must not reach more than their own rows. 900_grants.sql grants the
-- functions that users may execute; docs/security.md has the reasons.
create function picture_queue._check_exposure() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with api_role (name) as (values ('anon'), ('authenticated')),
  role_setting (role, setting) as (
    select r.rolname, unnest(s.setconfig)
    from pg_catalog.pg_db_role_setting s join pg_catalog.pg_roles r on r.oid = s.setrole
    where s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))
  ),
  problem (verdict, detail, remedy) as (
    select 'bad', format('authenticated may execute %s', f.oid::regprocedure),
      format('revoke execute on function %s from public, authenticated;', f.oid::regprocedure)
    from picture_queue._our_functions() f join pg_catalog.pg_proc p on p.oid = f.oid
    where has_function_privilege('authenticated', f.oid, 'execute') and p.proname <> all (picture_queue._user_functions())
    union all
    select 'bad', format('%s can use types and tables of its caller: its search_path is %s', f.oid::regprocedure,
        coalesce(substr(c.setting, 13), 'not set')),
      format('alter function %s set search_path = pg_catalog, pg_temp;', f.oid::regprocedure)
    from picture_queue._our_functions() f join pg_catalog.pg_proc p on p.oid = f.oid
    left join lateral unnest(p.proconfig) as c (setting) on c.setting like 'search_path=%'
    where c.setting is distinct from 'search_path=pg_catalog, pg_temp'
    union all
    select c.verdict, c.detail, c.remedy from picture_queue._check_code() c
    union all
    select 'bad', format('role %s bypasses row level security', r.rolname), format('alter role %I nosuperuser nobypassrls;', r.rolname)
    from api_role a join pg_catalog.pg_roles r on r.rolname = a.name where r.rolsuper or r.rolbypassrls
    union all
    select 'bad', format('role %s has the privileges of service_role', r.rolname), format('revoke service_role from %I;', r.rolname)
    from api_role a join pg_catalog.pg_roles r on r.rolname = a.name
    join pg_catalog.pg_roles s on s.rolname = 'service_role'
    where not r.rolsuper and pg_has_role(r.oid, s.oid, 'member')
    union all
    select 'warn', format('policy %I on %s is not from picture-queue: users may see more than their own rows', p.polname, c.oid::regclass),
      format('drop policy %I on %s; -- unless it is intended', p.polname, c.oid::regclass)
    from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid
    where c.oid in ('public.job_queue'::regclass, 'public.generations'::regclass, 'public.images'::regclass)
      and p.polpermissive and p.polcmd in ('r', '*') and left(p.polname, 15) <> 'picture_queue: '
    union all
    -- Permissive policies are combined with OR, so a policy without a condition on the topic or bucket also opens our
    -- topics and buckets.
    select 'warn', format('policy %I on %s %s', p.polname, p.polrelid::regclass, o.effect),
      format('drop policy %I on %s; -- or add a condition on the %s', p.polname, p.polrelid::regclass, o."column")
    from (values
      ('realtime.messages', 'topic', 'topic', 'is for every topic: users may read or send events of others'),
      ('storage.objects', 'bucket_id', 'bucket_id|owner|foldername', 'is for every bucket: users may reach pictures of others')
    ) as o (table_name, "column", pattern, effect)
    join pg_catalog.pg_policy p on p.polrelid = to_regclass(o.table_name)
    where p.polpermissive and left(p.polname, 15) <> 'picture_queue: '
      and concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) !~ o.pattern
      and exists (select from unnest(p.polroles) u (role)
        left join pg_catalog.pg_roles r on r.oid = u.role where u.role = 0 or r.rolname in (select a.name from api_role a))
    union all
    select 'warn', format('no statement_timeout for the role %s', a.name), format('alter role %I set statement_timeout = ''8s'';', a.name)
    from api_role a join pg_catalog.pg_roles r on r.rolname = a.name
    where not exists (
      select from role_setting s
      where s.role in (a.name, 'authenticator') and s.setting ~ '^statement_timeout=' and s.setting !~ '^statement_timeout=0[a-z]*$')
    union all
    select 'warn', 'a user can have any number of running jobs', 'select public.set_limit(''user:*'', 4); -- or another number'
    where exists (select from public.generations g where g.user_id is not null)
      and not exists (select from picture_queue.limit_rule l where l.key like 'user:%' and l.max_running is not null)
    union all
    select 'warn', 'a user can start any number of generations',
      'select public.set_budget(''user:*'', ''{"per_minute": 20, "per_hour": 200, "max_pending": 50}'');'
    where exists (select from public.generations g where g.user_id is not null)
      and not exists (select from picture_queue.budget b where b.key = 'user:*' and num_nonnulls(b.per_minute, b.per_hour) > 0)
  )
  select p.verdict, p.detail, p.remedy from problem p order by p.verdict, p.detail
$$;
