-- Code of other roles, which our functions must not run. `set search_path` without `local` in such code overrides the
-- search_path of the function inside which it runs, and stays after it. The next operator of our function would then be
-- looked up in a schema of that role, and run with the rights of our owner.

-- Returns whether code of a role may run inside our functions: it has all rights of the current role, which is our
-- owner. With p_is_platform the roles of Supabase are trusted as well, whose names begin with supabase_.
create function picture_queue._is_trusted(p_role oid, p_is_platform boolean default false) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(pg_has_role(p_role, current_user, 'member'), false) or p_is_platform and coalesce(
    (select left(r.rolname, 9) = 'supabase_' from pg_catalog.pg_roles r where r.oid = p_role), false)
$$;

-- Returns a table of an extension or of the platform; null if there is none. It is not a view, and belongs to a trusted
-- role, so that no code of another role runs when it is read or written.
create function picture_queue._find_table(p_name text, p_is_platform boolean default false) returns regclass
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return c.oid from pg_catalog.pg_class c
  where c.oid = to_regclass(p_name) and c.relkind in ('r', 'p') and picture_queue._is_trusted(c.relowner, p_is_platform);
end
$$;

-- Returns the foreign keys whose tables a deletion of rows of these tables reads or changes: those that refer to these
-- tables, and those that refer to a table whose rows are deleted or changed with them.
create function picture_queue._references(p_tables oid[]) returns setof pg_catalog.pg_constraint
language sql stable rows 20 set search_path = pg_catalog, pg_temp
as $$
  with recursive reached (constraint_oid, next_table) as (
    select c.oid, case when c.confdeltype in ('c', 'n', 'd') then c.conrelid end
    from pg_catalog.pg_constraint c where c.contype = 'f' and c.confrelid = any (p_tables)
    union
    select c.oid, case when c.confdeltype in ('c', 'n', 'd') then c.conrelid end
    from reached r
    join pg_catalog.pg_constraint c on c.contype = 'f' and c.confrelid = r.next_table
  )
  select c from pg_catalog.pg_constraint c where c.oid in (select r.constraint_oid from reached r)
$$;

-- Returns why rows of these tables must not be deleted: a table of another role refers to them, so that its triggers or
-- the functions of its indexes would run. Returns null if there is none.
create function picture_queue._untrusted_reference(p_tables oid[]) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('table %s of role %s refers to %s', c.conrelid::regclass, t.relowner::regrole, c.confrelid::regclass)
  from picture_queue._references(p_tables) c
  join pg_catalog.pg_class t on t.oid = c.conrelid
  where not picture_queue._is_trusted(t.relowner)
  order by 1 limit 1
$$;

-- Refuses to delete jobs while a table of another role refers to them. The lock, which a deletion takes anyway, keeps
-- others from adding such a foreign key until the end of the transaction.
create function picture_queue._check_references() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_reference text;
begin
  lock table public.job_queue in row exclusive mode;
  v_reference := picture_queue._untrusted_reference(array['public.job_queue'::regclass]);
  if v_reference is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', v_reference, 'queue_doctor() shows how to drop the foreign key');
  end if;
end
$$;
