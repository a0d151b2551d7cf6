-- Which candidates of a claim may start, and under which keys.

-- The keys of these candidates that something holds for.
create function picture_queue._limited_keys(p_candidates picture_queue.candidate[]) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
begin
  return array(
    select r.key from picture_queue._rules(array(select distinct k from unnest(p_candidates) c, unnest(c.keys) k)) r);
end
$$;

-- What a claim makes of its candidates, in their order: up to p_max_jobs may start (ids; slots: the limited
-- keys they run under, by id), those over a limit are blocked, and those whose keys somebody else has locked
-- are left alone, as are last attempts beyond the first p_start_jobs. p_limited: those of their keys that
-- something holds for.
create function picture_queue._admit(
  p_candidates picture_queue.candidate[], p_limited text[], p_max_jobs integer, p_start_jobs integer,
  out ids uuid[], out slots jsonb, out blocked picture_queue.change[])
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_capacity jsonb;  -- of each limited key that we locked; null: any number
  v_busy text[];
  v_candidate picture_queue.candidate;
  v_keys text[];  -- what is limited, then: of one candidate
  v_full text;
begin
  ids := array(
    select c.id from unnest(p_candidates) with ordinality as c (id, keys, is_last, n)
    where c.n <= p_start_jobs or not c.is_last limit p_max_jobs);
  slots := '{}';
  if p_limited = '{}' then
    return;
  end if;
  v_keys := picture_queue._lock_keys(p_limited);
  select coalesce(jsonb_object_agg(r.key, r.capacity) filter (where r.capacity is not null), '{}'),
    coalesce(array_agg(r.key) filter (where r.capacity is null), '{}')
  into v_capacity, v_busy
  from picture_queue._capacity(v_keys) r;
  v_busy := v_busy || array(select k from unnest(p_limited) k where k <> all (v_keys));

  if v_busy = '{}' and cardinality(p_candidates) = cardinality(ids) and not exists (
    select from unnest(p_candidates) c, unnest(c.keys) k
    where k = any (v_keys)
    group by k having count(*) > (v_capacity ->> k)::integer)
  then
    -- A key that a job names twice is one slot all the same.
    select coalesce(jsonb_object_agg(s.id, s.keys), '{}') into slots
    from (
      select c.id, array_agg(distinct k) as keys
      from unnest(p_candidates) c, unnest(c.keys) k
      where k = any (v_keys)
      group by c.id
    ) s;
    return;
  end if;

  ids := '{}';
  foreach v_candidate in array p_candidates loop
    exit when cardinality(ids) = p_max_jobs;
    continue when v_candidate.keys && v_busy or v_candidate.is_last and cardinality(ids) >= p_start_jobs;
    v_keys := array(select distinct k from unnest(v_candidate.keys) k where v_capacity ? k);
    v_full := (select min(k) from unnest(v_keys) k where (v_capacity ->> k)::integer <= 0);
    if v_full is not null then
      blocked := blocked || picture_queue._change(v_candidate.id, 'block', null, null, v_full);
    else
      ids := ids || v_candidate.id;
      if v_keys <> '{}' then
        slots := slots || jsonb_build_object(v_candidate.id, v_keys);
        v_capacity := v_capacity || (select jsonb_object_agg(k, (v_capacity ->> k)::integer - 1) from unnest(v_keys) k);
      end if;
    end if;
  end loop;
end
$$;

-- Counts started jobs under their keys, blocks those that found a key full, and notes when to look again. A job
-- that had been unblocked for another key leaves that key's turn to the next.
create function picture_queue._take_slots(p_slots jsonb, p_blocked picture_queue.change[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_keys text[];
  v_counts integer[];
  v_blocked_on text[] := array(select distinct c.key from unnest(p_blocked) c);
begin
  if p_blocked is not null then
    insert into picture_queue.freed_key (key, n, at)
    select distinct j.blocked_on, 0, picture_queue._now()
    from unnest(p_blocked) c
    join public.job_queue j on j.id = c.job_id and j.id = any (array(select c.job_id from unnest(p_blocked) c))
    where j.blocked_on <> c.key;
    perform picture_queue._transition(p_blocked);
  end if;
  select array_agg(s.key), array_agg(s.n) into v_keys, v_counts
  from (
    select k, count(*)::integer as n
    from jsonb_each(p_slots) as s (id, keys), jsonb_array_elements_text(s.keys) k group by k
  ) s (key, n);
  if v_keys is not null then
    perform picture_queue._add_running(v_keys, v_counts);
    if exists (select from picture_queue.limit_rule r where r.rate is not null) then
      insert into picture_queue.start (key, at)
      select r.key, picture_queue._now()
      from picture_queue._rules(v_keys) r
      join unnest(v_keys, v_counts) as c (key, n) on c.key = r.key
      cross join generate_series(1, c.n)
      where r.rate is not null;
    end if;
  end if;
  if v_blocked_on <> '{}' then
    perform picture_queue._plan_keys(v_blocked_on);
  end if;
end
$$;
