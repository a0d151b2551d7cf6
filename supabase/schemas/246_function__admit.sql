-- What limits do to a claim: which candidates may start, what they count under, and what becomes of the others.

-- The candidates that a claim is to deal with, with those of their keys that are limited: first up to p_max_jobs that
-- may start, then those to be blocked since one of their keys is full. Those whose keys somebody else has locked are
-- left out. The keys stay locked until the transaction ends.
create function picture_queue._admit(p_candidates picture_queue.candidate[], p_max_jobs integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_limited text[] := array(
    select r.key from picture_queue._rules(array(select distinct k from unnest(p_candidates) c, unnest(c.keys) k)) r);
  v_locked text[] := '{}'::text[];
  v_busy text[] := '{}'::text[];
  v_capacity jsonb;  -- how many more may start, by key: those we locked whose running jobs are counted
  v_candidate picture_queue.candidate;
  v_starting picture_queue.candidate[] := '{}'::picture_queue.candidate[];
  v_blocked picture_queue.candidate[] := '{}'::picture_queue.candidate[];
begin
  if v_limited <> '{}' then
    v_locked := picture_queue._lock_keys(v_limited);
    select jsonb_object_agg(r.key, r.capacity) filter (where r.capacity is not null),
      array(select k from unnest(v_limited) k where k <> all (v_locked)) || array_agg(r.key) filter (where r.capacity is null)
    into v_capacity, v_busy
    from picture_queue._capacity(v_locked) r;
  end if;
  if v_busy = '{}' and not exists (
    select from unnest(p_candidates) c, unnest(c.keys) k
    where k = any (v_locked)
    group by k having count(*) > (v_capacity ->> k)::integer)
  then
    -- All may start. A key that a job names twice is one slot all the same.
    return array(
      select row(c.id, (select array_agg(distinct k) from unnest(c.keys) k where k = any (v_locked)), null)::picture_queue.candidate
      from unnest(p_candidates) with ordinality as c (id, keys, blocked_on, n)
      order by c.n limit p_max_jobs);
  end if;

  foreach v_candidate in array p_candidates loop
    exit when cardinality(v_starting) = p_max_jobs;
    continue when v_candidate.keys && v_busy;
    select array_agg(k), min(k) filter (where (v_capacity ->> k)::integer <= 0)
    into v_candidate.keys, v_candidate.blocked_on
    from (select distinct u.k from unnest(v_candidate.keys) as u (k)) d
    where v_capacity ? k;
    if v_candidate.blocked_on is not null then
      v_blocked := v_blocked || v_candidate;
    else
      v_starting := v_starting || v_candidate;
      v_capacity := v_capacity || coalesce((
        select jsonb_object_agg(k, (v_capacity ->> k)::integer - 1) from unnest(v_candidate.keys) k), '{}');
    end if;
  end loop;
  return v_starting || v_blocked;
end
$$;

-- Counts those of the candidates that started (p_ids) under their keys.
create function picture_queue._take_slots(p_candidates picture_queue.candidate[], p_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_keys text[];
  v_counts integer[];
begin
  select array_agg(s.key), array_agg(s.n) into v_keys, v_counts
  from (
    select k, count(*)::integer as n
    from unnest(p_candidates) c
    join unnest(p_ids) i (id) on i.id = c.id
    cross join lateral unnest(c.keys) k
    group by k
  ) s (key, n);
  perform picture_queue._add_running(v_keys, v_counts);
  if exists (select from picture_queue.limit_rule r where r.rate is not null) then
    insert into picture_queue.start (key, at)
    select r.key, picture_queue._now()
    from picture_queue._rules(v_keys) r
    join unnest(v_keys, v_counts) as c (key, n) on c.key = r.key
    cross join generate_series(1, c.n)
    where r.rate is not null;
  end if;
end
$$;

-- Blocks those of the candidates that are over a limit, and plans when to look at their keys again. If a job had been
-- unblocked for another key, that key is looked at again, so that another job can use the slot.
create function picture_queue._block(p_candidates picture_queue.candidate[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  insert into picture_queue.freed_key (key, n, at)
  select distinct j.blocked_on, 0, picture_queue._now()
  from unnest(p_candidates) c
  join public.job_queue j on j.id = c.id and j.id = any (array(select o.id from unnest(p_candidates) o))
  where j.blocked_on <> c.blocked_on;
  perform picture_queue._transition((
    select array_agg(picture_queue._change(c.id, 'block', null, null, c.blocked_on))
    from unnest(p_candidates) c where c.blocked_on is not null));
  perform picture_queue._plan_keys(array(
    select distinct c.blocked_on from unnest(p_candidates) c where c.blocked_on is not null));
end
$$;
