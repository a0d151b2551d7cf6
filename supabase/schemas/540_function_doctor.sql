-- What is wrong with the queue, and what to do about it. Each check is a function that answers a list of
-- findings {check, verdict ok | warn | bad, detail, remedy}: at least one, and looks at a bounded number
-- of rows. A remedy is a statement to paste, or a sentence.
create function picture_queue._finding(p_check text, p_verdict text, p_detail text, p_remedy text default null)
returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object('check', p_check, 'verdict', p_verdict, 'detail', p_detail, 'remedy', p_remedy)
$$;

-- The findings, or one that all is well.
create function picture_queue._findings(p_check text, p_found jsonb, p_well text) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select coalesce(p_found, jsonb_build_array(picture_queue._finding(p_check, 'ok', p_well))) $$;

-- Old snapshots: while one is held, no dead row can be cleaned up, and claims get slower.
create function picture_queue._check_xmin() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select picture_queue._findings('held snapshots', (
    select jsonb_agg(picture_queue._finding('held snapshots', case when h.age > interval '15 minutes' then 'bad' else 'warn' end,
      format('%s keeps dead rows from being cleaned up for %s seconds', h.who, round(extract(epoch from h.age))), h.remedy)
      order by h.age desc)
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
      select format('replication slot %L, which nobody reads', r.slot_name), interval '1 hour',
        format('select pg_drop_replication_slot(%L);', r.slot_name)
      from pg_catalog.pg_replication_slots r where r.xmin is not null and not r.active
      order by age desc limit 10
    ) h
    where h.age > interval '1 minute'), 'no transaction is older than a minute')
$$;

create function picture_queue._check_vacuum() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select picture_queue._findings('dead rows', (
    select jsonb_agg(picture_queue._finding('dead rows', case when t.n_dead_tup > t.n_live_tup * 2 + 100000 then 'bad' else 'warn' end,
      format('%s.%s has %s dead rows beside %s, last vacuum %s', t.schemaname, t.relname, t.n_dead_tup, t.n_live_tup,
        coalesce(greatest(t.last_vacuum, t.last_autovacuum)::text, 'never')),
      format('vacuum (analyze) %I.%I;', t.schemaname, t.relname)) order by t.n_dead_tup desc)
    from pg_catalog.pg_stat_user_tables t
    where (t.schemaname = 'picture_queue' or t.relid in ('public.job_queue'::regclass, 'public.generations'::regclass,
      'public.images'::regclass)) and t.n_dead_tup > 20000 and t.n_dead_tup > t.n_live_tup / 5), 'vacuum keeps up')
$$;

-- The indexes of job_queue without which a call reads the whole table. A test keeps the list true.
create function picture_queue._check_indexes() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with wanted (kind, name, columns, condition) as (values
    ('index', 'batch', '(batch_id, seq)', 'batch_id is not null'),
    ('index', 'blocked', '(blocked_on, hold, queue, job_type, rank, turn, seq)',
      'status = ''pending'' and blocked_on is not null'),
    ('index', 'claimable', '(queue, rank, turn, seq, job_type)', 'status = ''pending'' and hold is null'),
    ('index', 'due', '(scheduled_for)', 'hold in (''scheduled'', ''parked'')'),
    ('index', 'expiring', '(expires_at)', 'status = ''pending'' and expires_at is not null'),
    ('index', 'finished', '(status, finished_at)', 'finished_at is not null'),
    ('unique index', 'idempotency', '(idempotency_key, job_type, user_id) nulls not distinct',
      'idempotency_key is not null'),
    ('index', 'leased', '(lease_id)', 'status = ''processing'' and hold is null'),
    ('index', 'listed', '(queue, status, seq)', 'status <> ''processing'''),
    ('index', 'owned', '(user_id, seq desc)', 'user_id is not null'),
    ('index', 'parked', '(parked_on)', 'hold = ''parked'''),
    ('index', 'tenant', '(queue, tenant, rank, turn)',
      'status = ''pending'' and hold is null and tenant is not null'),
    ('unique index', 'unique', '(unique_key)', 'status = any (unique_states)')
  )
  select picture_queue._findings('indexes', (
    select jsonb_agg(p.finding) from (
      select picture_queue._finding('indexes', 'bad', format('index job_queue_%s is missing', w.name), format(
        'create %s job_queue_%s on public.job_queue %s where %s;', w.kind, w.name, w.columns, w.condition)) as finding
      from wanted w where to_regclass('public.job_queue_' || w.name) is null
      union all
      select picture_queue._finding('indexes', 'bad', format('index %s is not valid', i.indexrelid::regclass),
        format('reindex index concurrently %s;', i.indexrelid::regclass))
      from pg_catalog.pg_index i
      join pg_catalog.pg_class c on c.oid = i.indrelid
      where not (i.indisvalid and i.indisready)
        and (c.relnamespace = 'picture_queue'::regnamespace or c.oid in ('public.job_queue'::regclass,
          'public.generations'::regclass, 'public.images'::regclass))
    ) p), 'all are there and valid')
$$;

-- Rows that belong to nothing: the first 10,000 of each kind are looked at, one by one by their ids rather
-- than beside all jobs.
create function picture_queue._check_orphans() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with recursive keys as (
    (select j.blocked_on as key, 1 as n from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null order by j.blocked_on limit 1)
    union all
    select o.key, k.n + 1 from keys k
    cross join lateral (
      select j.blocked_on as key from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null and j.blocked_on > k.key order by j.blocked_on limit 1) o
    where k.n < 1000
  ),
  running as materialized (
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
    select count(*), 'dependencies on a job that is gone or finished, and nobody settles them'
    from (select * from picture_queue.dependency limit 10000) d
    where not exists (select from public.job_queue j where j.id = d.parent_id and j.finished_at is null)
      and not exists (select from picture_queue.follow_up f where f.subject in (d.parent_id, d.child_id))
    union all
    select count(*), 'limit keys whose count of running jobs does not fit the jobs'
    from counted c
    left join running r on r.key = c.key
    where c.n <> coalesce(r.n, 0)
    union all
    select count(*), 'keys that jobs wait for, that have capacity, and that nobody looks at'
    from keys k
    left join picture_queue._limits(array(select o.key from keys o)) c on c.key = k.key
    where coalesce(c.capacity, 1) > 0
      and not exists (select from picture_queue.freed_key f where f.key = k.key)
      and not exists (select from public.job_queue j where j.status = 'pending' and j.blocked_on = k.key and j.hold is null)
      and exists (select from public.job_queue j where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked')
    union all
    select count(*), 'open batches whose counts do not fit their jobs'
    from (select * from picture_queue.batch b where b.finished_at is null and b.total between 1 and 10000 limit 200) b
    where b.total - b.completed - b.failed - b.cancelled <> (
      select count(*) from public.job_queue j where j.batch_id = b.id and j.finished_at is null)
  )
  select picture_queue._findings('orphans', (
    select jsonb_agg(picture_queue._finding('orphans', 'bad', format('%s %s', f.n, f.what), case
      when f.what like 'open batches%' then 'update picture_queue.batch b set completed = b.total - b.failed - b.cancelled - o.n '
        || 'from (select j.batch_id, count(*) as n from public.job_queue j where j.finished_at is null group by 1) o '
        || 'where o.batch_id = b.id and b.finished_at is null;'
      else 'select picture_queue.repair();' end))
    from found f where f.n > 0), 'every row belongs to something')
$$;

-- Whether the counts are those of the jobs, for each state with up to 20,000 of them. One statement sees
-- both as of one moment.
create function picture_queue._check_depth() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with counted (state, n, really) as (
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
  select picture_queue._findings('counts', (
    select jsonb_agg(picture_queue._finding('counts', 'bad', format('%s jobs are counted as %s, there are %s', c.n, c.state,
      coalesce(case when c.really > 20000 then 'over 20000' else c.really::text end, 'others')), 'select picture_queue.repair();')
      order by c.state)
    from counted c where c.n < 0 or c.really <> c.n), 'the counts are those of the jobs')
$$;

-- Whether what is to go does go: jobs that are a day older than they are kept, partitions of the archive that
-- are too old, and tables that were partitions and whose month has another one now.
create function picture_queue._check_pruning() returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with problem (verdict, detail, remedy) as (
    select 'warn', format('%s jobs are kept for %s days, and one finished %s days ago%s', k.status, round(k.seconds / 86400),
        round(extract(epoch from n.now - o.finished_at) / 86400), (
          select ': these tables refer to public.job_queue and may hold it: '
            || string_agg(distinct c.conrelid::regclass::text, ', ')
          from pg_catalog.pg_constraint c
          where c.contype = 'f' and c.confrelid = 'public.job_queue'::regclass and c.confdeltype in ('a', 'r')
          having count(*) > 0)),
      format('select picture_queue._prune_jobs(array[%L::uuid]); -- tells why it stays', o.id)
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
    select 'warn', format('picture_queue.%I is older than the archive is kept', o.name), format('drop table picture_queue.%I;', o.name)
    from picture_queue._old_partitions() o
    union all
    select 'warn', format('%s is no partition of the archive', c.oid::regclass),
      'rename it, or drop it if its jobs are kept elsewhere; jobs of its month that are pruned now go to a new partition'
    from pg_catalog.pg_class c
    where c.relnamespace = 'picture_queue'::regnamespace and c.relkind = 'r' and not c.relispartition
      and c.relname ~ '^archive_[0-9]{4}_[0-9]{2}(_[0-9]+)?$'
  )
  select picture_queue._findings('pruning', (
    select jsonb_agg(picture_queue._finding('pruning', p.verdict, p.detail, p.remedy)) from problem p), 'nothing is kept for too long')
$$;
