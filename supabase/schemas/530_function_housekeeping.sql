-- Housekeeping: the worker that does the maintenance aggregates the counts every five seconds, and prunes old rows
-- every minute; pg_cron does both every minute. Each step processes a bounded number of rows and leaves the rest to
-- the next call.

-- Adds the rows of depth_change to depth, and its finished jobs to throughput. Jobs that finished in the last minute
-- stay in depth_change, so that counts() can return the exact number of that minute. Returns the number of rows.
create function picture_queue._aggregate_depth(p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_aggregated integer;
begin
  with taken as (
    delete from picture_queue.depth_change c
    where c.ctid = any (array(
      select o.ctid from picture_queue.depth_change o
      where o.n < 0 or o.at <= v_now - interval '1 minute' or o.status not in ('completed', 'failed', 'cancelled')
      limit p_limit for update skip locked))
    returning c.queue, c.status, c.hold, c.n, c.at
  ),
  added as (
    insert into picture_queue.depth as d (queue, status, hold, n)
    select t.queue, t.status, t.hold, sum(t.n) from taken t
    group by t.queue, t.status, t.hold having sum(t.n) <> 0
    order by t.queue, t.status, t.hold
    on conflict (queue, status, hold) do update set n = d.n + excluded.n
  ),
  finished as (
    insert into picture_queue.throughput as p (queue, minute, status, n)
    select t.queue, date_trunc('minute', t.at), t.status, sum(t.n) from taken t
    where t.n > 0 and t.at > '-infinity' and t.status in ('completed', 'failed', 'cancelled')
    group by t.queue, date_trunc('minute', t.at), t.status
    order by 1, 2, 3
    on conflict (queue, minute, status) do update set n = p.n + excluded.n
  )
  select count(*) into v_aggregated from taken;
  if v_aggregated > 0 then
    delete from picture_queue.depth d where d.n = 0;
  end if;
  return v_aggregated;
end
$$;

-- Creates the partition of the archive for the month (UTC) of p_at. It creates a table and then attaches it, which
-- does not wait for readers of the archive. If a detached partition has the name of the month, the new partition gets
-- a name with a number.
create function picture_queue._archive_partition(p_at timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_month timestamp := date_trunc('month', p_at at time zone 'UTC');
  v_name text := 'archive_' || to_char(v_month, 'YYYY_MM');
  v_suffix integer := 1;
begin
  while to_regtype(format('picture_queue.%I', v_name)) is not null or to_regclass(format('picture_queue.%I', v_name)) is not null loop
    v_suffix := v_suffix + 1;
    v_name := 'archive_' || to_char(v_month, 'YYYY_MM') || '_' || v_suffix;
  end loop;
  execute format('create table picture_queue.%I (like picture_queue.archive including all)', v_name);
  execute format('alter table picture_queue.%I enable row level security', v_name);
  perform picture_queue._revoke_grants('picture_queue.' || quote_ident(v_name));
  execute format('alter table picture_queue.archive attach partition picture_queue.%I for values from (%L) to (%L)',
    v_name, v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
end
$$;

-- Returns the partitions that _archive_partition created and whose month ended keep_archive_months ago.
create function picture_queue._old_partitions() returns table (name text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select c.relname::text from pg_catalog.pg_inherits i
  join pg_catalog.pg_class c on c.oid = i.inhrelid
  cross join picture_queue.setting s
  where i.inhparent = 'picture_queue.archive'::regclass and not i.inhdetachpending
    and c.relname ~ '^archive_[0-9]{4}_[0-9]{2}(_[0-9]+)?$'
    and c.relname < 'archive_' || to_char(
      (picture_queue._now() at time zone 'UTC') - make_interval(months => s.keep_archive_months), 'YYYY_MM')
  order by c.relname
$$;

-- Drops partitions of the archive. It is a step of _run_isolated, which records a partition in failed_step if a session
-- reads it, or if a view depends on it. Returns the number of dropped partitions.
create function picture_queue._drop_partitions(p_names text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_name text;
begin
  foreach v_name in array p_names loop
    execute format('drop table picture_queue.%I', v_name);
  end loop;
  return cardinality(p_names);
end
$$;

-- Deletes these finished jobs, except locked ones, and archives them if the setting archive is on. It creates missing
-- partitions of the archive. The idempotency key and the unique key of a deleted job can be used again. Returns the
-- number of deleted jobs.
create function picture_queue._prune_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_ids uuid[] := array(
    select j.id from public.job_queue j
    where j.id = any (p_ids) and j.finished_at is not null order by j.id for update skip locked);
  v_month timestamptz;
begin
  for v_month in
    select distinct date_trunc('month', j.finished_at, 'UTC') from public.job_queue j
    where j.id = any (v_ids) and (select s.archive from picture_queue.setting s)
  loop
    for v_try in 1..2 loop
      begin
        insert into picture_queue.archive (id, seq, queue, job_type, status, priority, payload, result, error, tags,
          metadata, tenant, batch_id, user_id, generation_id, attempt, worker, created_at, started_at, finished_at)
        select j.id, j.seq, j.queue, j.job_type, j.status, j.priority, j.payload, j.result, j.error, j.tags, j.metadata,
          j.tenant, j.batch_id, j.user_id, j.generation_id, j.attempt, j.worker, j.created_at, j.started_at, j.finished_at
        from public.job_queue j where j.id = any (v_ids) and date_trunc('month', j.finished_at, 'UTC') = v_month
        on conflict do nothing;
        exit;
      exception when check_violation then
        if v_try = 2 then
          raise;
        end if;
        perform picture_queue._archive_partition(v_month);
      end;
    end loop;
  end loop;
  return picture_queue._discard_jobs(v_ids);
end
$$;

-- Deletes up to p_limit rows that are no longer needed from each of these tables. Returns the total number of deleted
-- rows.
create function picture_queue._delete_old_rows(p_tables text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows integer;
  v_deleted integer := 0;
  v_table text;
  v_condition text;
begin
  for v_table, v_condition in
    select o.name, o.condition
    from (values
      ('throughput', 't.minute < $1 - interval ''2 days'''),
      ('external_event', 't.sent_at < $1 - interval ''1 day'''),
      ('answer', 't.at < $1 - interval ''1 day'''),
      ('start', 't.at < $1 - make_interval(secs => coalesce('
        || '(select max(r.period_seconds) from picture_queue.limit_rule r), 0))'),
      ('batch', 't.finished_at < $1 - (select make_interval(secs => greatest(s.keep_completed_seconds, '
        || 's.keep_cancelled_seconds, s.keep_failed_seconds)) from picture_queue.setting s)'),
      ('worker', 't.seen_at < $1 - interval ''1 hour'''),
      -- An extension is kept until the sweep, since it shows that the job has started.
      -- With a scalar subquery Postgres finds each job by its id, instead of reading all jobs.
      ('lease_extension', 't.lease_expires_at < $1 - interval ''1 minute'' and (select true from public.job_queue j '
        || 'where j.id = t.job_id and j.lease_id = t.lease_id and j.lease_expires_at is not null) is null'),
      ('failed_step', 't.retry_at < $1 - interval ''5 minutes'''),
      -- Delete only rows whose key is not locked: every change of such a row holds the lock.
      ('limit_key', 't.running = 0 and coalesce(t.paused_until, ''-infinity'') <= $1 '
        || 'and pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(t.key) & 1023)')
    ) as o (name, condition)
    where o.name = any (p_tables)
      and picture_queue._untrusted_reference(array[('picture_queue.' || o.name)::regclass]) is null
  loop
    execute format('delete from picture_queue.%I d where d.ctid = any (array(
      select t.ctid from picture_queue.%I t where %s limit $2 for update skip locked))', v_table, v_table, v_condition)
    using picture_queue._now(), p_limit;
    get diagnostics v_rows = row_count;
    v_deleted := v_deleted + v_rows;
  end loop;
  return v_deleted;
end
$$;

-- Prunes jobs whose retention has passed, the oldest thousand of each status at a time, for up to p_seconds. Jobs that
-- cannot be deleted, for example because a table of the project refers to them, are kept. Returns the numbers of
-- deleted rows, and more: whether there is more to prune.
create function picture_queue._prune(p_seconds real) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_start timestamptz := picture_queue._now();
  v_batch integer;
  v_pruned integer := 0;
  v_generations jsonb;
  v_result jsonb;
begin
  -- Run one call at a time, since two calls would wait for each other's locks on partitions of the archive.
  if not pg_catalog.pg_try_advisory_xact_lock(1903326071, 1) then
    return '{}'::jsonb;
  end if;
  -- If another session holds a lock on one of the tables, the steps stop waiting at this time.
  perform set_config('picture_queue.deadline', (clock_timestamp() + make_interval(secs => p_seconds + 1))::text, true);
  loop
    -- While a table of another role refers to public.job_queue, all jobs are kept (_check_references); queue_doctor()
    -- reports the table.
    v_batch := picture_queue._run_isolated('prune', array(
      select d.id::text
      from (select s.* from picture_queue.setting s
        where picture_queue._untrusted_reference(array['public.job_queue'::regclass]) is null offset 0) s
      cross join lateral (values
        ('completed', s.keep_completed_seconds), ('failed', s.keep_failed_seconds), ('cancelled', s.keep_cancelled_seconds)
      ) as k (status, seconds)
      cross join lateral (
        select j.id from public.job_queue j
        where j.status = k.status and j.finished_at < v_start - make_interval(secs => k.seconds)
          and j.id::text not in (select picture_queue._failed_subjects('prune'))
        order by j.finished_at limit 1000
      ) d), 1000);
    v_pruned := v_pruned + v_batch;
    exit when v_batch = 0 or picture_queue._now() > v_start + make_interval(secs => p_seconds);
  end loop;
  v_generations := picture_queue._prune_generations(1000);
  v_result := v_generations || jsonb_build_object('pruned', v_pruned, 'deleted_rows', picture_queue._run_isolated('table',
      '{throughput,external_event,answer,start,batch,worker,lease_extension,failed_step,limit_key}', 10000),
    'dropped_partitions', picture_queue._run_isolated('partition', array(
      select o.name from picture_queue._old_partitions() o
      where o.name not in (select picture_queue._failed_subjects('partition')) limit 12), 12), 'more', v_batch > 0
      or exists (select from jsonb_each_text(v_generations) g where g.value::integer >= 1000));
  perform set_config('picture_queue.deadline', '', true);
  return v_result;
end
$$;

-- Adds the changes of the last minutes to their accounts. The accounts stay locked until the transaction ends, and
-- starts wait for them. So it is the last step of the transaction, and the account of the project, for which every
-- start waits, is the last account.
create function picture_queue._add_old_changes() returns integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' set seq_page_cost = 100
as $$
begin
  return picture_queue._run_isolated('account', array(
    select c.key
    from (
      select distinct o.key from picture_queue.account_change o
      where o.at < picture_queue._now() - interval '1 minute'
        and o.key not in (select picture_queue._failed_subjects('account'))
      limit 1000) c
    order by c.key = 'project'), 1000);
end
$$;

-- Prunes old rows, for a job of pg_cron; maintain() does the same.
create function picture_queue.prune(p_seconds real default 2) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_result jsonb := picture_queue._prune(p_seconds);
begin
  perform picture_queue._add_old_changes();
  return v_result;
end
$$;

-- Repairs the inconsistencies that queue_doctor() finds: wrong numbers of running jobs of limit keys, if the key is
-- not locked; orphaned rows; reservations of generations that have ended or were deleted; keys whose jobs are not
-- unblocked; and wrong counts of jobs, for which it reads all jobs once. It locks only rows and keys, not tables. An
-- operator calls it over a connection to the database; no API role may call it.
create function picture_queue.repair() returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_locked text[] := picture_queue._lock_keys(array(
    select k.key from picture_queue.limit_key k
    union
    select unnest(j.slots) from public.job_queue j where j.status = 'processing' and j.hold is null));
  v_wrong_keys text[];
  v_differences integer[];
  v_children uuid[];
  v_keys integer;
  v_counts integer;
  v_settled integer;
begin
  -- Use one statement, so that running jobs, their numbers and freed_key come from one snapshot. A job that ends after
  -- this snapshot is subtracted later.
  with ended as (
    delete from picture_queue.freed_key f where f.key = any (v_locked) and f.n > 0
  ),
  counted as (
    select k.key, count(s.key)::integer - coalesce((
        select l.running from picture_queue.limit_key l where l.key = k.key order by l.version desc limit 1), 0) as n
    from unnest(v_locked) as k (key)
    left join (
      select unnest(j.slots) as key from public.job_queue j where j.status = 'processing' and j.hold is null
    ) s on s.key = k.key
    group by k.key
  )
  select array_agg(c.key), array_agg(c.n) into v_wrong_keys, v_differences from counted c where c.n <> 0;
  perform picture_queue._add_running(v_wrong_keys, v_differences);
  v_children := array(
    select d.child_id from picture_queue.dependency d
    where not exists (select from public.job_queue j where j.id = d.parent_id and j.finished_at is null)
    union
    select j.id from public.job_queue j
    where j.hold = 'waiting' and not exists (select from picture_queue.dependency d where d.child_id = j.id));
  perform picture_queue._resolve_dependents(v_children);
  insert into picture_queue.freed_key (key, n, at)
  select distinct j.blocked_on, 0, picture_queue._now() from public.job_queue j
  where j.status = 'pending' and j.blocked_on is not null and j.hold = 'blocked';
  get diagnostics v_keys = row_count;
  -- Use one statement, so that jobs and counts come from one snapshot.
  insert into picture_queue.depth_change (queue, status, hold, n, at)
  select c.queue, c.status, c.hold, sum(c.n), '-infinity'
  from (
    select j.queue, j.status, j.hold, count(*) as n from public.job_queue j group by j.queue, j.status, j.hold
    union all
    select d.queue, d.status, d.hold, -d.n from picture_queue._depths() d
  ) c
  group by c.queue, c.status, c.hold having sum(c.n) <> 0;
  get diagnostics v_counts = row_count;
  v_settled := picture_queue._settle(array(
    select l.generation_id from picture_queue.ledger l
    where l.phase = 'reserve' and not exists (
      select from picture_queue.ledger e
      where e.generation_id = l.generation_id and e.round = l.round and e.phase in ('settle', 'refund'))));
  return jsonb_build_object('slots', coalesce(cardinality(v_wrong_keys), 0), 'ready', cardinality(v_children),
    'keys', v_keys, 'counts', v_counts, 'reservations', v_settled);
end
$$;
