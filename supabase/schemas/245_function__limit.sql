-- Limits, exact however many workers there are. Only claims let jobs start: a claim locks the keys of its
-- candidates, reads in a later statement what runs under them, and starts what fits. What does not fit is set
-- to blocked, so that others can run and no claim reads it again. Whoever ends a job appends its keys to
-- freed_key; the next claim, or maintenance, counts them and unblocks jobs that wait.

-- The keys a job runs under.
create function picture_queue._keys(p_queue text, p_job_type text, p_user_id uuid, p_limit_keys text[]) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select array['global', 'queue:' || p_queue, 'type:' || p_job_type]
    || case when p_user_id is not null then array['user:' || p_user_id] end
    || p_limit_keys
$$;

-- What holds for each of these keys: its own rule or that of its kind, until when it is paused, and how many
-- jobs run under it. Keys for which nothing holds are left out.
create function picture_queue._rules(p_keys text[])
returns table (
  key text, max_running integer, rate integer, period_seconds real, paused_until timestamptz, running integer,
  is_counted boolean)
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
#variable_conflict use_column
declare
  v_now timestamptz := picture_queue._now();
begin
  return query
  select a.key, coalesce(own.max_running, kind.max_running), coalesce(own.rate, kind.rate),
    coalesce(own.period_seconds, kind.period_seconds), k.paused_until, coalesce(k.running, 0),
    coalesce(own.counted, kind.counted, true)
  from unnest(p_keys) as a (key)
  left join picture_queue.limit_rule own on own.key = a.key
  left join picture_queue.limit_rule kind on own.key is null and kind.key = split_part(a.key, ':', 1) || ':*'
  left join lateral (
    select case when l.paused_until > v_now then l.paused_until end as paused_until, l.running
    from picture_queue.limit_key l where l.key = a.key order by l.version desc limit 1) k on true
  where own.key is not null or kind.key is not null or k.paused_until is not null;
end
$$;

-- From when on claims read freed_key: from 10 seconds before the last round of maintenance. Older rows are counted
-- already, or were committed late and wait for the next round, which reads all.
create function picture_queue._freed_since() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$ begin return (select m.done_at - interval '10 seconds' from picture_queue.maintenance m); end $$;

-- How many more jobs may start now under each of these keys that something holds for; null where it is not known yet.
-- Exact for whoever holds the locks of the keys: ends of jobs that are not visible yet make it less, never more.
create function picture_queue._capacity(p_keys text[])
returns table (key text, capacity integer)
language plpgsql volatile rows 10 set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
#variable_conflict use_column
declare
  v_now timestamptz := picture_queue._now();
  v_since timestamptz := picture_queue._freed_since();
begin
  return query
  select r.key, case when r.paused_until is not null then 0 when r.is_counted then least(
    r.max_running - r.running + coalesce((
      select sum(f.n) from picture_queue.freed_key f where f.key = r.key and f.at > v_since), 0),
    r.rate - (
      select count(*) from (
        select from picture_queue.start s
        where s.key = r.key and s.at > v_now - make_interval(secs => r.period_seconds)
        order by s.at limit r.rate) f)) end::integer
  from picture_queue._rules(p_keys) r;
end
$$;

-- Locks keys until the transaction ends and returns those it got. Waits up to 50 milliseconds for each lock, in one
-- order for all callers; if one is not free by then, takes those that are free. Keys share 1,024 locks, so that no
-- transaction takes more; sharing can delay but causes no error.
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
  -- Without those whose row somebody has locked by hand.
  return array(
    select k.key
    from unnest(v_keys) as k (key)
    left join lateral (
      select l.ctid from picture_queue.limit_key l where l.key = k.key order by l.version desc limit 1) newest on true
    left join lateral (
      select true as is_free from picture_queue.limit_key l where l.ctid = newest.ctid for update skip locked) held on true
    where newest.ctid is null or held.is_free);
end
$$;

-- Adds to the numbers of running jobs of locked keys, making the rows that are not there.
create function picture_queue._add_running(p_keys text[], p_counts integer[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  -- The newest row by its place: other versions of it may be kept by an old snapshot.
  with newest as materialized (
    select c.key, c.n, l.row_id
    from unnest(p_keys, p_counts) as c (key, n)
    left join lateral (
      select l.ctid as row_id from picture_queue.limit_key l where l.key = c.key order by l.version desc limit 1) l on true
  ),
  made as (
    insert into picture_queue.limit_key (key, running) select n.key, greatest(n.n, 0) from newest n where n.row_id is null
  )
  update picture_queue.limit_key l set running = greatest(l.running + n.n, 0), version = l.version + 1
  from newest n where l.ctid = any (array(select n.row_id from newest n)) and l.ctid = n.row_id;
end
$$;

-- Sets when to look at locked keys again: when the pause ends or the rate permits one more start; else one second
-- from now, if jobs still wait although the key has capacity (more wait than one look unblocks, or those unblocked
-- are not claimed yet, or are blocked on another key by then); else never, since only the end of a job helps.
create function picture_queue._plan_keys(p_keys text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_next timestamptz;
begin
  with look as (
    select k.key, coalesce(r.paused_until, (
        select s.at + make_interval(secs => r.period_seconds) from picture_queue.start s
        where s.key = r.key and s.at > v_now - make_interval(secs => r.period_seconds)
        order by s.at desc offset r.rate - 1 limit 1),
      case when coalesce(c.capacity, 1) > 0 and (
        select true from public.job_queue j
        where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
      then v_now + interval '1 second' end) as at
    from unnest(p_keys) as k (key)
    left join picture_queue._rules(p_keys) r on r.key = k.key
    left join picture_queue._capacity(p_keys) c on c.key = k.key
  ),
  made as (
    insert into picture_queue.limit_key (key, due_at)
    select k.key, k.at from look k
    where k.at is not null and not exists (select from picture_queue.limit_key l where l.key = k.key)
    returning due_at
  ),
  changed as (
    update picture_queue.limit_key l set due_at = k.at, version = l.version + 1
    from look k
    where l.ctid = (select o.ctid from picture_queue.limit_key o where o.key = k.key order by o.version desc limit 1)
      and l.due_at is distinct from k.at
    returning l.due_at
  )
  select min(d.due_at) into v_next from (select due_at from made union all select due_at from changed) d;
  if v_next is not null then
    perform picture_queue._plan_maintenance(v_next);
  end if;
end
$$;

-- Counts the ends of jobs under these keys, and unblocks jobs that wait for those with capacity: for each queue and
-- job type as many as may start, less those that were unblocked before and are not claimed yet. Counted per queue and
-- type, so that a paused queue, or a type without a worker, does not hold back others. Too many may be unblocked;
-- claims block the surplus again. Keys that somebody has locked are left for the next call.
create function picture_queue._unblock_keys(p_keys text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_keys text[] := picture_queue._lock_keys(p_keys);
  v_freed record;
begin
  with freed as (
    delete from picture_queue.freed_key f
    where f.ctid = any (array(select o.ctid from picture_queue.freed_key o where o.key = any (v_keys) limit 10000 for update skip locked))
    returning f.key, f.n
  ),
  sums as (select f.key, sum(f.n)::integer as n from freed f group by f.key)
  select array_agg(s.key) as keys, array_agg(-s.n) as counts into v_freed from sums s where s.n > 0;
  perform picture_queue._add_running(v_freed.keys, v_freed.counts);
  perform picture_queue._isolate('unblock', picture_queue._jobs_to_unblock(v_keys), 10000);
  perform picture_queue._plan_keys(v_keys);
  return cardinality(v_keys);
end
$$;

-- Unblocks jobs that wait for keys under which fewer jobs run now, of a hundred keys at most.
create function picture_queue._unblock_freed_keys() returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  perform picture_queue._isolate('key', array(
    select k.key
    from (select distinct f.key from picture_queue.freed_key f where f.at > picture_queue._freed_since()) k
    -- With its own limit, so that it is looked up for each key and never joined with all blocked jobs.
    where (
      select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
      and not exists (
        select from picture_queue.failed_step f
        where f.kind = 'key' and f.subject = k.key and f.retry_at > picture_queue._now())
    limit 100), 100);
end
$$;

-- The jobs to unblock under these locked keys.
create function picture_queue._jobs_to_unblock(p_keys text[]) returns text[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return array(
    with recursive pair as (
      -- The queues and job types of the jobs blocked on each key, one after the other through the index.
      select k.key, o.queue, o.job_type, 1 as n
      from unnest(p_keys) as k (key)
      cross join lateral (
        select j.queue, j.job_type from public.job_queue j
        where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked'
        order by j.queue, j.job_type limit 1) o
      union all
      select p.key, o.queue, o.job_type, p.n + 1
      from pair p
      cross join lateral (
        select j.queue, j.job_type from public.job_queue j
        where j.status = 'pending' and j.blocked_on = p.key and j.hold = 'blocked'
          and (j.queue, j.job_type) > (p.queue, p.job_type)
        order by j.queue, j.job_type limit 1) o
      where p.n < 200
    ),
    -- All together are a thousand or so, whatever the number of pairs: a claim may be waiting for them.
    share (n) as (select greatest(1000 / greatest(count(*), 1), 1) from pair)
    select distinct d.id::text
    from pair p
    cross join share s
    left join (select * from picture_queue._capacity(p_keys) where capacity is not null) c on c.key = p.key
    cross join lateral (
      select j.id from public.job_queue j
      where j.status = 'pending' and j.blocked_on = p.key and j.hold = 'blocked'
        and j.queue = p.queue and j.job_type = p.job_type
        and not exists (
          select from picture_queue.failed_step f
          where f.kind = 'unblock' and f.subject = j.id::text and f.retry_at > picture_queue._now())
      order by j.rank, j.turn, j.seq
      limit greatest(0, least(c.capacity, s.n) - (
        -- One that nobody has claimed for three seconds (its row is locked, or its start fails) holds up no others.
        select count(*) from (
          select u.updated_at from public.job_queue u
          where u.status = 'pending' and u.blocked_on = p.key and u.hold is null
            and u.queue = p.queue and u.job_type = p.job_type
          order by u.blocked_on, u.hold, u.queue, u.job_type limit greatest(0, least(c.capacity, s.n))) o
        where o.updated_at > picture_queue._now() - interval '3 seconds'))
    ) d);
end
$$;

-- Counts running jobs that started before there was a rule for their key, or in a claim that did not know it
-- yet: of these rules, p_limit jobs. Looks again a few times, since such claims may still be under way.
create function picture_queue._count_running(p_rules text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_wanted text[];
  v_keys text[];
  v_is_complete boolean;
  v_counts integer[];
  v_found integer;
begin
  v_wanted := array(
    select distinct k.key
    from public.job_queue j
    cross join lateral unnest(picture_queue._keys(j.queue, j.job_type, j.user_id, j.limit_keys)) as k (key)
    where j.status = 'processing' and j.hold is null and k.key <> all (coalesce(j.slots, '{}'))
      and (k.key = any (p_rules) or split_part(k.key, ':', 1) || ':*' = any (p_rules)));
  v_keys := picture_queue._lock_keys(v_wanted);
  v_is_complete := cardinality(v_keys) = cardinality(v_wanted);
  with uncounted as (
    select j.id, k.keys
    from public.job_queue j
    cross join lateral (
      select array_agg(distinct k) as keys
      from unnest(picture_queue._keys(j.queue, j.job_type, j.user_id, j.limit_keys)) k
      where k = any (v_keys) and k <> all (coalesce(j.slots, '{}'))
    ) k
    where j.status = 'processing' and j.hold is null and k.keys is not null
    order by j.id limit p_limit for update of j skip locked
  ),
  counted as (
    update public.job_queue j set slots = coalesce(j.slots, '{}') || u.keys
    from uncounted u where j.id = u.id returning u.keys
  ),
  sums as (select k.key, count(*)::integer as n from counted c cross join lateral unnest(c.keys) as k (key) group by k.key)
  select array_agg(s.key), array_agg(s.n), (select count(*) from counted) into v_keys, v_counts, v_found from sums s;
  perform picture_queue._add_running(v_keys, v_counts);
  update picture_queue.limit_rule r
  -- Not counted while more jobs run than fit into one step, or a key or job is locked. One job that somebody keeps
  -- locked for ten seconds does not stop its key for longer: from then on the limit may be exceeded by that job.
  set counted = r.counted or v_found < p_limit and v_is_complete and not (l.has_uncounted and l.is_new),
    count_at = case when v_found >= p_limit then picture_queue._now()
      when l.is_new or l.has_uncounted then picture_queue._now() + interval '1 second' end
  from (
    select o.key, n.is_new, (not o.counted or not n.is_new) and picture_queue._has_uncounted(o.key) as has_uncounted
    from picture_queue.limit_rule o
    cross join lateral (select picture_queue._now() < o.created_at + interval '10 seconds' as is_new) n
    where o.key = any (p_rules) for update of o skip locked
  ) l
  where r.key = any (p_rules) and r.key = l.key;
  return v_found;
end
$$;
