-- The doctor (queue_doctor) finds problems and proposes remedies. Each check is a function that returns findings and
-- reads a bounded number of rows.
create type picture_queue.finding as (
  verdict text,            -- ok, warn, bad
  detail text,
  remedy text              -- a statement to run, or a sentence
);

-- Runs all checks. A check without findings gives a finding with the verdict ok. A check that raises an error gives a
-- warning; for example, it waits at most 0.1 seconds for a locked table. client_time: the time of the clock of the
-- caller.
create function public.queue_doctor(client_time timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
  v_check record;
  v_findings jsonb;
  v_all_findings jsonb := '[]'::jsonb;
  v_lacks_index boolean := false;
begin
  for v_check in
    select * from (values
      ('held snapshots', '_check_snapshots', 'no transaction is older than a minute', false),
      ('locks', '_check_locks', 'no session keeps a lock of the queue', false),
      ('dead rows', '_check_vacuum', 'vacuum keeps up', false),
      ('indexes', '_check_indexes', 'all indexes exist and are valid', false),
      ('orphans', '_check_orphans', 'no row is orphaned', true),
      ('counts', '_check_depth', 'the counts match the jobs', true),
      ('overdue jobs', '_check_overdue', 'no job is overdue by more than a minute', true),
      ('pruning', '_check_pruning', 'no job is kept for too long', true),
      ('failed steps', '_check_failed_steps', 'no step fails', true),
      ('privileges', '_check_privileges', 'every table has row level security, and every role has its privileges only', false),
      ('exposure', '_check_exposure', 'users reach only their own rows, within limits of time and number', false),
      ('maintenance', '_check_maintenance', null, false),
      ('pg_cron', '_check_cron', null, false),
      ('pg_cron runs', '_check_cron_runs', null, false),
      ('worker calls', '_check_worker_calls', null, false),
      ('realtime in SQL', '_check_realtime', 'events are sent to private topics, and users receive their own', false),
      ('storage', '_check_storage', 'bucket pictures is private, and users read their own folder', false),
      ('settings', '_check_settings', 'the settings are suitable', false),
      ('postgres', null, 'version ' || current_setting('server_version'), false),
      ('clock', '_check_clock', null, false)
    ) as c (name, function, ok_detail, reads_jobs)
  loop
    -- Without an index a check would read the whole table several times.
    continue when v_check.reads_jobs and v_lacks_index;
    v_findings := null;
    begin
      if v_check.function is not null then
        execute format('select jsonb_agg(f) from picture_queue.%I(%s) f', v_check.function,
          case v_check.name when 'clock' then '$1' end)
        into v_findings using client_time;
      end if;
    exception when others then
      v_findings := jsonb_build_array(jsonb_build_object('verdict', 'warn',
        'detail', format('it could not be checked (SQLSTATE %s): %s', sqlstate, sqlerrm),
        'remedy', 'check for a lock or a missing privilege; if there is none, report this as a bug of picture-queue'));
    end;
    v_findings := coalesce(v_findings, case when v_check.ok_detail is null then '[]'
      else jsonb_build_array(jsonb_build_object('verdict', 'ok', 'detail', v_check.ok_detail, 'remedy', null)) end);
    v_lacks_index := v_lacks_index or v_check.name = 'indexes' and v_findings @> '[{"verdict": "bad"}]';
    v_all_findings := v_all_findings || (
      select coalesce(jsonb_agg(jsonb_build_object('check', v_check.name) || f), '[]') from jsonb_array_elements(v_findings) f);
  end loop;
  return v_all_findings || case when v_lacks_index then jsonb_build_array(jsonb_build_object('check', 'jobs', 'verdict', 'warn',
    'detail', 'not checked while an index is missing', 'remedy', 'create the indexes, and run the doctor again')) else '[]' end;
end
$$;
comment on function public.queue_doctor is 'Checks the queue; returns findings with their remedies.';

-- Finds old snapshots: while a session holds one, vacuum cannot remove dead rows, and claims get slower.
create function picture_queue._check_snapshots() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when h.age > interval '15 minutes' then 'bad' else 'warn' end,
    format('%s has kept vacuum from removing dead rows for %s seconds', h.who, round(extract(epoch from h.age))), h.remedy
  from (
    select format('session %s (%s, %s)', a.pid, a.usename, coalesce(a.state, 'state hidden')) as who,
      picture_queue._now() - coalesce(a.xact_start, a.backend_start) as age,
      format('select pg_terminate_backend(%s);', a.pid) as remedy
    from pg_catalog.pg_stat_activity a
    where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
      and (a.backend_xmin is not null or a.backend_xid is not null)
    union all
    select format('prepared transaction %L', p.gid), picture_queue._now() - p.prepared, format('rollback prepared %L;', p.gid)
    from pg_catalog.pg_prepared_xacts p where p.database = current_database()
    union all
    -- The age of a slot is unknown; an hour makes the finding bad.
    select format('inactive replication slot %L', r.slot_name), interval '1 hour',
      format('select pg_drop_replication_slot(%L);', r.slot_name)
    from pg_catalog.pg_replication_slots r where r.xmin is not null and not r.active
    order by age desc limit 10
  ) h
  where h.age > interval '1 minute'
  order by h.age desc
$$;

-- Finds sessions that have held an advisory lock of the queue for ten seconds. Our functions hold such locks only
-- until their transaction ends.
create function picture_queue._check_locks() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'bad', format('session %s (%s, %s) has held a lock of the queue for %s seconds', a.pid, a.usename,
      coalesce(a.state, 'state hidden'), round(extract(epoch from held.age))),
    format('select pg_terminate_backend(%s);', a.pid)
  from pg_catalog.pg_stat_activity a
  cross join lateral (select picture_queue._now() - coalesce(a.xact_start, a.state_change, a.backend_start) as age) held
  where a.pid <> pg_backend_pid() and held.age > interval '10 seconds' and a.pid in (
    select l.pid from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.granted and l.classid between 1903326067 and 1903326079
      and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))
  order by held.age desc limit 10
$$;

-- Finds tables that vacuum does not keep free of dead rows.
create function picture_queue._check_vacuum() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when t.n_dead_tup > t.n_live_tup * 2 + 100000 then 'bad' else 'warn' end,
    format('%s.%s has %s dead rows and %s live rows, last vacuum %s', t.schemaname, t.relname, t.n_dead_tup, t.n_live_tup,
      coalesce(greatest(t.last_vacuum, t.last_autovacuum)::text, 'never')),
    format('vacuum (analyze) %I.%I;', t.schemaname, t.relname)
  from pg_catalog.pg_stat_user_tables t
  where t.relid in (select o.oid from picture_queue._our_tables() o)
    and t.n_dead_tup > 20000 and t.n_dead_tup > t.n_live_tup / 5
  order by t.n_dead_tup desc limit 20
$$;

-- Finds missing indexes of job_queue, without which calls read the whole table. A test compares this list with the
-- schema.
create function picture_queue._check_indexes() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with wanted (kind, name, columns, condition) as (values
    ('index', 'batch', '(batch_id, seq)', 'batch_id is not null'),
    ('index', 'blocked', '(blocked_on, hold, queue, job_type, rank, turn, seq)',
      'status = ''pending'' and blocked_on is not null'),
    ('index', 'claimable', '(queue, rank, turn, seq, job_type) with (deduplicate_items = off)',
      'status = ''pending'' and hold is null'),
    ('index', 'due', '(scheduled_for)', 'hold in (''scheduled'', ''parked'')'),
    ('index', 'expiring', '(expires_at)', 'status = ''pending'' and expires_at is not null'),
    ('index', 'finished', '(status, finished_at)', 'finished_at is not null'),
    ('unique index', 'idempotency', '(idempotency_key, job_type, user_id) nulls not distinct',
      'idempotency_key is not null'),
    ('index', 'leased', '(lease_id)', 'status = ''processing'' and hold is null'),
    ('index', 'listed', '(queue, status, seq) with (deduplicate_items = off)', 'status <> ''processing'''),
    ('index', 'owned', '(user_id, seq desc)', 'user_id is not null'),
    ('index', 'parked', '(parked_on, parked_at)', 'hold = ''parked'''),
    ('index', 'tenant', '(queue, tenant, rank, turn)',
      'status = ''pending'' and hold is null and tenant is not null'),
    ('unique index', 'unique', '(unique_key)', 'status = any (unique_states)')
  )
  select 'bad', format('index job_queue_%s is missing', w.name),
    format('create %s job_queue_%s on public.job_queue %s where %s;', w.kind, w.name, w.columns, w.condition)
  from wanted w where to_regclass('public.job_queue_' || w.name) is null
  union all
  select 'bad', format('index %s is not valid', i.indexrelid::regclass),
    format('reindex index concurrently %s;', i.indexrelid::regclass)
  from pg_catalog.pg_index i
  where not (i.indisvalid and i.indisready) and i.indrelid in (select o.oid from picture_queue._our_tables() o)
$$;

-- Finds orphaned rows among the first 10,000 of each kind. It searches jobs by id and without joins, so that Postgres
-- never reads the whole table of jobs.
create function picture_queue._check_orphans() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with running as materialized (
    select s.key, count(*) as n
    from public.job_queue j
    cross join lateral unnest(j.slots) as s (key)
    where j.status = 'processing' and j.hold is null
    group by s.key
  ),
  counted as (
    select l.key, l.running - coalesce((select sum(f.n) from picture_queue.freed_key f where f.key = l.key), 0) as n
    from (select * from picture_queue.limit_key limit 1000) l
    union all
    select r.key, 0 from running r where not exists (select from picture_queue.limit_key l where l.key = r.key)
  ),
  found (n, what) as (
    select count(*), 'dependencies on a missing or finished job, which no follow-up resolves'
    from (select * from picture_queue.dependency limit 10000) d
    where not exists (select from public.job_queue j where j.id = d.parent_id and j.finished_at is null)
      and not exists (select from picture_queue.follow_up f where f.subject in (d.parent_id, d.child_id))
    union all
    select count(*), 'limit keys with a wrong count of running jobs'
    from counted c
    left join running r on r.key = c.key
    where c.n <> coalesce(r.n, 0)
    union all
    select count(*), 'limit keys that have capacity, but whose waiting jobs are not unblocked'
    from picture_queue._blocking_keys(1000) as k (key)
    left join picture_queue._key_states(array(select picture_queue._blocking_keys(1000))) c on c.key = k.key
    where coalesce(c.capacity, 1) > 0
      and not exists (select from picture_queue.freed_key f where f.key = k.key)
      and not exists (select from public.job_queue j where j.status = 'pending' and j.blocked_on = k.key and j.hold is null)
      and exists (select from public.job_queue j where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked')
    union all
    select count(*), 'open batches whose counts do not match their jobs'
    from (select * from picture_queue.batch b where b.finished_at is null and b.total between 1 and 10000 limit 200) b
    where b.total - b.completed - b.failed - b.cancelled <> (
      select count(*) from public.job_queue j where j.batch_id = b.id and j.finished_at is null)
  )
  select 'bad', format('%s %s', f.n, f.what), case
    when f.what like 'open batches%' then 'update picture_queue.batch b set completed = b.total - b.failed - b.cancelled - o.n '
      || 'from (select j.batch_id, count(*) as n from public.job_queue j where j.finished_at is null group by 1) o '
      || 'where o.batch_id = b.id and b.finished_at is null;'
    else 'select picture_queue.repair();' end
  from found f where f.n > 0
$$;

-- Compares the counts with the jobs, for each state with up to 20,000 jobs. It uses one statement, so that both come
-- from one snapshot.
create function picture_queue._check_depth() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with counted (state, n, actual) as (
    select d.state, d.n, case when d.n not between 0 and 20000 then null else case d.state
      when 'pending' then (select count(*) from (select from public.job_queue j
        where j.status = 'pending' and j.hold is null limit 20001) c)
      when 'scheduled' then (select count(*) from (select from public.job_queue j where j.hold = 'scheduled' limit 20001) c)
      when 'blocked' then (select count(*) from (select from public.job_queue j
        where j.status = 'pending' and j.blocked_on is not null and j.hold = 'blocked' limit 20001) c)
      when 'parked' then (select count(*) from (select from public.job_queue j where j.hold = 'parked' limit 20001) c)
      when 'processing' then (select count(*) from (select from public.job_queue j
        where j.status = 'processing' and j.hold is null limit 20001) c)
      else (select count(*) from (select from public.job_queue j
        where j.status = d.state and j.finished_at is not null order by j.finished_at limit 20001) c) end end
    from (
      select s.state, coalesce(sum(p.n), 0) as n
      from unnest(array['pending', 'scheduled', 'blocked', 'parked', 'processing', 'completed', 'failed', 'cancelled']) s (state)
      left join picture_queue._depths() p on coalesce(p.hold, p.status) = s.state
      group by s.state
    ) d
  )
  select 'bad', format('the count of %s jobs is %s, the real number is %s', c.state, c.n,
    coalesce(case when c.actual > 20000 then 'over 20000' else c.actual::text end, 'unknown')), 'select picture_queue.repair();'
  from counted c where c.n < 0 or c.actual <> c.n order by c.state
$$;

-- Finds jobs and partitions of the archive that pruning should have deleted: jobs a day after the end of their
-- retention, and partitions after keep_archive_months. It also finds detached partitions of the archive.
create function picture_queue._check_pruning() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'warn', format('%s jobs are kept for %s days, and one finished %s days ago%s', k.status, round(k.seconds / 86400),
      round(extract(epoch from n.now - o.finished_at) / 86400), (
        select ': these tables refer to public.job_queue and may prevent its deletion: '
          || string_agg(distinct c.conrelid::regclass::text, ', ')
        from pg_catalog.pg_constraint c
        where c.contype = 'f' and c.confrelid = 'public.job_queue'::regclass and c.confdeltype in ('a', 'r')
        having count(*) > 0)),
    format('select picture_queue._prune_jobs(array[%L::uuid]); -- its error is the reason', o.id)
  from picture_queue.setting s
  cross join (select picture_queue._now() as now offset 0) n
  cross join lateral (values
    ('completed', s.keep_completed_seconds), ('failed', s.keep_failed_seconds), ('cancelled', s.keep_cancelled_seconds)
  ) as k (status, seconds)
  cross join lateral (
    select j.id, j.finished_at from public.job_queue j
    where j.status = k.status and j.finished_at < n.now - make_interval(secs => k.seconds) - interval '1 day'
    order by j.finished_at limit 1) o
  union all
  select 'warn', format('picture_queue.%I is older than keep_archive_months', o.name), format('drop table picture_queue.%I;', o.name)
  from picture_queue._old_partitions() o
  union all
  select 'warn', format('%s is not a partition of the archive', c.oid::regclass),
    'rename it, or drop it if its jobs are kept elsewhere; pruned jobs of its month go to a new partition'
  from pg_catalog.pg_class c
  where c.relnamespace = 'picture_queue'::regnamespace and c.relkind = 'r' and not c.relispartition
    and c.relname ~ '^archive_[0-9]{4}_[0-9]{2}(_[0-9]+)?$'
$$;
