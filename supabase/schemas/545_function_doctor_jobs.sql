-- The doctor's checks of the jobs, the maintenance, the privileges and the settings.

-- Finds jobs that have been claimable for over a minute, in up to 20 queues; expired leases that were not swept; and
-- due jobs that were not promoted.
create function picture_queue._check_overdue() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with due as (
    select q.name, q.pause_reason, q.paused_until > picture_queue._now() as paused, picture_queue._now() - o.at as age,
      (select j.job_type from public.job_queue j
        where j.queue = q.name and j.status = 'pending' and j.hold is null order by j.rank, j.turn, j.seq limit 1) as job_type
    from picture_queue.queue q
    cross join lateral (select picture_queue._oldest_due(q.name) as at) o
    where o.at < picture_queue._now() - interval '1 minute'
    order by o.at limit 20
  ),
  late (n, what) as (
    select count(*), 'jobs have a lease that expired over a minute ago and was not swept'
    from (select from public.job_queue j where j.status = 'processing' and j.hold is null
      and j.lease_expires_at < (select picture_queue._now() - interval '1 minute') and not exists (
        select from picture_queue.lease_extension x
        where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > (select picture_queue._now()))
      limit 1000) l
    union all
    select count(*), 'jobs became due over a minute ago and were not promoted'
    from (select from public.job_queue j where j.hold in ('scheduled', 'parked')
      and j.scheduled_for < (select picture_queue._now() - interval '1 minute') order by j.scheduled_for limit 1000) s
  )
  select case when j.paused then 'warn' else 'bad' end,
    format('queue %s: a job has waited for %s seconds; %s', j.name, round(extract(epoch from j.age)), case
      when j.paused then 'the queue is paused' || coalesce(': ' || j.pause_reason, '')
      when not w.has_worker then format('no worker for job type %s was seen in the last minute', j.job_type)
      else 'its workers do not keep up' end),
    case when j.paused then format('select public.resume_queue(%L);', j.name)
      when not w.has_worker then format('start a worker for queue %s with a handler for %s', j.name, j.job_type)
      else format('start more workers; select public.desired_workers(%L); returns their number', j.name) end
  from due j
  cross join lateral (select exists (
    select from picture_queue.worker w where j.name = any (w.queues) and j.job_type = any (w.job_types)
      and w.seen_at > picture_queue._now() - interval '1 minute') as has_worker) w
  union all
  select 'bad', format('%s %s', case when l.n = 1000 then '1000 or more' else l.n::text end, l.what),
    'select picture_queue.maintain();'
  from late l where l.n > 0
$$;

-- Finds the privileges on our objects that 900_grants.sql does not grant, one finding for each role and privilege. It
-- leaves out the privileges of anon and authenticated on functions and tables, which other checks find, including
-- inherited privileges.
create function picture_queue._excess_grants() returns table (detail text, remedy text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with excess as (
    select g.role, g.privilege, coalesce('column ' || quote_ident(g."column") || ' of ', '') || g.name as shown,
      picture_queue._revoke_statement(
        case when g.is_expected then 'grant option for ' else '' end || lower(g.privilege), g."column", g.kind, g.name, g.role)
        as remedy
    from (
      select g.*, g."column" is null and case g.kind
        when 'schema' then g.privilege = 'USAGE' and g.role in ('authenticated', 'service_role')
        when 'table' then g.privilege = 'SELECT' and (
          g.role in ('authenticated', 'service_role') and g.name in ('public.job_queue', 'public.generations', 'public.images')
          or g.role = 'service_role' and g.name in ('public.queue_health', 'public.failed_jobs_recent', 'public.stuck_jobs',
            'picture_queue.queue', 'picture_queue.worker'))
        when 'function' then g.role = 'service_role' and (f.is_public
            or p.proname = any (picture_queue._user_functions() || '{maintain,prune,counts}'::text[]))
          or g.role = 'authenticated' and p.proname = any (picture_queue._user_functions())
        else false end as is_expected
      from picture_queue._grants() g
      left join picture_queue._our_functions() f on g.kind = 'function' and f.oid = g.object
      left join pg_catalog.pg_proc p on p.oid = f.oid
    ) g
    where (g.is_grantable or not g.is_expected)
      and not (g.kind = 'function' and not g.is_grantable and g.role in ('public', 'anon', 'authenticated'))
      and not (g.kind = 'table' and g."column" is null and not g.is_grantable and g.role in ('anon', 'authenticated')
        and g.privilege in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
        and g.object in (select t.oid from picture_queue._our_tables() t))
  )
  select format('role %s has the privilege %s on %s%s', e.role, lower(e.privilege), (array_agg(e.shown order by e.shown))[1],
      case when count(*) > 1 then format(' and %s others', count(*) - 1) end),
    string_agg(e.remedy, ' ' order by e.shown)
  from excess e group by e.role, e.privilege
$$;

create function picture_queue._check_privileges() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select c.oid, c.oid::regclass as name, c.relrowsecurity as rls, c.relnamespace = 'public'::regnamespace as is_public
    from picture_queue._our_tables() c
  ),
  problem (detail, remedy) as (
    select format('table %s has no row level security', t.name), format('alter table %s enable row level security;', t.name)
    from tables t where not t.rls
    union all
    select format('%s may write or read %s', r.name, t.name), format('revoke all on %s from %I;', t.name, r.name)
    from tables t, (values ('anon'), ('authenticated')) r (name)
    where has_table_privilege(r.name, t.oid, case when t.is_public and r.name = 'authenticated'
      then 'insert, update, delete, truncate' else 'select, insert, update, delete, truncate' end)
    union all
    select format('service_role may not read %s', t.name), format('grant select on %s to service_role;', t.name)
    from tables t where t.is_public and not has_table_privilege('service_role', t.oid, 'select')
    union all
    select format('anon may execute %s', f.oid::regprocedure),
      format('revoke execute on function %s from public, anon;', f.oid::regprocedure)
    from picture_queue._our_functions() f where has_function_privilege('anon', f.oid, 'execute')
    union all
    select format('service_role may not execute %s', f.oid::regprocedure),
      format('grant execute on function %s to service_role;', f.oid::regprocedure)
    from picture_queue._our_functions() f where f.is_public and not has_function_privilege('service_role', f.oid, 'execute')
    union all
    select 'service_role may not use schema picture_queue', 'grant usage on schema picture_queue to service_role;'
    where not has_schema_privilege('service_role', 'picture_queue', 'usage')
    union all
    select e.detail, e.remedy from picture_queue._excess_grants() e
  )
  select 'bad', p.detail, p.remedy from problem p order by p.detail limit 100
$$;

create function picture_queue._check_maintenance() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when a.age <= 300 then 'ok' when a.age > 3600 then 'bad' else 'warn' end,
    case when a.age <= 300 then format('done %s seconds ago', greatest(a.age, 0))
      else coalesce('not done for ' || a.age || ' seconds', 'never done') end,
    case when a.age <= 300 then null
      else 'select picture_queue.maintain(); -- a running worker or pg_cron does it each minute' end
  from (
    select round(extract(epoch from picture_queue._now() - nullif(m.round_began_at, '-infinity'))) as age
    from picture_queue.maintenance m) a
$$;

create function picture_queue._check_cron() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron regclass := picture_queue._find_table('cron.job');
  v_active_jobs bigint;
begin
  if v_cron is null then
    return query select 'ok', 'not installed: the workers do the maintenance', null;
    return;
  end if;
  execute format('select count(*) from %s where active and jobname = any ($1)', v_cron)
  into v_active_jobs using array['process-job-queue', 'prune-job-queue'];
  return query select case when v_active_jobs = 2 then 'ok' else 'warn' end, case
    when v_active_jobs = 2 then 'process-job-queue and prune-job-queue are scheduled'
    else 'process-job-queue or prune-job-queue is not scheduled, or not active' end,
    case when v_active_jobs <> 2 then 'select picture_queue.schedule_maintenance();' end;
end
$$;

-- Finds steps that failed for a job, batch, key or schedule; refused callbacks; and schedules whose latest tick
-- enqueued no job.
create function picture_queue._check_failed_steps() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  (select 'bad', format('%s %s failed %s times since %s: %s', case f.kind
      when 'claim' then 'starting job' when 'promote' then 'promoting job' when 'sweep' then 'sweeping job'
      when 'abandon' then 'expiring job' when 'unblock' then 'unblocking job' when 'resolve' then 'resolving dependent'
      when 'prune' then 'pruning job' when 'report' then 'writing the outcome of job' when 'cancel' then 'cancelling job'
      when 'retry' then 'retrying job' when 'discard' then 'discarding job' when 'purge' then 'cancelling job'
      when 'wake' then 'waking job' when 'renumber' then 'renumbering job'
      when 'callback' then 'enqueuing the callback of batch' when 'partition' then 'dropping partition' else format('step %s for', f.kind) end,
    f.subject, f.failures, f.first_at, f.last_error), case
    when f.kind in ('report', 'cancel', 'retry', 'discard', 'purge', 'renumber')
      then 'check your own triggers and constraints on public.job_queue and public.generations, then repeat the call'
    when f.kind in ('claim', 'promote', 'sweep', 'abandon', 'unblock', 'resolve', 'prune', 'wake')
      then 'check your own triggers and constraints on public.job_queue; the step is retried at ' || f.retry_at
    else 'the step is retried at ' || f.retry_at end
  from picture_queue.failed_step f order by f.failures desc, f.subject limit 20)
  union all
  (select 'warn', format('the callback of batch %s was refused: %s', b.id, b.callback_error),
    format('enqueue it yourself; select public.get_batch(%L); returns it', b.id)
  from picture_queue.batch b
  where b.finished_at > picture_queue._now() - interval '1 day' and b.callback_error is not null
  order by b.finished_at desc limit 10)
  union all
  (select 'warn', format('the latest tick of schedule %s enqueued no job: %s', s.name, s.last_error),
    format('select public.set_schedule(%L, …); -- with valid values', s.name)
  from picture_queue.schedule s where s.last_error is not null order by s.name limit 10)
$$;

create function picture_queue._check_settings() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'bad', format('%s is off', s.name), format('alter system set %I = on; select pg_reload_conf();', s.name)
  from pg_catalog.pg_settings s where s.name in ('autovacuum', 'track_counts') and s.setting = 'off'
  union all
  select 'bad', format('autovacuum is off for %s', c.oid::regclass), format('alter table %s reset (autovacuum_enabled);', c.oid::regclass)
  from pg_catalog.pg_class c
  where c.oid in ('public.job_queue'::regclass, 'picture_queue.depth_change'::regclass)
    and array_to_string(c.reloptions, ',') ~ 'autovacuum_enabled=(false|off|no|0)'
  union all
  select 'warn', format('lease_seconds is %s: a busy worker may fail to extend its leases in time', s.lease_seconds),
    'select public.set_setting(''{"lease_seconds": 30}'');'
  from picture_queue.setting s where s.lease_seconds < 10
  union all
  (select 'warn', format('queue %s has lease_seconds %s: a busy worker may fail to extend its leases in time', q.name, q.lease_seconds),
    format('select public.set_queue(%L, ''{"lease_seconds": null}'');', q.name)
  from picture_queue.queue q where q.lease_seconds < 10 order by q.name limit 20)
  union all
  select 'warn', 'finished jobs are kept for over a year in the table that claims read',
    'select public.set_setting(''{"archive": true, "keep_completed_seconds": 604800}'');'
  from picture_queue.setting s where greatest(s.keep_completed_seconds, s.keep_failed_seconds, s.keep_cancelled_seconds) > 31622400
$$;

create function picture_queue._check_clock(p_client_time timestamptz) returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when c.difference > 60 then 'bad' when c.difference > 5 then 'warn' else 'ok' end,
    case when c.difference is null then 'not compared: pass client_time'
      else format('the caller''s clock differs by %s seconds, including the network delay', round(c.difference, 1)) end,
    case when c.difference > 5
      then 'synchronise the clock of that machine by NTP; times that it sends, such as scheduled_for, are wrong by as much' end
  from (select abs(extract(epoch from picture_queue._now() - p_client_time)) as difference) c
$$;
