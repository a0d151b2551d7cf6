-- A publication `for all tables` refuses updates and deletes of a table that has no replica identity. Tables
-- without a primary key get the whole row: it is written to the log with updates and deletes only, while a
-- key would cost each insert an index entry, and depth_change gets a row from every enqueue, claim and report.
do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_catalog.pg_class c
    where c.relnamespace = 'picture_queue'::regnamespace and c.relkind = 'r'
      and not exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary)
  loop
    execute format('alter table %s replica identity full', v_table);
  end loop;
end
$$;
