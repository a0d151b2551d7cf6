-- Housekeeping: run by whichever worker asks first in a minute, and by pg_cron where it is. Every step
-- takes a bounded number of rows; what is left is for the next time.

-- Adds up what changed: counts into depth, finished jobs into throughput. What finished in the last
-- minute stays as it is, so that counts() can tell the minute exactly. Returns how many rows.
create function picture_queue._fold_depth(p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_folded integer;
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
  select count(*) into v_folded from taken;
  delete from picture_queue.depth d where d.n = 0;
  return v_folded;
end
$$;

-- Makes the partition of the archive for the month (UTC) of p_at, if it is not there. Made first and then
-- attached, which waits for nobody who reads the archive.
create function picture_queue._archive_partition(p_at timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_month timestamp := date_trunc('month', p_at at time zone 'UTC');
  v_name text := 'archive_' || to_char(v_month, 'YYYY_MM');
begin
  if to_regclass(format('picture_queue.%I', v_name)) is null then
    execute format('create table picture_queue.%I (like picture_queue.archive including all)', v_name);
    execute format('alter table picture_queue.%I enable row level security', v_name);
    execute format('revoke all on picture_queue.%I from public, anon, authenticated, service_role', v_name);
    execute format('alter table picture_queue.archive attach partition picture_queue.%I for values from (%L) to (%L)',
      v_name, v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
  end if;
end
$$;

-- Drops the partitions whose month ended keep_archive_months ago. One that somebody reads just now is
-- left for the next time. Returns how many.
create function picture_queue._drop_archive() returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text;
  v_patience text := current_setting('lock_timeout');
  v_dropped integer := 0;
begin
  for v_name in
    select c.relname from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'picture_queue.archive'::regclass and c.relname < 'archive_' || to_char(
      (picture_queue._now() at time zone 'UTC') - make_interval(months => (
        select s.keep_archive_months from picture_queue.setting s)), 'YYYY_MM')
    order by c.relname limit 12
  loop
    begin
      perform set_config('lock_timeout', '500ms', true);
      execute format('drop table picture_queue.%I', v_name);
      v_dropped := v_dropped + 1;
    exception when lock_not_available then
      null;
    end;
  end loop;
  perform set_config('lock_timeout', v_patience, true);
  return v_dropped;
end
$$;

-- Deletes the jobs that finished longer ago than setting keeps them, the eldest p_limit of each status,
-- into the archive where that is on. A job's idempotency key and uniqueness end with it. Returns how many.
create function picture_queue._prune(p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();  -- a volatile function would not be looked up in an index
  v_ids uuid[];
  v_archive boolean;
begin
  select array_agg(d.id), bool_or(s.archive) into v_ids, v_archive
  from picture_queue.setting s
  cross join lateral (values
    ('completed', s.keep_completed_seconds), ('failed', s.keep_failed_seconds), ('cancelled', s.keep_cancelled_seconds)
  ) as k (status, seconds)
  cross join lateral (
    select j.id from public.job_queue j
    where j.status = k.status and j.finished_at < v_now - make_interval(secs => k.seconds)
    order by j.finished_at limit p_limit
    for update skip locked
  ) d;
  if v_ids is null then
    return 0;
  end if;
  if v_archive then
    perform picture_queue._archive_partition(m.at)
    from (select distinct date_trunc('month', j.finished_at, 'UTC') as at from public.job_queue j where j.id = any (v_ids)) m;
    insert into picture_queue.archive (id, seq, queue, job_type, status, priority, payload, result, error, tags,
      metadata, tenant, batch_id, user_id, generation_id, attempt, worker, created_at, started_at, finished_at)
    select j.id, j.seq, j.queue, j.job_type, j.status, j.priority, j.payload, j.result, j.error, j.tags, j.metadata,
      j.tenant, j.batch_id, j.user_id, j.generation_id, j.attempt, j.worker, j.created_at, j.started_at, j.finished_at
    from public.job_queue j where j.id = any (v_ids)
    on conflict do nothing;
  end if;
  return picture_queue._discard(v_ids);
end
$$;

-- Deletes what nobody needs any more beside jobs: throughput older than two days, events nobody waited
-- for in a day, starts that no rate counts, batches as old as the oldest jobs that are kept, workers not
-- heard of in an hour, and keys that are neither paused nor waited for. Returns how many rows.
create function picture_queue._prune_misc(p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_rows integer;
  v_all integer := 0;
  v_table text;
  v_old text;
begin
  for v_table, v_old in values
    ('throughput', 't.minute < $1 - interval ''2 days'''),
    ('signal', 't.sent_at < $1 - interval ''1 day'''),
    ('start', 't.at < $1 - make_interval(secs => coalesce('
      || '(select max(r.period_seconds) from picture_queue.limit_rule r), 0))'),
    ('batch', 't.finished_at < $1 - (select make_interval(secs => greatest(s.keep_completed_seconds, '
      || 's.keep_cancelled_seconds, s.keep_failed_seconds)) from picture_queue.setting s)'),
    ('worker', 't.seen_at < $1 - interval ''1 hour'''),
    ('limit_key', 'coalesce(t.paused_until, ''-infinity'') <= $1 '
      || 'and coalesce(t.due_at, ''-infinity'') <= $1 - interval ''1 minute'' and not exists ('
      || 'select from public.job_queue j where j.status = ''pending'' and j.blocked_on = t.key and j.hold = ''blocked'')')
  loop
    execute format('delete from picture_queue.%I d where d.ctid = any (array(
      select t.ctid from picture_queue.%I t where %s limit $2 for update skip locked))', v_table, v_table, v_old)
    using v_now, p_limit;
    get diagnostics v_rows = row_count;
    v_all := v_all + v_rows;
  end loop;
  return v_all;
end
$$;

-- Prunes for two seconds at most, a thousand jobs of each status at a time. Called by maintain(), and by
-- pg_cron under a job of its own. Returns what was done; more: there is more to prune.
create function picture_queue.prune() returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_start timestamptz := picture_queue._now();
  v_batch integer;
  v_pruned integer := 0;
  v_rounds integer := 0;
begin
  -- One at a time: the archive's partitions, and no waiting for each other.
  if not pg_catalog.pg_try_advisory_xact_lock(1903326071, 1) then
    return '{}'::jsonb;
  end if;
  loop
    v_batch := picture_queue._prune(1000);
    v_pruned := v_pruned + v_batch;
    v_rounds := v_rounds + 1;
    exit when v_batch = 0 or v_rounds = 100 or picture_queue._now() > v_start + interval '2 seconds';
  end loop;
  return jsonb_build_object('pruned', v_pruned, 'tidied', picture_queue._prune_misc(10000),
    'dropped_partitions', picture_queue._drop_archive(), 'more', v_batch > 0);
end
$$;

-- What the queue needs beside claims. Not forced, it is done once a minute by whoever asks first
-- (setting.maintained_at is the lease; sooner if something was left), and the others are answered {}.
-- What locks jobs that are not finished comes last, to hold the locks for a moment only.
create function picture_queue.maintain(p_force boolean default true) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_alone boolean := pg_catalog.pg_try_advisory_xact_lock(1903326071, 0);
  v_done jsonb := '{}'::jsonb;
  v_promoted integer;
  v_swept text[];
begin
  if v_alone then
    update picture_queue.setting s set maintained_at = v_now
    where p_force or s.maintained_at <= v_now - interval '1 minute';
    v_alone := found;
  end if;
  if not v_alone and not p_force then
    return '{}'::jsonb;
  end if;
  if v_alone then
    v_done := jsonb_build_object('folded', picture_queue._fold_depth(200000)) || picture_queue.prune();
    if (v_done ->> 'more')::boolean then
      update picture_queue.setting s set maintained_at = v_now - interval '50 seconds';
    end if;
  end if;
  v_done := v_done || jsonb_build_object('scheduled', picture_queue._run_schedules(1000));
  v_promoted := picture_queue._promote(1000);
  v_swept := picture_queue._sweep(1000);
  if v_promoted > 0 or v_swept <> '{}' then
    perform picture_queue._wake((select array_agg(name) from picture_queue.queue), 'enqueue');
  end if;
  return v_done || jsonb_build_object('promoted', v_promoted, 'swept', to_jsonb(v_swept));
end
$$;

create function public.maintain_jobs(force boolean default false) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue.maintain(coalesce(force, false));
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
  return null;
end
$$;
comment on function public.maintain_jobs is 'Does the housekeeping if it is due, and says what was done.';

-- Puts right what queue_doctor() finds out of step: rows that belong to nothing, keys nobody looks at,
-- and the counts, by counting all jobs once. Nothing is locked for longer than a row. For a person at
-- the database; no API role may call it.
create function picture_queue.repair() returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_slots integer;
  v_ready uuid[];
  v_keys integer;
  v_counts integer;
begin
  with gone as (
    delete from picture_queue.slot s where not exists (
      select from public.job_queue j where j.id = s.job_id and j.status = 'processing' and j.hold is null)
    returning s.key
  ),
  freed as (insert into picture_queue.freed_key (key) select distinct g.key from gone g)
  select count(*) into v_slots from gone;
  delete from picture_queue.dependency d where not exists (
    select from public.job_queue j where j.id = d.parent_id and j.finished_at is null);
  select array_agg(w.id order by w.id) into v_ready
  from (
    select j.id from public.job_queue j
    where j.hold = 'waiting' and not exists (select from picture_queue.dependency d where d.child_id = j.id)
    order by j.id for update skip locked
  ) w;
  perform picture_queue._transition((select array_agg(picture_queue._change(r, 'ready')) from unnest(v_ready) r));
  insert into picture_queue.limit_key (key, due_at)
  select distinct j.blocked_on, picture_queue._now() from public.job_queue j where j.status = 'pending' and j.hold = 'blocked'
  on conflict do nothing;
  get diagnostics v_keys = row_count;
  -- One statement sees jobs and counts as of one moment.
  insert into picture_queue.depth_change (queue, status, hold, n, at)
  select c.queue, c.status, c.hold, sum(c.n), '-infinity'
  from (
    select j.queue, j.status, j.hold, count(*) as n from public.job_queue j group by j.queue, j.status, j.hold
    union all
    select d.queue, d.status, d.hold, -d.n from picture_queue._depths() d
  ) c
  group by c.queue, c.status, c.hold having sum(c.n) <> 0;
  get diagnostics v_counts = row_count;
  return jsonb_build_object('slots', v_slots, 'ready', coalesce(cardinality(v_ready), 0), 'keys', v_keys, 'counts', v_counts);
end
$$;
