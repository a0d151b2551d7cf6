-- The doctor's checks of Realtime, Storage and pg_cron. Tables of these may be missing, so the checks look them up by
-- name.

-- Checks that events reach their subscribers: the function that sends them, the policies, and the publication.
create function picture_queue._check_realtime() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with messages as (
    select c.oid, c.relkind, c.relrowsecurity from pg_catalog.pg_class c
    where c.oid = picture_queue._find_table('realtime.messages', true)
  )
  select 'bad', format('events are not sent: realtime.messages is not the table of Realtime, it belongs to the role %s',
      c.relowner::regrole),
    format('drop schema realtime cascade; -- after you have checked what %s keeps there', c.relowner::regrole)
  from pg_catalog.pg_class c
  where c.oid = to_regclass('realtime.messages') and not exists (select from messages)
  union all
  select 'bad', 'events are not sent: Realtime was missing when picture-queue was installed',
    'apply supabase/schemas/950_supabase_realtime.sql of picture-queue'
  from messages where not exists (select from pg_catalog.pg_proc p
    where p.oid = to_regproc('picture_queue._broadcast') and p.prosrc like '%realtime.messages%')
  union all
  select 'bad', 'every user can read every private topic: realtime.messages has no row level security',
    'alter table realtime.messages enable row level security;'
  from messages where not relrowsecurity
  union all
  select 'bad', 'users cannot read their own topic: its policy is missing',
    'create policy "picture_queue: read own topics" on realtime.messages for select to authenticated using '
      || '(extension = ''broadcast'' and topic = ''pq:user:'' || (select auth.uid())::text '
      || 'and topic = (select realtime.topic()));'
  from messages m where not exists (select from pg_catalog.pg_policy p
    where p.polrelid = m.oid and p.polname = 'picture_queue: read own topics')
  union all
  select 'warn', 'realtime.messages has no partition for today: events are lost until a client connects',
    'open a channel, as a watch or this doctor does; Realtime then creates the partition'
  from messages m where m.relkind = 'p' and not exists (
    select from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = m.oid and c.relname = 'messages_' || to_char(picture_queue._now() at time zone 'utc', 'YYYY_MM_DD'))
  union all
  select 'bad', 'publication supabase_realtime_messages_publication lacks realtime.messages: no event is delivered',
    'restart Realtime in the project''s settings'
  from messages
  where exists (select from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime_messages_publication')
    and not exists (select from pg_catalog.pg_publication_tables t
      where t.pubname = 'supabase_realtime_messages_publication' and t.schemaname = 'realtime')
  union all
  select 'warn', format('publication supabase_realtime also sends every change of %s, with a check for each subscriber',
    array_to_string(p.tables, ', ')),
    format('alter publication supabase_realtime drop table public.%s;', array_to_string(p.tables, ', public.'))
  from (
    select array_agg(t.tablename::text order by t.tablename) as tables from pg_catalog.pg_publication_tables t
    where t.pubname = 'supabase_realtime' and t.schemaname = 'public'
      and t.tablename in ('job_queue', 'generations', 'images')
  ) p
  where p.tables is not null
  union all
  select 'ok', 'there is no Realtime: watches poll', null where to_regclass('realtime.messages') is null
$$;

create function picture_queue._check_storage() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_public boolean;
begin
  if to_regclass('storage.buckets') is null then
    return query select 'ok', 'there is no Storage: pictures are not stored', null;
    return;
  elsif picture_queue._find_table('storage.buckets', true) is null then
    return query
    select 'bad', format('storage.buckets is not the table of Storage: it belongs to the role %s', c.relowner::regrole),
      format('drop schema storage cascade; -- after you have checked what %s keeps there', c.relowner::regrole)
    from pg_catalog.pg_class c where c.oid = to_regclass('storage.buckets');
    return;
  end if;
  execute 'select b.public from storage.buckets b where b.id = ''pictures''' into v_public;
  if v_public is null then
    return query select 'bad', 'bucket pictures is missing: no picture can be stored',
      'insert into storage.buckets (id, name, public) values (''pictures'', ''pictures'', false);';
  elsif v_public then
    return query select 'bad', 'bucket pictures is public: anyone with a URL can see the picture',
      'update storage.buckets set public = false where id = ''pictures'';';
  elsif not exists (select from pg_catalog.pg_policy p
    where p.polrelid = to_regclass('storage.objects') and p.polname = 'picture_queue: read own pictures')
  then
    return query select 'bad', 'users cannot read their own pictures: the policy is missing',
      'create policy "picture_queue: read own pictures" on storage.objects for select to authenticated using '
      || '(bucket_id = ''pictures'' and (storage.foldername(name))[1] = (select auth.uid())::text '
      || 'and picture_queue.may_read_picture(name));';
  elsif not exists (select from pg_catalog.pg_trigger t
    where t.tgrelid = to_regclass('storage.objects') and t.tgname = 'picture_queue_limit_uploads'
      and t.tgenabled <> 'D')
  then
    return query select 'warn', 'signed upload URLs can exceed max_user_uploads: the trigger is missing or disabled',
      'create or replace trigger picture_queue_limit_uploads before insert or update of bucket_id, name '
      || 'on storage.objects for each row '
      || 'when (new.bucket_id = ''uploads'' and starts_with(new.name, new.owner_id || ''/'')) '
      || 'execute function picture_queue._limit_uploads(); -- as a role with the privilege TRIGGER on the table';
  end if;
end
$$;

-- Checks the last run of each of our pg_cron jobs, and the size of pg_cron's list of runs.
create function picture_queue._check_cron_runs() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  -- The names of the tables are not in the text of the query, since without pg_cron a linter would report missing
  -- tables.
  v_job_table regclass := picture_queue._find_table('cron.job');
  v_run_table regclass := picture_queue._find_table('cron.job_run_details');
begin
  if v_run_table is null then
    return;
  end if;
  return query execute format($sql$
    select case when d.status is null then 'warn' when d.status = 'failed' then 'bad' else 'ok' end,
      case when d.status is null then j.jobname || ' has not run yet'
        else format('%%s: the last run, at %%s, %%s%%s', j.jobname, to_char(d.start_time, 'YYYY-MM-DD HH24:MI:SSOF'), d.status,
          case when d.status = 'failed' then ': ' || coalesce(d.return_message, '') else '' end) end,
      case when d.status is null then 'wait a minute; if nothing changes, check that cron.database_name is this database'
        when d.status = 'failed' then 'run it by hand to see why: ' || j.command end
    from %s j
    left join lateral (
      select r.status, r.start_time, r.return_message from %s r
      where r.jobid = j.jobid and r.status in ('succeeded', 'failed') order by r.runid desc limit 1) d on true
    where j.active and j.jobname in ('process-job-queue', 'prune-job-queue') order by j.jobname
  $sql$, v_job_table, v_run_table);
  return query
  select 'warn', format('cron.job_run_details has %s rows, and old ones are not deleted', round(c.reltuples)),
    'delete from cron.job_run_details where end_time < now() - interval ''7 days'';'
  from pg_catalog.pg_class c where c.oid = v_run_table and c.reltuples > 100000;
end
$$;

-- Checks that pg_cron calls the worker, and the answer to the last call. No finding has the URL or the secret.
create function picture_queue._check_worker_calls() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_job_table regclass := picture_queue._find_table('cron.job');
  v_response_table regclass := picture_queue._find_table('net._http_response', true);
  v_is_scheduled boolean := false;
  v_status integer;
  v_timed_out boolean;
  v_error text;
begin
  if (picture_queue._vault_secret('picture_queue_worker_url')).secret is null then
    return query select 'ok', 'not set up: workers claim jobs by themselves', null;
    return;
  elsif (picture_queue._vault_secret('picture_queue_worker_secret')).secret is null then
    return query select 'bad', 'the worker is not called: Vault has no secret picture_queue_worker_secret',
      'select picture_queue.schedule_worker_calls(''<URL of /process-jobs>'', ''<PICTURE_QUEUE_PROCESS_SECRET>'');';
    return;
  elsif not picture_queue._trusts_function('net', 'http_post') then
    return query select 'bad', 'the worker is not called: pg_net is not installed', 'create extension pg_net;';
    return;
  end if;
  if v_job_table is not null then
    execute format('select count(*) > 0 from %s where active and jobname = $1 and command like $2', v_job_table)
    into v_is_scheduled using 'process-job-queue', '%picture_queue.call_worker()%';
  end if;
  if not v_is_scheduled then
    return query select 'bad', 'the worker is not called: pg_cron is not installed, or process-job-queue does not call it',
      'create extension if not exists pg_cron; select picture_queue.schedule_maintenance();';
    return;
  elsif v_response_table is not null then
    execute format('select r.status_code, r.timed_out, r.error_msg from %s r '
      'where r.id = (select m.worker_call_id from picture_queue.maintenance m)', v_response_table)
    into v_status, v_timed_out, v_error;
  end if;
  return query select case when v_status between 200 and 299 or v_timed_out or v_status is null and v_error is null
      then 'ok' else 'bad' end, case
      when v_timed_out then 'the last call was sent, and its jobs ran longer than the call waits'
      when v_status is not null then 'the last call was answered with status ' || v_status
      when v_error is not null then 'the last call failed: ' || left(v_error, 200)
      else 'no answer of the last six hours is known' end, case
      when v_status in (401, 403) then 'set PICTURE_QUEUE_PROCESS_SECRET of the worker to picture_queue_worker_secret of Vault'
      when v_status is not null and v_status not between 200 and 299 or v_error is not null and not v_timed_out
        then 'check that the URL in Vault is the route /process-jobs of a running worker' end;
end
$$;
