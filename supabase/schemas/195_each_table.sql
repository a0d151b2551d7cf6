-- Properties that each table above has.
--
-- Row level security: a table without a policy (800_policies.sql) shows no rows to the API roles that are bound by it.
-- Replica identity: a publication `for all tables` refuses updates and deletes of a table that has none. Tables without
-- a primary key get the whole row, which is written to the log with updates and deletes only. A key would cost each
-- insert an index entry, and depth_change gets a row from every enqueue, claim and report.
do $$
declare
  v_table regclass;
  v_has_key boolean;
begin
  for v_table, v_has_key in
    select c.oid, exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary)
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p') and (c.relnamespace = 'picture_queue'::regnamespace
      or c.oid in ('public.job_queue'::regclass, 'public.generations'::regclass, 'public.images'::regclass))
  loop
    execute format('alter table %s enable row level security', v_table);
    if not v_has_key then
      execute format('alter table %s replica identity full', v_table);
    end if;
  end loop;
end
$$;
