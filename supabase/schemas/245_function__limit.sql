-- Limits, exact however many workers there are. Only claims decide: a claim locks the keys it needs,
-- counts what runs under them in a later statement (an earlier snapshot would race), and takes what
-- fits. What does not fit is put aside (hold blocked), so that no claim wades through it again.
-- Whoever ends a job appends the key to freed_key, and the next claim lets waiting jobs through.

-- The keys a job runs under.
create function picture_queue._keys(p_queue text, p_job_type text, p_user_id uuid, p_limit_keys text[]) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select array['global', 'queue:' || p_queue, 'type:' || p_job_type]
    || case when p_user_id is not null then array['user:' || p_user_id] end
    || p_limit_keys
$$;

-- What holds for each of these keys: its own rule or that of its kind, and until when it is paused. Keys
-- for which nothing holds are left out.
create function picture_queue._rules(p_keys text[])
returns table (key text, max_running integer, rate integer, period_seconds real, paused_until timestamptz)
language sql stable rows 10 set search_path = pg_catalog, pg_temp
as $$
  select a.key, coalesce(own.max_running, kind.max_running), coalesce(own.rate, kind.rate),
    coalesce(own.period_seconds, kind.period_seconds), k.paused_until
  from (select picture_queue._now() as now offset 0) v
  cross join unnest(p_keys) as a (key)
  left join picture_queue.limit_rule own on own.key = a.key
  left join picture_queue.limit_rule kind on own.key is null and kind.key = split_part(a.key, ':', 1) || ':*'
  left join picture_queue.limit_key k on k.key = a.key and k.paused_until > v.now
  where own.key is not null or kind.key is not null or k.key is not null
$$;

-- How many more jobs may start now under each of these keys that something holds for.
create function picture_queue._rooms(p_keys text[])
returns table (key text, room integer)
language sql volatile rows 10 set search_path = pg_catalog, pg_temp
as $$
  select r.key, case when r.paused_until is not null then 0 else least(
    r.max_running - (
      select count(*) from (
        select from picture_queue.slot s where s.key = r.key order by s.key, s.job_id limit r.max_running) f),
    r.rate - (
      select count(*) from (
        select from picture_queue.start s
        where s.key = r.key and s.at > v.now - make_interval(secs => r.period_seconds)
        order by s.at limit r.rate) f)) end::integer
  from picture_queue._rules(p_keys) r
  cross join (select picture_queue._now() as now offset 0) v
$$;

-- When somebody should look again at keys that let nobody through: when the pause ends or the rate
-- permits one more start. A full one is looked at by whoever claims after a slot came free; the ten
-- seconds are for what was let through and then not claimed.
create function picture_queue._look_again(p_keys text[])
returns table (key text, due_at timestamptz)
language sql volatile rows 10 set search_path = pg_catalog, pg_temp
as $$
  select r.key, coalesce(
    r.paused_until,
    (select s.at + make_interval(secs => r.period_seconds) from picture_queue.start s
      where s.key = r.key and s.at > picture_queue._now() - make_interval(secs => r.period_seconds)
      order by s.at desc offset r.rate - 1 limit 1),
    picture_queue._now() + interval '10 seconds')
  from picture_queue._rules(p_keys) r
$$;

-- Locks keys until the transaction ends and returns those it got. The first call of a transaction
-- waits, in one order for all; a later one takes only what is free, so that claims never wait for
-- each other in a circle. There are 1,024 locks, so that no transaction takes more; keys that share one
-- only wait for each other.
create function picture_queue._lock_keys(p_keys text[]) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('picture_queue.holds_keys', true) = 'yes' then
    return array(
      select k from unnest(p_keys) k
      where pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(k) & 1023));
  end if;
  perform pg_catalog.set_config('picture_queue.holds_keys', 'yes', true);
  perform pg_catalog.pg_advisory_xact_lock(1903326068, l.lock)
  from (select distinct pg_catalog.hashtext(k) & 1023 as lock from unnest(p_keys) k order by lock offset 0) l;
  return p_keys;
end
$$;

-- The keys of these candidates that something holds for.
create function picture_queue._limited_keys(p_candidates picture_queue.candidate[]) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(r.key), '{}')
  from picture_queue._rules(array(select distinct k from unnest(p_candidates) c, unnest(c.keys) k)) r
$$;

-- The keys to look at now: those of which a slot came free and for which jobs wait, and those whose
-- time has come. Nobody waits for most keys. A claim that finds one full says so (limit_key) under its
-- lock: if nobody has that lock, the next statement sees whether somebody waits; if somebody has, the
-- key is left for the next claim.
create function picture_queue._due_keys() returns text[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_freed text[];
  v_busy text[];
  v_keys text[] := array[]::text[];
begin
  with freed as (
    delete from picture_queue.freed_key f
    where f.ctid = any (array(select o.ctid from picture_queue.freed_key o limit 1000 for update skip locked))
    returning f.key
  )
  select array_agg(distinct f.key) into v_freed from freed f;
  if v_freed is not null then
    v_busy := array(
      select k from unnest(v_freed) k
      where case when pg_catalog.pg_try_advisory_lock(1903326068, pg_catalog.hashtext(k) & 1023)
        then not pg_catalog.pg_advisory_unlock(1903326068, pg_catalog.hashtext(k) & 1023) else true end);
    v_keys := array(select l.key from picture_queue.limit_key l where l.key = any (v_freed));
    insert into picture_queue.freed_key (key)
    select b from unnest(v_busy) b where b <> all (v_keys[1:100])
    union
    select k from unnest(v_keys[101:]) k;
  end if;
  return v_keys[1:100] || array(
    select l.key from picture_queue.limit_key l
    where l.due_at <= picture_queue._now() and l.key <> all (v_keys)
    order by l.due_at limit 100);
end
$$;

-- Lets the jobs through for whose key there is room. What was let through less than ten seconds ago and
-- is not claimed yet counts as running. Locks p_also as well, the keys of the claim's candidates, since
-- only the first locking of a transaction waits. Returns whether jobs were let through.
create function picture_queue._unblock(p_keys text[], p_also text[]) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_keys text[] := picture_queue._lock_keys(p_keys || p_also);
  v_changes picture_queue.change[];
  v_queues text[];
begin
  -- What somebody else has in hand just now is for the next claim.
  insert into picture_queue.freed_key (key) select k from unnest(p_keys) k where k <> all (v_keys);
  v_keys := array(select k from unnest(p_keys) k where k = any (v_keys));
  select array_agg(picture_queue._change(d.id, 'unblock')) into v_changes
  from unnest(v_keys) as k (key)
  left join picture_queue._rooms(v_keys) r on r.key = k.key
  cross join lateral (
    select j.id from public.job_queue j
    where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked'
    order by j.rank, j.turn, j.seq
    limit greatest(0, coalesce(r.room, 1000) - (
      -- In the order of the index of keys, or without statistics all that can be claimed is read.
      select count(*) from (
        select from public.job_queue c
        where c.status = 'pending' and c.blocked_on = k.key and c.hold is null
          and c.updated_at > v_now - interval '10 seconds'
        order by c.blocked_on, c.hold, c.rank, c.turn, c.seq limit greatest(0, coalesce(r.room, 1000))) o))
    for update skip locked
  ) d;
  if v_changes is not null then
    select array_agg(distinct t.queue) into v_queues from unnest(picture_queue._transition(v_changes)) t;
    perform picture_queue._wake(v_queues, 'enqueue');
  end if;
  perform picture_queue._note_waiting(v_keys);
  return v_changes is not null;
end
$$;

-- Notes of locked keys whether jobs wait for them, and when to look again.
create function picture_queue._note_waiting(p_keys text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_waiting text[] := array(
    -- limit: key by key, however few rows the statistics have seen.
    select k from unnest(p_keys) k where (
      select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k and j.hold = 'blocked' limit 1));
begin
  insert into picture_queue.limit_key as l (key, due_at)
  select w.key, coalesce(a.due_at, picture_queue._now())
  from unnest(v_waiting) as w (key)
  left join picture_queue._look_again(v_waiting) a on a.key = w.key
  order by w.key
  on conflict (key) do update set due_at = excluded.due_at where l.due_at is distinct from excluded.due_at;
  update picture_queue.limit_key l set due_at = l.paused_until
  where l.key = any (p_keys) and l.key <> all (v_waiting) and l.paused_until > picture_queue._now()
    and l.due_at is distinct from l.paused_until;
  delete from picture_queue.limit_key l
  where l.key = any (p_keys) and l.key <> all (v_waiting)
    and coalesce(l.paused_until, '-infinity') <= picture_queue._now();
end
$$;
