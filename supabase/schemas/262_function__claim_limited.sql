-- Claims where limits or weights are in use, and claims made job by job since one of them failed.

-- Picks as _pick does, with the keys of the jobs, p_limit of them. With weights each queue gets its share: the
-- gaps between its jobs are drawn so that they come at the rate of its weight, which holds for claims of one job
-- as well as of many.
create function picture_queue._candidates(
  p_claim picture_queue.claim, p_queues text[], p_heads jsonb, p_some_failed boolean, p_limit integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return array(
    -- The keys as _keys has them, which to call for each job takes longer than to pick it.
    select row(d.id, array['global', 'queue:' || d.queue, 'type:' || d.job_type]
      || case when d.user_id is not null then array['user:' || d.user_id] end || d.limit_keys, d.is_last)::picture_queue.candidate
    from (
      select p.*, case when p_claim.weights is not null then
        sum(-ln(1 - random()) / p_claim.weights[array_position(p_claim.queues, p.queue)])
          over (partition by p.queue order by p.rank, p.turn, p.seq) end as draw
      from unnest(p_queues) as w (name)
      cross join lateral (
        select coalesce((p_heads -> w.name ->> 0)::integer, -2147483648) as rank,
          coalesce((p_heads -> w.name ->> 1)::double precision, '-infinity') as turn,
          coalesce((p_heads -> w.name ->> 2)::bigint, 0) as seq
      ) h
      cross join lateral (
        select j.id, j.queue, j.job_type, j.user_id, j.limit_keys, j.rank, j.turn, j.seq,
          j.attempt + 1 >= j.max_attempts or not coalesce(j.claimed_ahead, true) as is_last
        from public.job_queue j
        where j.queue = w.name and j.status = 'pending' and j.hold is null
          and (j.rank, j.turn, j.seq) >= (h.rank, h.turn, h.seq)
          and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
          -- A late repetition must not give a job the lease of its last attempt: that one's report would fit again.
          and j.lease_id is distinct from p_claim.lease_id
          and (j.expires_at is null or j.expires_at > v_now)
          and (not p_some_failed or not exists (
            select from picture_queue.failed_step f
            where f.kind = 'claim' and f.subject = j.id::text and f.retry_at > v_now))
        order by j.rank, j.turn, j.seq limit p_limit
        for update skip locked
      ) p
    ) d
    order by d.draw, d.rank, d.turn, d.seq limit p_limit);
end
$$;

-- Claims where limits or weights are in use: what is over a limit is blocked and the next are looked at, more at a
-- time, until there are enough or 5,000 were seen: then workers are told to look again. Returns the ids of the
-- jobs started.
create function picture_queue._claim_limited(
  p_claim picture_queue.claim, p_queues text[], p_heads jsonb, p_some_failed boolean, p_isolated boolean)
returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_candidates picture_queue.candidate[];
  v_admitted record;
  v_ids uuid[] := '{}'::uuid[];
  v_started uuid[];
  v_take integer := p_claim.max_jobs;
  v_dealt integer;
  v_seen integer := 0;
  v_start_jobs integer := coalesce(p_claim.start_jobs, p_claim.max_jobs);
  v_since timestamptz := picture_queue._freed_since();
  v_freed text[];  -- keys under which fewer jobs run now, and that jobs wait for
begin
  v_freed := array(
    select k.key
    from (select distinct f.key from picture_queue.freed_key f where f.at > v_since) k
    -- With its own limit, so that it is looked up for each key and never joined with all blocked jobs.
    where (
      select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
    limit 100);
  if v_freed <> '{}' then
    perform picture_queue._isolate('key', v_freed, 100);
  end if;
  loop
    v_candidates := picture_queue._candidates(p_claim, p_queues, p_heads, p_some_failed, v_take);
    exit when cardinality(v_candidates) = 0;
    v_admitted := picture_queue._admit(
      v_candidates, picture_queue._limited_keys(v_candidates), p_claim.max_jobs - cardinality(v_ids),
      v_start_jobs - cardinality(v_ids));
    v_started := picture_queue._start_admitted(p_claim, v_admitted.ids, v_admitted.slots, v_admitted.blocked,
      greatest(v_start_jobs - cardinality(v_ids), 0), p_isolated);
    v_ids := v_ids || v_started;
    v_dealt := cardinality(v_admitted.ids) + coalesce(cardinality(v_admitted.blocked), 0);
    v_seen := v_seen + v_dealt;
    -- Those whose keys somebody else has locked are looked past, a thousand of them at most.
    exit when cardinality(v_ids) >= p_claim.max_jobs or cardinality(v_candidates) < v_take or v_dealt = 0 and v_take >= 1000;
    if v_seen >= 5000 then
      perform picture_queue._wake(p_queues, 'again');
      exit;
    end if;
    v_take := least(greatest(v_take * 4, 20), 1000);
  end loop;
  return v_ids;
end
$$;

-- Starts jobs under their keys and blocks others. Isolated, one by one: a job whose start fails is written down
-- in failed_step and left alone for a while. Returns the ids of those started.
create function picture_queue._start_admitted(
  p_claim picture_queue.claim, p_ids uuid[], p_slots jsonb, p_blocked picture_queue.change[], p_start_jobs integer,
  p_isolated boolean)
returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_change picture_queue.change;
  v_started uuid[] := '{}'::uuid[];
begin
  if not p_isolated then
    if p_ids <> '{}' then
      perform picture_queue._start(p_ids, p_claim, p_start_jobs, nullif(p_slots, '{}'));
    end if;
    if p_slots <> '{}' or p_blocked is not null then
      perform picture_queue._take_slots(p_slots, p_blocked);
    end if;
    return p_ids;
  end if;
  foreach v_id in array p_ids loop
    begin
      perform picture_queue._start(array[v_id], p_claim, p_start_jobs - cardinality(v_started), nullif(p_slots, '{}'));
      perform picture_queue._take_slots(
        case when p_slots ? v_id::text then jsonb_build_object(v_id, p_slots -> v_id::text) else '{}' end, null);
      v_started := v_started || v_id;
    exception when others then
      perform picture_queue._note_failure('claim', v_id::text, sqlerrm);
    end;
  end loop;
  foreach v_change in array coalesce(p_blocked, '{}') loop
    begin
      perform picture_queue._take_slots('{}', array[v_change]);
    exception when others then
      perform picture_queue._note_failure('claim', v_change.job_id::text, sqlerrm);
    end;
  end loop;
  return v_started;
end
$$;

-- Claims job by job, looking past those whose start fails, a thousand of them at most.
create function picture_queue._claim_one_by_one(p_claim picture_queue.claim, p_queues text[], p_heads jsonb)
returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim picture_queue.claim := p_claim;
  v_start_jobs integer := coalesce(p_claim.start_jobs, p_claim.max_jobs);
  v_ids uuid[] := '{}'::uuid[];
  v_picked uuid[];
  v_seen integer := 0;
begin
  loop
    v_claim.max_jobs := p_claim.max_jobs - cardinality(v_ids);
    v_claim.start_jobs := greatest(v_start_jobs - cardinality(v_ids), 0);
    v_picked := picture_queue._pick(v_claim, p_queues, p_heads, true);
    v_ids := v_ids || picture_queue._start_admitted(v_claim, v_picked, '{}', null, v_claim.start_jobs, true);
    v_seen := v_seen + cardinality(v_picked);
    exit when v_picked = '{}' or cardinality(v_ids) = p_claim.max_jobs or v_seen >= 1000;
  end loop;
  return v_ids;
end
$$;
