-- Schedules the maintenance if pg_cron is installed; call it again after installing pg_cron. Pruning has a separate
-- job, so that it can be rescheduled separately.
create function picture_queue.schedule_maintenance() returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- Its name is not in the text of the query, since a linter would report a missing function without pg_cron.
  v_schedule regproc := (
    select p.oid from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'cron' and p.proname = 'schedule' limit 1);
begin
  if v_schedule is null then
    return 'pg_cron is not installed';
  end if;
  execute format('select %s($1, $2, $3)', v_schedule)
  using 'process-job-queue'::text, '* * * * *'::text, 'select picture_queue.maintain()'::text;
  execute format('select %s($1, $2, $3)', v_schedule)
  using 'prune-job-queue'::text, '* * * * *'::text, 'select picture_queue.prune()'::text;
  return 'scheduled';
end
$$;
select picture_queue._revoke_grants('picture_queue.schedule_maintenance()');
select picture_queue.schedule_maintenance();
