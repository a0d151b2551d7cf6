-- Schedules the housekeeping where pg_cron is; call it again after installing pg_cron. Each job has a
-- name of its own, so that pruning can be put elsewhere without stopping the rest.
create function picture_queue.schedule_maintenance() returns text
language plpgsql set search_path = ''
as $$
begin
  if to_regproc('cron.schedule') is null and not exists (
    select from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'cron' and p.proname = 'schedule')
  then
    return 'pg_cron is not installed';
  end if;
  execute $sql$ select cron.schedule('process-job-queue', '* * * * *', 'select picture_queue.maintain()') $sql$;
  execute $sql$ select cron.schedule('prune-job-queue', '* * * * *', 'select picture_queue.prune()') $sql$;
  return 'scheduled';
end
$$;
revoke execute on function picture_queue.schedule_maintenance from public, anon, authenticated, service_role;
select picture_queue.schedule_maintenance();
