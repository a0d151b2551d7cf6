-- Finds code of the project and of other roles that runs inside our functions. A function that sets no search_path can
-- use temporary objects of a caller. A function of a role without the rights of our owner can get these rights.
create function picture_queue._check_code() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with ours (oid) as (select t.oid from picture_queue._our_tables() t),
  -- The tables whose rows our deletions delete or change (cascade, set null, set default).
  written (oid) as (
    select o.oid from ours o
    union
    select c.conrelid from picture_queue._foreign_keys_to(array(select o.oid from ours o)) c
    where c.confdeltype in ('c', 'n', 'd')
  ),
  code (shown, function, remedy) as (
    select format('trigger %I on %s', t.tgname, t.tgrelid::regclass), t.tgfoid,
      format('drop trigger %I on %s;', t.tgname, t.tgrelid::regclass)
    from pg_catalog.pg_trigger t where t.tgrelid in (select w.oid from written w) and not t.tgisinternal
    union all
    -- Our functions create and drop partitions of the archive.
    select format('event trigger %I', e.evtname), e.evtfoid, format('drop event trigger %I;', e.evtname)
    from pg_catalog.pg_event_trigger e where e.evtenabled <> 'D' and e.evtevent <> 'login'
    union all
    select pg_describe_object(d.classid, d.objid, d.objsubid), d.refobjid,
      'drop it, or give its function to the owner of public.job_queue'
    from (
      select 'pg_catalog.pg_constraint'::regclass, c.oid from pg_catalog.pg_constraint c
      where c.contype = 'c' and c.conrelid in (select w.oid from written w)
      union all
      select 'pg_catalog.pg_attrdef'::regclass, a.oid from pg_catalog.pg_attrdef a
      where a.adrelid in (select w.oid from written w)
      union all
      select 'pg_catalog.pg_class'::regclass, i.indexrelid from pg_catalog.pg_index i
      where i.indrelid in (select w.oid from written w)
    ) as o (class, oid)
    join pg_catalog.pg_depend d
      on d.classid = o.class and d.objid = o.oid and d.refclassid = 'pg_catalog.pg_proc'::regclass
  ),
  foreign_code as (
    select c.*, p.proowner, p.oid::regprocedure as name, picture_queue._is_trusted(p.proowner, true) as is_trusted
    from code c
    join pg_catalog.pg_proc p on p.oid = c.function
    join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname not in ('internal', 'c')
    join pg_catalog.pg_roles r on r.oid = p.proowner
    -- Leave out functions of extensions and event triggers of the platform, since the project cannot change them.
    where not exists (select from pg_catalog.pg_depend d
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
      and not (left(c.shown, 5) = 'event' and r.rolsuper and r.rolname <> current_user)
      and not (picture_queue._sets_safe_path(p.proconfig) and picture_queue._is_trusted(p.proowner, true))
  )
  select case when f.is_trusted then 'warn' else 'bad' end, case
      when f.is_trusted then format('%s may use temporary objects of a caller: its function does not set search_path', f.shown)
      else format('%s runs code of role %s inside our functions', f.shown, f.proowner::regrole) end, case
      when f.is_trusted then format('alter function %s set search_path = public, pg_temp;', f.name)
      else f.remedy end
  from foreign_code f
  union all
  select 'bad', format('table %s of role %s refers to %s: its triggers and indexes would run inside our functions, so no '
      || 'job is deleted', c.conrelid::regclass, t.relowner::regrole, c.confrelid::regclass),
    format('alter table %s drop constraint %I;', c.conrelid::regclass, c.conname)
  from picture_queue._foreign_keys_to(array(select o.oid from ours o)) c
  join pg_catalog.pg_class t on t.oid = c.conrelid
  where not picture_queue._is_trusted(t.relowner)
  union all
  select 'bad', format('%s refers to table %s of role %s, whose code runs inside our functions when a row is written',
      c.conrelid::regclass, c.confrelid::regclass, t.relowner::regrole),
    format('alter table %s drop constraint %I;', c.conrelid::regclass, c.conname)
  from pg_catalog.pg_constraint c
  join pg_catalog.pg_class t on t.oid = c.confrelid
  where c.contype = 'f' and c.conparentid = 0 and c.conrelid in (select w.oid from written w)
    and not picture_queue._is_trusted(t.relowner, true)
$$;
