-- Returns the jobs of this list that may start, p_max_jobs at most, with their limited keys. The caller has locked the
-- jobs, and must start the returned jobs, since they are counted as running. Each limited key numbers its jobs in the
-- order of the list; a job may start if its number under each of its keys is within the capacity of the key. A job
-- with a key that has no capacity at all is blocked. Other jobs that may not start stay claimable: jobs before them
-- take the capacity, or another transaction has locked one of their keys. If a claim has picked 5,000 candidates,
-- which is the maximum, a locked key counts as full, and its jobs are blocked: otherwise the next claim would pick the
-- same jobs, and never those behind them. Keys stay locked until the transaction ends.
create function picture_queue._admit(p_candidates picture_queue.candidate[], p_max_jobs integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_limited text[];
  v_locked text[];
  v_capacity jsonb;  -- for each key that this transaction has locked; no job of a key without an entry starts
  v_rate_keys text[];  -- keys that have a rate
  v_starting picture_queue.candidate[];
  v_blocked picture_queue.candidate[];
  v_keys text[];
  v_counts integer[];
begin
  v_limited := array(
    select k.key from (select distinct unnest(c.keys) from unnest(p_candidates) c) as k (key)
    where k.key in (select r.key from picture_queue.limit_rule r)
      or split_part(k.key, ':', 1) || ':*' in (select r.key from picture_queue.limit_rule r)
      or k.key in (select l.key from picture_queue.limit_key l where l.paused_until > v_now));
  if v_limited = '{}' then
    return array(select row(c.id, null, null)::picture_queue.candidate from unnest(p_candidates[:p_max_jobs]) c);
  end if;
  v_locked := picture_queue._lock_keys(v_limited);
  select coalesce(jsonb_object_agg(l.key, l.capacity), '{}'), array_agg(l.key) filter (where l.rate is not null)
  into v_capacity, v_rate_keys
  from picture_queue._key_states(v_locked) l;
  with place as (
    select c.n, c.id, k.key,
      coalesce((v_capacity ->> k.key)::integer, case when cardinality(p_candidates) = 5000 then 0 end) as capacity,
      row_number() over (partition by k.key order by c.n) as place
    from unnest(p_candidates) with ordinality as c (id, keys, blocked_on, n)
    -- A key that a job names twice takes one slot.
    left join lateral (select distinct u.key from unnest(c.keys) as u (key) where u.key = any (v_limited)) k on true
  ),
  decided as (
    select p.n, row(p.id, array_agg(p.key) filter (where p.key is not null),
        min(p.key) filter (where p.capacity <= 0))::picture_queue.candidate as candidate,
      bool_and(p.key is null or coalesce(p.place <= p.capacity, false)) as fits
    from place p group by p.n, p.id
  )
  select (array_agg(d.candidate order by d.n) filter (where d.fits))[:p_max_jobs],
    array_agg(d.candidate) filter (where (d.candidate).blocked_on is not null)
  into v_starting, v_blocked
  from decided d;
  select array_agg(s.key), array_agg(s.n) into v_keys, v_counts
  from (select k, count(*)::integer from unnest(v_starting) c cross join lateral unnest(c.keys) k group by k) s (key, n);
  perform picture_queue._add_running(v_keys, v_counts);
  if v_rate_keys is not null then
    insert into picture_queue.start (key, at)
    select c.key, v_now from unnest(v_keys, v_counts) as c (key, n) cross join generate_series(1, c.n) where c.key = any (v_rate_keys);
  end if;
  if v_blocked is not null then
    -- Such a job may have been unblocked for another key, whose slot it does not take now. So process that key again.
    insert into picture_queue.freed_key (key, n)
    select distinct j.blocked_on, 0 from unnest(v_blocked) b join public.job_queue j on j.id = b.id
    where j.blocked_on <> b.blocked_on;
    perform picture_queue._transition((
      select array_agg(picture_queue._change(b.id, 'block', null, null, b.blocked_on)) from unnest(v_blocked) b));
    -- A concurrent transaction that changes the rule may not see that these jobs are blocked. So process the keys
    -- again when this transaction has committed.
    perform picture_queue._plan_unblocking(
      array(select distinct b.blocked_on from unnest(v_blocked) b), v_now + interval '1 second');
  end if;
  return v_starting;
end
$$;
