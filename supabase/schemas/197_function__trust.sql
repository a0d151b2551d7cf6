-- Our functions must not run code of other roles, such as triggers. If such code executes `set search_path` without
-- `local`, the new search_path also holds for the rest of our function. Postgres would then find the next operator of
-- our function in a schema of the other role, and run it with the rights of our owner.

-- Returns whether code of a role may run inside our functions: the role has all rights of the current role, which is
-- our owner. With p_trusts_platform, the roles of Supabase, whose names begin with supabase_, are trusted too.
create function picture_queue._is_trusted(p_role oid, p_trusts_platform boolean default false) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(pg_has_role(p_role, current_user, 'member'), false) or p_trusts_platform and coalesce(
    (select left(r.rolname, 9) = 'supabase_' from pg_catalog.pg_roles r where r.oid = p_role), false)
$$;

-- Returns a table of an extension or of the platform; null if there is no such table, or if code of another role would
-- run when it is read or written: it is a view, or belongs to a role that is not trusted.
create function picture_queue._find_table(p_name text, p_trusts_platform boolean default false) returns regclass
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return c.oid from pg_catalog.pg_class c
  where c.oid = to_regclass(p_name) and c.relkind in ('r', 'p') and picture_queue._is_trusted(c.relowner, p_trusts_platform);
end
$$;

-- Returns the foreign keys that Postgres follows when rows of these tables are deleted: the foreign keys that refer to
-- these tables, and, where a deletion cascades (cascade, set null, set default), the foreign keys that refer to the
-- next table.
create function picture_queue._foreign_keys_to(p_tables oid[]) returns setof pg_catalog.pg_constraint
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

-- Returns why rows of these tables must not be deleted: a table of another role refers to them, and its triggers or
-- the functions of its indexes would run. Returns null if no such table refers to them.
create function picture_queue._untrusted_reference(p_tables oid[]) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('table %s of role %s refers to %s', c.conrelid::regclass, t.relowner::regrole, c.confrelid::regclass)
  from picture_queue._foreign_keys_to(p_tables) c
  join pg_catalog.pg_class t on t.oid = c.conrelid
  where not picture_queue._is_trusted(t.relowner)
  order by 1 limit 1
$$;

-- Refuses to delete jobs while a table of another role refers to them. Until the end of the transaction, the lock
-- keeps other roles from adding such a foreign key; a deletion takes the same lock.
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
