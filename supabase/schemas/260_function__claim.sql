-- Keeps the row of a worker.
create function picture_queue._touch_worker(
  p_worker text, p_queues text[], p_job_types text[], p_idle boolean, p_swept boolean)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  insert into picture_queue.worker as w (name, queues, job_types, idle, seen_at, swept_at)
  values (p_worker, p_queues, p_job_types, p_idle, v_now, v_now)
  on conflict (name) do update
  set queues = p_queues, job_types = p_job_types, idle = p_idle, seen_at = v_now,
    swept_at = case when p_swept then v_now else w.swept_at end;
end
$$;

-- The best candidates of these queues, locked, in the order of claims. Without weights the queues are
-- one line; with weights each queue gets its share: the gaps between its jobs are drawn so that they
-- come at the rate of its weight, which holds for claims of one job as well as of many. What was not to
-- start any more is left to the next sweep.
create function picture_queue._candidates(
  p_worker text, p_queues text[], p_weights real[], p_job_types text[], p_limit integer, p_heads jsonb)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass);
  v_candidates picture_queue.candidate[];
begin
  v_candidates := array(
    -- The keys as _keys has them, which to call for each job takes longer than to pick it.
    select row(d.id, array['global', 'queue:' || d.queue, 'type:' || d.job_type]
      || case when d.user_id is not null then array['user:' || d.user_id] end || d.limit_keys)::picture_queue.candidate
    from (
      select p.*, sum(-ln(1 - random()) / w.weight) over (partition by p.queue order by p.rank, p.turn, p.seq) as draw
      from unnest(p_queues, p_weights) as w (name, weight)
      cross join lateral (
        select coalesce((p_heads -> w.name ->> 0)::integer, -2147483648) as rank,
          coalesce((p_heads -> w.name ->> 1)::double precision, '-infinity') as turn,
          coalesce((p_heads -> w.name ->> 2)::bigint, 0) as seq
      ) h
      cross join lateral (
        select j.id, j.queue, j.job_type, j.user_id, j.limit_keys, j.rank, j.turn, j.seq
        from public.job_queue j
        where j.queue = w.name and j.status = 'pending' and j.hold is null
          and (j.rank, j.turn, j.seq) >= (h.rank, h.turn, h.seq)
          and (p_job_types is null or j.job_type = any (p_job_types))
          and (j.expires_at is null or j.expires_at > v_now)
        order by j.rank, j.turn, j.seq limit p_limit
        for update skip locked
      ) p
    ) d
    order by d.draw, d.rank, d.turn, d.seq limit p_limit);
  perform picture_queue._remember_heads(
    p_worker, v_read, p_limit, p_heads, array(select c.id from unnest(v_candidates) c));
  return v_candidates;
end
$$;

-- Before a claim locks anything: a new rule (set_limit) waits for the claims that do not know it yet, and
-- those that come after wait for the rule.
create function picture_queue._know_rules() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_catalog.pg_advisory_xact_lock_shared(1903326069, 0);
end
$$;

-- Leases up to p_max_jobs of what can be claimed, in the order rank, turn, seq. A repeated call (same
-- p_request_id) gives the jobs of the first again: the request id is the lease id. p_queues null:
-- every queue; p_job_types null: every type. Where limits are in use, what is over one is put aside
-- and the next are looked at, more at a time, until there are enough or 5,000 were seen: then, or when
-- another claim had a key in hand, the workers are told to look again.
create function picture_queue._claim(
  p_worker text, p_queues text[], p_weights real[], p_job_types text[], p_max_jobs integer, p_lease_seconds real,
  p_request_id uuid, p_legacy boolean)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_known record;
  v_weights real[];  -- of the queues that are known
  v_candidates picture_queue.candidate[];
  v_keys text[] := array[]::text[];  -- of the candidates, those that something holds for
  v_due text[];
  v_admitted record;
  v_started jsonb;
  v_jobs jsonb := '[]'::jsonb;
  v_left integer := p_max_jobs;
  v_take integer := p_max_jobs;
  v_dealt integer;
  v_seen integer := 0;
  v_again boolean := false;
begin
  -- In one statement, since of a claim by an idle worker each statement counts.
  select coalesce(p_lease_seconds, s.lease_seconds) as lease_seconds,
    array(select q.name from picture_queue.queue q
      where (p_queues is null or q.name = any (p_queues)) and coalesce(q.paused_until <= v_now, true)) as names,
    array(select j.id from public.job_queue j
      where j.status = 'processing' and j.hold is null and j.lease_id = p_request_id and j.worker = p_worker) as ids,
    exists (select from picture_queue.limit_rule) or exists (select from picture_queue.limit_key) as limited,
    exists (select from public.job_queue j
      where j.hold in ('scheduled', 'parked') and j.scheduled_for <= v_now) as due,
    (select w.heads from picture_queue.worker w
      where w.name = p_worker and w.heads_until > v_now and w.job_types = p_job_types) as heads
  into v_known
  from picture_queue.setting s;
  if v_known.due and v_known.ids = '{}' then
    perform picture_queue._promote(100);
  end if;
  if v_known.ids <> '{}' or not v_known.limited and p_weights is null then
    return picture_queue._start(
      p_worker, p_request_id, v_known.lease_seconds, p_legacy, v_known.names, p_job_types, p_max_jobs, v_known.heads,
      nullif(v_known.ids, '{}'), null, false);
  end if;

  if p_weights is not null then
    v_weights := array(
      select p_weights[array_position(p_queues, u.name)] from unnest(v_known.names) with ordinality as u (name, i)
      order by u.i);
  end if;
  loop
    v_candidates := picture_queue._candidates(
      p_worker, v_known.names, v_weights, p_job_types, v_take, v_known.heads);
    if v_known.limited then
      v_keys := picture_queue._limited_keys(v_candidates);
      if v_due is null then
        v_due := picture_queue._due_keys();
        continue when v_due <> '{}' and picture_queue._unblock(v_due, v_keys);
      end if;
    end if;
    exit when cardinality(v_candidates) = 0;
    v_admitted := picture_queue._admit(v_candidates, v_keys, v_left);
    v_started := picture_queue._start(
      p_worker, p_request_id, v_known.lease_seconds, p_legacy, v_known.names, null, 0, null,
      v_admitted.ids, v_admitted.slots, p_weights is not null);
    if v_keys <> '{}' then
      perform picture_queue._transition(v_admitted.blocked);
      perform picture_queue._take_slots(v_admitted.slots, v_admitted.blocked);
    end if;
    v_jobs := v_jobs || v_started;
    v_left := v_left - jsonb_array_length(v_started);
    v_dealt := cardinality(v_admitted.ids) + coalesce(cardinality(v_admitted.blocked), 0);
    v_seen := v_seen + v_dealt;
    v_again := v_left > 0 and (v_seen >= 5000 or v_dealt < cardinality(v_candidates));
    exit when v_left = 0 or v_again or cardinality(v_candidates) < v_take;
    v_take := case when v_known.limited then least(greatest(v_take * 4, 20), 1000) else v_left end;
  end loop;
  if v_again then
    perform picture_queue._wake(v_known.names, 'again');
  end if;
  return v_jobs;
end
$$;

-- claim_jobs for the worker: sweeps once a second at most, and remembers a worker that found less
-- than it asked for, so that the next enqueue wakes it.
create function picture_queue._claim_jobs(
  p_worker text, p_queues text[], p_job_types text[], p_max_jobs integer, p_lease_seconds real, p_request_id uuid,
  p_weights real[])
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_problem text := case
    when coalesce(p_worker, '') = '' then 'worker is empty'
    when coalesce(cardinality(p_queues), 0) = 0 then 'queues is empty'
    when p_job_types is null then 'job_types is null'
    when cardinality(p_weights) <> cardinality(p_queues) then 'weights are not as many as queues'
    when not 0 < all (p_weights) then format('weights are %s, not above 0', p_weights)
    when p_max_jobs is null or p_max_jobs not between 0 and 1000 then format('max_jobs is %s, not 0 to 1000', p_max_jobs)
    when p_lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', p_lease_seconds)
    when p_request_id is null then 'request_id is null'
  end;
  v_worker picture_queue.worker;
  v_sweep boolean;
  v_idle boolean;
  v_jobs jsonb;
begin
  if v_problem is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
  -- A repeated call waits for the first, to see its jobs.
  perform picture_queue._know_rules(),
    pg_catalog.pg_advisory_xact_lock(1903326072, pg_catalog.hashtext(p_request_id::text));
  select w.* into v_worker from picture_queue.worker w where w.name = p_worker;
  v_sweep := coalesce(v_worker.swept_at <= v_now - interval '1 second', true);
  if v_sweep then
    perform picture_queue._sweep(100);
    perform picture_queue._run_schedules(100);
  end if;
  v_jobs := picture_queue._claim(
    p_worker, p_queues, p_weights, p_job_types, p_max_jobs, p_lease_seconds, p_request_id, false);
  v_idle := jsonb_array_length(v_jobs) < p_max_jobs;
  -- Its row is written when something changed or every 5 seconds, not at each claim.
  if v_sweep or v_worker.name is null or v_worker.idle <> v_idle or v_worker.queues <> p_queues
    or v_worker.job_types <> p_job_types or v_worker.seen_at <= v_now - interval '5 seconds'
  then
    perform picture_queue._touch_worker(p_worker, p_queues, p_job_types, v_idle, v_sweep);
  end if;
  return v_jobs;
end
$$;
