-- Schedules the maintenance if pg_cron is installed; call it again after installing pg_cron. Pruning has a separate
-- job, so that it can be rescheduled separately. It calls cron.schedule only if that function belongs to the extension
-- or to a trusted role, since the schema cron may belong to any role.
create function picture_queue.schedule_maintenance() returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- The name of the function is not in the text of the query, since without pg_cron a linter would report a missing
  -- function. The casts to the parameter types keep Postgres from choosing another function of that name.
  v_statement text := (
    select format('select cron.schedule($1::%s, $2::%s, $3::%s)',
      p.proargtypes[0]::regtype, p.proargtypes[1]::regtype, p.proargtypes[2]::regtype)
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'cron' and p.proname = 'schedule' and p.pronargs = 3
      and (picture_queue._is_trusted(p.proowner) or exists (
        select from pg_catalog.pg_depend d
        join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'pg_cron'
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid
          and d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'))
    limit 1);
begin
  if v_statement is null then
    return 'pg_cron is not installed';
  end if;
  execute v_statement using 'process-job-queue'::text, '* * * * *'::text, 
    'select picture_queue.maintain(); select picture_queue.call_worker()'::text;
  execute v_statement using 'prune-job-queue'::text, '* * * * *'::text, 'select picture_queue.prune()'::text;
  return 'scheduled';
end
$$;
select picture_queue._revoke_grants('picture_queue.schedule_maintenance()');
select picture_queue.schedule_maintenance();
