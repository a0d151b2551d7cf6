-- Returns the tables of picture-queue, including the partitions of the archive.
create function picture_queue._our_tables() returns setof pg_catalog.pg_class
language sql stable rows 40 set search_path = pg_catalog, pg_temp
as $$
  select c from pg_catalog.pg_class c
  where c.relkind in ('r', 'p') and (c.relnamespace = 'picture_queue'::regnamespace
    or c.oid in ('public.job_queue'::regclass, 'public.generations'::regclass, 'public.images'::regclass))
$$;

-- Enable row level security and set the replica identity of each table above.
--
-- Row level security: API roles without BYPASSRLS see no rows of a table without a policy (800_policies.sql). Replica
-- identity: under a publication `for all tables`, Postgres refuses updates and deletes of a table without one. For a
-- table without a primary key, the whole row is the identity, which Postgres writes to the WAL for updates and deletes
-- only. A primary key would add an index entry to each insert, and every enqueue, claim and report inserts a row into
-- depth_change.
do $$
declare
  v_table regclass;
  v_has_key boolean;
begin
  for v_table, v_has_key in
    select c.oid, exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary)
    from picture_queue._our_tables() c
  loop
    execute format('alter table %s enable row level security', v_table);
    if not v_has_key then
      execute format('alter table %s replica identity full', v_table);
    end if;
  end loop;
end
$$;
