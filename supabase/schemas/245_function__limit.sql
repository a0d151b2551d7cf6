-- Limits are exact with any number of workers. Only claims start jobs: a claim locks the keys of its candidates, reads
-- in a later statement how many jobs run under these keys, and starts the jobs that fit (_admit). A claim sets jobs of
-- a key without capacity to blocked, so that later claims skip them and run other jobs. The table freed_key has the
-- keys to process, and the times: a transaction that ends a job appends the keys of the job; a transaction that blocks
-- a job appends the time at which its key may have capacity. In the next claim or in maintenance, _unblock_keys
-- subtracts the ended jobs from the counts, and unblocks jobs.

-- Returns all keys of a job to which limits may apply, whether or not they have a rule.
create function picture_queue._limit_keys(p_queue text, p_job_type text, p_user_id uuid, p_limit_keys text[])
returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select array['global', 'queue:' || p_queue, 'type:' || p_job_type]
    || case when p_user_id is not null then array['user:' || p_user_id] end
    || p_limit_keys
$$;

-- Returns the state of each of these keys that has a limit or a pause: its own rule or the rule of its kind, the end
-- of its pause, how many of its jobs run (running), how many more may start now (capacity), and from when on more may
-- start (free_at; null: only when a job ends). If the caller holds the locks of the keys, the capacity is never too
-- large. It is too small while transactions that end jobs have not committed yet.
create function picture_queue._key_states(p_keys text[])
returns table (
  key text, max_running integer, rate integer, period_seconds real, paused_until timestamptz, running integer,
  capacity integer, free_at timestamptz)
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
#variable_conflict use_column
declare
  v_now timestamptz := picture_queue._now();
  -- Maintenance has already subtracted the older rows of freed_key, or subtracts them in its next round if they were
  -- committed late.
  v_since timestamptz := (select m.round_began_at - interval '10 seconds' from picture_queue.maintenance m);
begin
  return query
  select r.key, r.max_running, r.rate, r.period_seconds, r.paused_until, r.running,
    case when r.paused_until is not null or not r.counted then 0
      else least(r.max_running - r.running, r.rate - starts.n) end::integer,
    case when r.paused_until is not null then r.paused_until when not r.counted then v_now + interval '1 second'
      when starts.n >= r.rate then starts.first_at + make_interval(secs => r.period_seconds) end
  from (
    select asked.key, rule.max_running, rule.rate, rule.period_seconds, coalesce(rule.counted, true) as counted,
      state.paused_until, coalesce(state.running, 0) - coalesce((
        select sum(f.n)::integer from picture_queue.freed_key f where f.key = asked.key and f.at > v_since), 0) as running
    from unnest(p_keys) as asked (key)
    left join lateral (
      select l.* from picture_queue.limit_rule l
      where l.key = any (array[asked.key, split_part(asked.key, ':', 1) || ':*'])
      order by l.key <> asked.key limit 1) rule on true
    left join lateral (
      select case when l.paused_until > v_now then l.paused_until end as paused_until, l.running
      from picture_queue.limit_key l where l.key = asked.key order by l.version desc limit 1) state on true
    where rule.key is not null or state.paused_until is not null
  ) r
  cross join lateral (
    select count(*) as n, min(l.at) as first_at
    from (
      select o.at from picture_queue.start o
      where r.rate is not null and o.key = r.key and o.at > v_now - make_interval(secs => r.period_seconds)
      order by o.at desc limit r.rate
    ) l
  ) starts;
end
$$;

-- Locks keys until the transaction ends, and returns the locked keys. All callers take the locks in the same order,
-- and wait up to 50 milliseconds for each. If a wait times out, the function takes only the locks that are free. The
-- keys share 1,024 locks, so that no transaction takes more. Transactions on keys with the same lock may wait for each
-- other; this causes no error.
create function picture_queue._lock_keys(p_keys text[]) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '50ms'
as $$
declare
  v_keys text[] := p_keys;
begin
  begin
    perform pg_catalog.pg_advisory_xact_lock(1903326068, l.lock)
    from (select distinct pg_catalog.hashtext(k) & 1023 as lock from unnest(p_keys) k order by lock offset 0) l;
  exception when lock_not_available or deadlock_detected then
    v_keys := array(
      select k from unnest(p_keys) k
      where pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(k) & 1023));
  end;
  -- Leave out keys whose row a transaction outside of picture-queue has locked.
  return array(
    select k from unnest(v_keys) k
    where (select l.running from picture_queue.limit_key l where l.key = k order by l.version desc limit 1) is null
      or (select true from picture_queue.limit_key l where l.key = k order by l.version desc limit 1 for update skip locked));
end
$$;

-- Adds to the numbers of running jobs of locked keys, and inserts missing rows.
create function picture_queue._add_running(p_keys text[], p_counts integer[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_key text;
  v_count integer;
begin
  for v_key, v_count in select k, n from unnest(p_keys, p_counts) as c (k, n) loop
    -- Find the newest version of the row, and update it by ctid: while an old snapshot exists, the index has many dead
    -- versions.
    update picture_queue.limit_key l set running = greatest(l.running + v_count, 0), version = l.version + 1
    where l.ctid = (select o.ctid from picture_queue.limit_key o where o.key = v_key order by o.version desc limit 1);
    if not found then
      insert into picture_queue.limit_key (key, running) values (v_key, greatest(v_count, 0));
    end if;
  end loop;
end
$$;

-- Plans when _unblock_keys processes keys again, by rows of freed_key with a future time. A key without capacity gets
-- the time at which its pause or the period of its rate ends. A key that has capacity and blocked jobs is processed
-- again in one second, since one call does not unblock all jobs, and unblocked jobs may not be claimed yet. p_latest:
-- the latest time for each key. Without p_latest a key gets no row if an earlier time is planned, or if only the end
-- of a job can give it capacity.
create function picture_queue._plan_unblocking(p_keys text[], p_latest timestamptz default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_next_at timestamptz;
begin
  with planned as (
    insert into picture_queue.freed_key (key, n, at)
    select k.key, 0, l.at
    from unnest(p_keys) as k (key)
    left join picture_queue._key_states(p_keys) c on c.key = k.key
    cross join lateral (
      select least(p_latest, case when c.capacity <= 0 then c.free_at when (
        select true from public.job_queue j
        where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
      then v_now + interval '1 second' end) as at) l
    where l.at < 'infinity' and (p_latest is not null or not exists (
      select from picture_queue.freed_key f where f.key = k.key and f.at between v_now and l.at))
    returning at
  )
  select min(p.at) into v_next_at from planned p;
  perform picture_queue._wake_maintenance(v_next_at);
end
$$;

-- Subtracts the ended jobs of these keys, and unblocks jobs that wait for keys with capacity: of each pair of queue
-- and job type as many as may start, minus the jobs that were unblocked before and are not claimed yet. It counts each
-- pair separately, so that jobs of a paused queue, or of a type without a worker, do not hold back others. If it
-- unblocks too many in total, claims block them again. If a key blocks jobs of many pairs, the function examines the
-- first hundred pairs, and the hundred pairs that follow a random pair of some worker. It leaves locked keys to the
-- next call.
create function picture_queue._unblock_keys(p_keys text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  -- Take the locks without waiting; _lock_keys also leaves out keys whose row is locked.
  v_keys text[] := picture_queue._lock_keys(array(
    select k from unnest(p_keys) k
    where pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(k) & 1023)));
  v_freed record;
begin
  with freed as (
    delete from picture_queue.freed_key f
    where f.ctid = any (array(
      select o.ctid from picture_queue.freed_key o where o.key = any (v_keys) limit 10000 for update skip locked))
    returning f.key, f.n
  )
  select array_agg(s.key) as keys, array_agg(-s.n) as counts into v_freed
  from (select f.key, sum(f.n)::integer as n from freed f group by f.key) s where s.n <> 0;
  perform picture_queue._add_running(v_freed.keys, v_freed.counts);
  perform picture_queue._run_isolated('unblock', array(
    with recursive pair as (
      -- Find the pairs of queue and job type, each by one search in the index.
      select k.key, found.queue, found.job_type, 1 as n
      from unnest(v_keys) as k (key)
      cross join (
        values ('', '')
        union all
        (select w.queues[1 + floor(random() * cardinality(w.queues))],
            w.job_types[1 + floor(random() * cardinality(w.job_types))]
          from picture_queue.worker w where w.seen_at > v_now - interval '1 minute' order by random() limit 1)
      ) as first_pair (queue, job_type)
      cross join lateral (
        select j.queue, j.job_type from public.job_queue j
        where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked'
          and (j.queue, j.job_type) >= (first_pair.queue, first_pair.job_type)
        order by j.queue, j.job_type limit 1) found
      union all
      select p.key, found.queue, found.job_type, p.n + 1
      from pair p
      cross join lateral (
        select j.queue, j.job_type from public.job_queue j
        where j.status = 'pending' and j.blocked_on = p.key and j.hold = 'blocked'
          and (j.queue, j.job_type) > (p.queue, p.job_type)
        order by j.queue, j.job_type limit 1) found
      where p.n < 100
    )
    select chosen.id::text
    from (
      -- Unblock about a thousand jobs in total, for any number of pairs.
      select p.key, p.queue, p.job_type, greatest(least(c.capacity, 1 + 1000 / count(*) over ()), 0) as n
      from (select distinct o.key, o.queue, o.job_type from pair o) p
      left join picture_queue._key_states(v_keys) c on c.key = p.key
    ) share
    cross join lateral (
      select j.id from public.job_queue j
      where j.status = 'pending' and j.blocked_on = share.key and j.hold = 'blocked' and j.queue = share.queue
        and j.job_type = share.job_type and j.id::text not in (select picture_queue._failed_subjects('unblock'))
      order by j.rank, j.turn, j.seq
      limit greatest(0, share.n - (
        -- Unblocked jobs count for three seconds only: a job whose row is locked, or whose start fails, must not hold
        -- back others.
        select count(*) filter (where unblocked.updated_at > v_now - interval '3 seconds')
        from (
          select o.updated_at from public.job_queue o
          where o.status = 'pending' and o.blocked_on = share.key and o.hold is null
            and o.queue = share.queue and o.job_type = share.job_type
          order by o.blocked_on, o.hold, o.queue, o.job_type limit share.n) unblocked))
      for update skip locked
    ) chosen), 10000);
  perform picture_queue._plan_unblocking(v_keys);
  return cardinality(v_keys);
end
$$;

-- Unblocks jobs of up to a hundred keys that have blocked jobs, and a recent row in freed_key whose time has come.
create function picture_queue._unblock_freed_keys() returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  perform picture_queue._run_isolated('key', array(
    select k.key
    from (
      select distinct f.key from picture_queue.freed_key f
      where f.at > (select m.round_began_at - interval '10 seconds' from picture_queue.maintenance m) and f.at <= v_now
    ) k
    -- With the limit, Postgres searches the index for each key, rather than join the keys with all blocked jobs.
    where (
      select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
      and k.key not in (select picture_queue._failed_subjects('key'))
    limit 100), 100);
end
$$;

-- Returns the running jobs that are not counted yet under keys of these rules, with these keys. Such a job started
-- before the rule existed, or in a claim that did not see the rule yet.
create function picture_queue._uncounted_jobs(p_rules text[]) returns table (job_id uuid, keys text[])
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  select j.id, array_agg(distinct k)
  from public.job_queue j
  cross join lateral unnest(picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys)) k
  where j.status = 'processing' and j.hold is null and k <> all (coalesce(j.slots, '{}'))
    and (k = any (p_rules) or split_part(k, ':', 1) || ':*' = any (p_rules))
  group by j.id
$$;

-- Counts, under their keys, up to p_limit of the jobs that _uncounted_jobs returns. Until all are counted, no job
-- starts under the rule. A locked job delays the jobs of its key for at most ten seconds; after that, the key may have
-- one more job than the limit. For ten seconds after the rule was set, the jobs are searched repeatedly, since claims
-- that do not see the rule may be in progress.
create function picture_queue._count_running(p_rules text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_locked text[] := picture_queue._lock_keys(array(select distinct unnest(u.keys) from picture_queue._uncounted_jobs(p_rules) u));
  v_keys text[];
  v_counts integer[];
  v_newly_counted integer;
begin
  with uncounted as (
    select j.id, array(select k from unnest(u.keys) k where k = any (v_locked)) as keys
    from picture_queue._uncounted_jobs(p_rules) u
    join public.job_queue j on j.id = u.job_id
    -- Check again under the lock of the job: it may have ended or been counted in the meantime.
    where u.keys && v_locked and j.status = 'processing' and j.hold is null and not coalesce(j.slots, '{}') && u.keys
    order by j.id limit p_limit for update of j skip locked
  ),
  counted as (
    update public.job_queue j set slots = coalesce(j.slots, '{}') || u.keys
    from uncounted u where j.id = u.id returning u.keys
  )
  select array_agg(s.key), array_agg(s.n), (select count(*) from counted) into v_keys, v_counts, v_newly_counted
  from (select k, count(*)::integer from counted c cross join lateral unnest(c.keys) k group by k) s (key, n);
  perform picture_queue._add_running(v_keys, v_counts);
  update picture_queue.limit_rule r
  set counted = r.counted or not l.has_uncounted or v_newly_counted = 0 and not l.is_new,
    count_at = case when v_newly_counted > 0 then v_now when l.has_uncounted or l.is_new then v_now + interval '1 second' end
  from (
    select o.key, v_now < o.created_at + interval '10 seconds' as is_new,
      exists (select from picture_queue._uncounted_jobs(array[o.key])) as has_uncounted
    from picture_queue.limit_rule o where o.key = any (p_rules) for update skip locked
  ) l
  where r.key = l.key;
  return v_newly_counted;
end
$$;
