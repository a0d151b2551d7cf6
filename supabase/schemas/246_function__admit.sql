-- Which candidates of a claim may start, and under which keys.

-- What a claim makes of its candidates, in their order: up to p_max_jobs may start (ids; slots: the limited
-- keys they run under, by id), those over a limit are blocked, and those whose keys another claim has locked
-- left alone. p_limited: those of their keys that something holds for.
create function picture_queue._admit(
  p_candidates picture_queue.candidate[], p_limited text[], p_max_jobs integer,
  out ids uuid[], out slots jsonb, out blocked picture_queue.change[])
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_room jsonb;  -- of each limited key that we locked; null: any number
  v_busy text[];
  v_candidate picture_queue.candidate;
  v_keys text[];  -- what is limited, then: of one candidate
  v_full text;
begin
  ids := array(select c.id from unnest(p_candidates) c limit p_max_jobs);
  slots := '{}';
  if p_limited = '{}' then
    return;
  end if;
  v_keys := picture_queue._lock_keys(p_limited);
  v_busy := array(select k from unnest(p_limited) k where k <> all (v_keys));
  select coalesce(jsonb_object_agg(r.key, r.room), '{}') into v_room from picture_queue._rooms(v_keys) r;

  if v_busy = '{}' and cardinality(p_candidates) <= p_max_jobs and not exists (
    select from unnest(p_candidates) c, unnest(c.keys) k
    where k = any (v_keys)
    group by k having count(*) > (v_room ->> k)::integer)
  then
    -- A key that a job names twice is one slot all the same.
    select coalesce(jsonb_object_agg(s.id, s.keys), '{}') into slots
    from (
      select c.id, array_agg(k) as keys
      from unnest(p_candidates) c, unnest(c.keys) k
      where k = any (v_keys)
      group by c.id
    ) s;
    return;
  end if;

  ids := '{}';
  foreach v_candidate in array p_candidates loop
    exit when cardinality(ids) = p_max_jobs;
    continue when v_candidate.keys && v_busy;
    v_keys := array(select distinct k from unnest(v_candidate.keys) k where v_room ? k);
    v_full := (select min(k) from unnest(v_keys) k where (v_room ->> k)::integer <= 0);
    if v_full is not null then
      blocked := blocked || picture_queue._change(v_candidate.id, 'block', null, null, v_full);
    else
      ids := ids || v_candidate.id;
      if v_keys <> '{}' then
        slots := slots || jsonb_build_object(v_candidate.id, v_keys);
        v_room := v_room || (select jsonb_object_agg(k, (v_room ->> k)::integer - 1) from unnest(v_keys) k);
      end if;
    end if;
  end loop;
end
$$;

-- Takes the slots of started jobs, counts their starts, and notes which keys jobs wait for now.
create function picture_queue._take_slots(p_slots jsonb, p_blocked picture_queue.change[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_blocked_on text[] := array(select distinct c.key from unnest(p_blocked) c);
begin
  insert into picture_queue.slot (key, job_id)
  select k, s.id::uuid from jsonb_each(p_slots) as s (id, keys), jsonb_array_elements_text(s.keys) k
  on conflict do nothing;
  if exists (select from picture_queue.limit_rule r where r.rate is not null) then
    insert into picture_queue.start (key, at)
    select r.key, v_now
    from (select distinct s.id, k from jsonb_each(p_slots) as s (id, keys), jsonb_array_elements_text(s.keys) k) u
    join picture_queue._rules(array(
      select distinct k from jsonb_each(p_slots) as s (id, keys), jsonb_array_elements_text(s.keys) k)) r on r.key = u.k
    where r.rate is not null;
  end if;
  if v_blocked_on <> '{}' then
    perform picture_queue._note_waiting(v_blocked_on);
  end if;
end
$$;
