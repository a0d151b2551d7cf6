-- Which candidates of a claim may start, and under which keys.

-- The changes that claim all of these candidates, under those of their keys that are limited; the
-- expired are given up.
create function picture_queue._admit_all(
  p_candidates picture_queue.candidate[], p_claim picture_queue.change, p_limited text[])
returns picture_queue.change[]
language plpgsql stable set search_path = ''
as $$
begin
  return array(
    select case
      when c.expired then picture_queue._change(c.id, 'abandon', 'It was not started before it expired.')
      else row(c.id, 'claim', null, null, null, null, null, p_claim.worker, p_claim.lease_id,
        case when p_claim.lease_is_legacy then p_claim.lease_seconds
          else coalesce(c.lease_seconds, p_claim.lease_seconds) end,
        p_claim.lease_is_legacy, null,
        case when p_limited <> '{}' then
          nullif(array(select distinct k from unnest(c.keys) k where k = any (p_limited)), '{}') end
      )::picture_queue.change end
    from unnest(p_candidates) c);
end
$$;

-- What a claim makes of its candidates, in their order: up to p_max_jobs are claimed, those over a
-- limit blocked, the expired abandoned, and those whose keys another claim has locked left alone.
-- p_limited: those of their keys that something holds for.
create function picture_queue._admit(
  p_candidates picture_queue.candidate[], p_limited text[], p_max_jobs integer, p_claim picture_queue.change)
returns picture_queue.change[]
language plpgsql set search_path = ''
as $$
declare
  v_room jsonb;  -- of each limited key that we locked; null: any number
  v_busy text[];
  v_candidate picture_queue.candidate;
  v_change picture_queue.change;
  v_changes picture_queue.change[] := array[]::picture_queue.change[];
  v_keys text[];  -- what is limited, then: of one candidate
  v_full text;
  v_left integer := p_max_jobs;
begin
  v_keys := picture_queue._lock_keys(p_limited);
  v_busy := array(select k from unnest(p_limited) k where k <> all (v_keys));
  select coalesce(jsonb_object_agg(r.key, r.room), '{}') into v_room from picture_queue._rooms(v_keys) r;

  if v_busy = '{}' and cardinality(p_candidates) <= p_max_jobs and not exists (
    select from unnest(p_candidates) c, unnest(c.keys) k
    where k = any (v_keys)
    group by k having count(*) > (v_room ->> k)::integer)
  then
    return picture_queue._admit_all(p_candidates, p_claim, v_keys);
  end if;

  foreach v_candidate in array p_candidates loop
    exit when v_left = 0;
    if v_candidate.expired then
      v_changes := v_changes || picture_queue._change(v_candidate.id, 'abandon', 'It was not started before it expired.');
      continue;
    end if;
    continue when v_candidate.keys && v_busy;
    v_keys := array(select distinct k from unnest(v_candidate.keys) k where v_room ? k);
    v_full := (select min(k) from unnest(v_keys) k where (v_room ->> k)::integer <= 0);
    if v_full is not null then
      v_changes := v_changes || picture_queue._change(v_candidate.id, 'block', null, null, v_full);
    else
      v_change := p_claim;
      v_change.job_id := v_candidate.id;
      v_change.lease_seconds := case when p_claim.lease_is_legacy then p_claim.lease_seconds
        else coalesce(v_candidate.lease_seconds, p_claim.lease_seconds) end;
      v_change.slots := nullif(v_keys, '{}');
      v_changes := v_changes || v_change;
      v_left := v_left - 1;
      v_room := v_room || coalesce(
        (select jsonb_object_agg(k, (v_room ->> k)::integer - 1) from unnest(v_keys) k), '{}');
    end if;
  end loop;
  return v_changes;
end
$$;

-- Takes the slots of claimed jobs, counts their starts, and notes which keys jobs wait for now.
create function picture_queue._take_slots(p_changes picture_queue.change[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_blocked_on text[] := array(select distinct c.key from unnest(p_changes) c where c.action = 'block');
begin
  insert into picture_queue.slot (key, job_id)
  select k, c.job_id from unnest(p_changes) c, unnest(c.slots) k
  on conflict do nothing;
  if exists (select from picture_queue.limit_rule r where r.rate is not null) then
    insert into picture_queue.start (key, at)
    select r.key, v_now
    from unnest(p_changes) c, unnest(c.slots) k
    join picture_queue._rules(array(select distinct s from unnest(p_changes) c, unnest(c.slots) s)) r on r.key = k
    where r.rate is not null;
  end if;
  if v_blocked_on <> '{}' then
    perform picture_queue._note_waiting(v_blocked_on);
  end if;
end
$$;
