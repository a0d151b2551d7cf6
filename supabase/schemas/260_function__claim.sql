-- A claim (_claim) has three parts: _pick chooses and locks jobs, _start starts them, and _leased_jobs reads the jobs
-- under the lease. A repeated call does only the last part. A claim does no work for other jobs, except that it
-- unblocks jobs whose limit key has capacity: maintenance does the rest, such as promoting and sweeping.

-- Picks and locks the first p_limit claimable jobs of these queues, in the order rank, turn, seq. With weights it
-- mixes the queues at random: the gaps between the jobs of a queue are exponentially distributed, with the weight as
-- the rate. So each queue gets its share, whether claims are for one job or for many. Up to p_limit jobs of each queue
-- stay locked until the transaction ends, and other claims skip them. Jobs past expires_at, which maintenance fails,
-- and jobs whose start failed recently are left out. p_positions: the position in each queue at which to begin
-- (worker.start_positions).
create function picture_queue._pick(p_claim picture_queue.claim, p_queues text[], p_positions jsonb, p_limit integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_position jsonb := p_positions -> p_queues[1];
  -- Without a position the scan begins before every possible job.
  v_rank integer := coalesce((v_position ->> 0)::integer, -2147483648);
  v_turn double precision := coalesce((v_position ->> 1)::double precision, '-infinity');
  v_seq bigint := coalesce((v_position ->> 2)::bigint, 0);
begin
  if p_claim.weights is not null and cardinality(p_queues) > 1 then
    return array(
      select row(c.id, c.keys, c.blocked_on)::picture_queue.candidate
      from unnest(p_queues) as w (name)
      cross join lateral unnest(picture_queue._pick(p_claim, array[w.name], p_positions, p_limit))
        with ordinality as c (id, keys, blocked_on, n)
      order by sum(-ln(1 - random()) / p_claim.weights[array_position(p_claim.queues, w.name)])
        over (partition by w.name order by c.n)
      limit p_limit);
  elsif cardinality(p_queues) > 1 then
    return picture_queue._pick_from_queues(p_claim, p_queues, p_positions, p_limit);
  end if;
  return array(
    -- The same keys as _limit_keys returns. A function call for each job would take longer than picking the job.
    select row(j.id, case when p_claim.has_limits then array['global', 'queue:' || j.queue, 'type:' || j.job_type]
      || case when j.user_id is not null then array['user:' || j.user_id] end || j.limit_keys end, null)::picture_queue.candidate
    from public.job_queue j
    where j.queue = p_queues[1] and j.status = 'pending' and j.hold is null
      and (j.rank, j.turn, j.seq) >= (v_rank, v_turn, v_seq)
      and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
      -- A repeated call that arrives late must not lease a job again under the lease id of its last attempt: a late
      -- report of that attempt would be accepted.
      and j.lease_id is distinct from p_claim.lease_id
      and (j.expires_at is null or j.expires_at > v_now)
      -- Search failed_step for each job, so that the time does not depend on the number of other jobs whose start
      -- failed.
      and (not p_claim.has_failed_starts or coalesce((
        select f.retry_at <= v_now from picture_queue.failed_step f
        where f.kind = 'claim' and f.subject = j.id::text), true))
    order by j.rank, j.turn, j.seq limit p_limit
    for update skip locked);
end
$$;

-- Does the same as _pick for several queues without weights. It lists the first jobs without locking them, and then
-- locks jobs in this order until it has enough. So it locks only jobs that it returns. If it locked more jobs, other
-- workers could not claim them until the end of the transaction, and a caller of claim_next_job may keep its
-- transaction open while the job runs. If too many of the listed jobs are locked or left out, it lists more.
create function picture_queue._pick_from_queues(
  p_claim picture_queue.claim, p_queues text[], p_positions jsonb, p_limit integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_list_size integer := p_limit;
  v_listed uuid[];
  v_picked picture_queue.candidate[];
begin
  loop
    v_listed := array(
      select l.id
      from unnest(p_queues) as w (name)
      cross join lateral (
        select j.id, j.rank, j.turn, j.seq from public.job_queue j
        where j.queue = w.name and j.status = 'pending' and j.hold is null
          and (j.rank, j.turn, j.seq) >= (coalesce((p_positions -> w.name ->> 0)::integer, -2147483648),
            coalesce((p_positions -> w.name ->> 1)::double precision, '-infinity'),
            coalesce((p_positions -> w.name ->> 2)::bigint, 0))
          and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
        order by j.rank, j.turn, j.seq limit v_list_size
      ) l
      order by l.rank, l.turn, l.seq limit v_list_size);
    v_picked := array(
      select row(j.id, case when p_claim.has_limits
        then picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys) end, null)::picture_queue.candidate
      from unnest(v_listed) with ordinality as l (id, n)
      join public.job_queue j on j.id = l.id
      -- The case expression keeps the planner from using an index on these columns; it finds each job by its id, since
      -- p_queues may be long.
      where case when j.queue = any (p_queues) and j.status = 'pending' and j.hold is null
          and j.lease_id is distinct from p_claim.lease_id
          and (j.expires_at is null or j.expires_at > v_now)
        then not p_claim.has_failed_starts or coalesce((
          select f.retry_at <= v_now from picture_queue.failed_step f
          where f.kind = 'claim' and f.subject = j.id::text), true) end
      order by l.n limit p_limit
      for update of j skip locked);
    exit when cardinality(v_picked) = p_limit or cardinality(v_listed) < v_list_size;
    v_list_size := v_list_size * 4;
  end loop;
  return v_picked;
end
$$;

-- Stores where the next claims of a worker begin in each queue. _claim calls it after it has read many index entries
-- without a job for this worker (dead entries that an old snapshot keeps, or jobs of other types). The position is
-- that of the first job that the worker can run, or of the last job of the queue if there is none. The claims of this
-- worker begin there for 5 microseconds for each entry that was read (p_read), at most for 5 seconds; jobs before the
-- position (a retry, a higher priority) wait until then.
create function picture_queue._store_start_positions(p_claim picture_queue.claim, p_open_queues text[], p_read bigint)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  update picture_queue.worker w set
    start_positions = (
      select jsonb_object_agg(q.name, jsonb_build_array(h.rank, h.turn, h.seq))
      from unnest(p_open_queues) as q (name)
      cross join lateral (
        select o.*
        from (
          (select 1 as n, j.rank, j.turn, j.seq from public.job_queue j
            where j.queue = q.name and j.status = 'pending' and j.hold is null
              and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
            order by j.rank, j.turn, j.seq limit 1)
          union all
          (select 2, j.rank, j.turn, j.seq from public.job_queue j
            where j.queue = q.name and j.status = 'pending' and j.hold is null
            order by j.rank desc, j.turn desc, j.seq desc limit 1)
        ) o
        order by o.n limit 1
      ) h),
    positions_until = case when w.positions_until > picture_queue._now() then w.positions_until
      else picture_queue._now() + make_interval(secs => least(p_read * 0.000005, 5)) end
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_claim.worker for update skip locked));
end
$$;

-- Writes the row of a worker. If another transaction has locked the row, it stays unchanged, since a claim must not
-- wait.
create function picture_queue._touch_worker(p_worker text, p_queues text[], p_job_types text[], p_idle boolean)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
begin
  update picture_queue.worker w
  set queues = p_queues, job_types = p_job_types, idle = p_idle, seen_at = picture_queue._now()
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_worker for update skip locked));
  -- An insert would wait for another transaction that inserts the same name, hence the advisory lock.
  if not found and not exists (select from picture_queue.worker w where w.name = p_worker)
    and pg_catalog.pg_try_advisory_xact_lock(1903326073, pg_catalog.hashtext(p_worker))
  then
    insert into picture_queue.worker (name, queues, job_types, idle, seen_at)
    values (p_worker, p_queues, p_job_types, p_idle, picture_queue._now())
    on conflict do nothing;
  end if;
end
$$;

-- Picks jobs and starts them. If not all picked jobs start, because of a limit or because their start fails, it picks
-- more, until enough jobs have started, or no jobs are left (is_last). If it has picked 5,000 jobs, or a second has
-- passed, it stops and sends a message that tells workers to claim again.
create function picture_queue._pick_and_start(
  p_claim picture_queue.claim, p_queues text[], p_positions jsonb, out ids uuid[], out is_last boolean)
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_remaining picture_queue.claim := p_claim;  -- max_jobs: how many more jobs may start
  v_pick_size integer := p_claim.max_jobs;
  v_picked picture_queue.candidate[];
  v_started record;
  v_previous_ids uuid[];  -- the ids of the previous pick, sorted
  v_total_picked integer := 0;
begin
  ids := '{}'::uuid[];
  loop
    v_picked := picture_queue._pick(v_remaining, p_queues, p_positions, v_pick_size);
    is_last := v_picked = '{}';
    exit when is_last;
    v_started := picture_queue._start_isolated(v_picked, v_remaining);
    ids := ids || v_started.ids;
    v_remaining.max_jobs := p_claim.max_jobs - cardinality(ids);
    -- Stop if all picked jobs have started, if enough jobs have, or if none has and the pick is the same as before.
    exit when cardinality(v_started.ids) = cardinality(v_picked) or v_remaining.max_jobs <= 0
      or v_started.ids = '{}' and cardinality(v_picked) < v_pick_size and v_started.has_skipped is not true
        and array(select c.id from unnest(v_picked) c order by c.id) is not distinct from v_previous_ids;
    -- The next round may start other jobs of this pick: the jobs that were just blocked were numbered under their
    -- other keys, too (_admit).
    v_previous_ids := array(select c.id from unnest(v_picked) c order by c.id);
    v_total_picked := v_total_picked + cardinality(v_picked);
    if v_total_picked >= 5000 or clock_timestamp() > statement_timestamp() + interval '1 second'
      or v_started.has_skipped and cardinality(v_picked) < v_pick_size
    then
      perform picture_queue._wake_workers(p_queues, 'again');
      exit;
    end if;
    v_pick_size := least(greatest(v_pick_size * 4, 20), 5000);
    v_remaining.has_failed_starts := true;  -- a start may have failed in this round
  end loop;
end
$$;

-- Leases jobs to a worker and returns them. The id of the request is the id of the lease, so a repeated call returns
-- the jobs that are still under this lease: an empty list if the lease has expired, but was not swept yet. If no job
-- runs under this lease any more, the call is a new claim.
create function picture_queue._claim(p_claim picture_queue.claim) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_claim picture_queue.claim := p_claim;
  -- The number of index entries that the transaction has read so far; later, the number that this claim has read.
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass);
  v_context record;  -- the state of the worker, its queues and the limits
  v_started record;
  v_is_full boolean;  -- whether as many jobs started as the worker wants
begin
  perform picture_queue._check_isolation();
  -- A repeated call waits for the first, to see its jobs.
  perform pg_catalog.pg_advisory_xact_lock(1903326072, pg_catalog.hashtext(p_claim.lease_id::text));
  -- One statement, since each statement adds to the latency of a claim by an idle worker.
  select coalesce(p_claim.lease_seconds, s.lease_seconds) as lease_seconds, q.names as queues, q.sends_events,
    exists (select from public.job_queue j
      where j.status = 'processing' and j.hold is null and j.lease_id = p_claim.lease_id and j.worker = p_claim.worker)
      as is_repeated,
    exists (select from picture_queue.limit_rule)
      or exists (select from picture_queue.limit_key k where k.paused_until > v_now) as has_limits,
    exists (select from picture_queue.failed_step f where f.kind = 'claim') as has_failed_starts,
    w.idle, case when w.is_same and w.positions_until > v_now then w.start_positions end as positions,
    w.is_same and w.seen_at > v_now - interval '5 seconds' as is_current
  into v_context
  from picture_queue.setting s
  cross join (
    select coalesce(array_agg(q.name) filter (where coalesce(q.paused_until <= v_now, true)), '{}') as names,
      bool_or(q.events <> 'none') as sends_events
    from picture_queue.queue q where p_claim.queues is null or q.name = any (p_claim.queues)) q
  left join lateral (
    select w.*, w.queues = p_claim.queues and w.job_types = p_claim.job_types as is_same
    from picture_queue.worker w where w.name = p_claim.worker order by w.seen_at desc limit 1) w on true;
  if v_context.is_repeated then
    return picture_queue._leased_jobs(p_claim.lease_id, p_claim.worker, null);
  end if;
  v_claim.lease_seconds := v_context.lease_seconds;
  v_claim.has_limits := v_context.has_limits;
  v_claim.has_failed_starts := v_context.has_failed_starts;
  if v_context.has_limits then
    perform picture_queue._unblock_freed_keys();
  end if;
  v_started := picture_queue._pick_and_start(v_claim, v_context.queues, v_context.positions);
  v_is_full := cardinality(v_started.ids) = p_claim.max_jobs;
  if v_started.ids <> '{}' and v_context.sends_events then
    perform picture_queue._emit(v_started.ids);
  end if;
  -- Write the row of the worker when it becomes idle, otherwise every 5 seconds. In between, idle may still be true
  -- for a busy worker, which only causes needless wake-ups.
  if not coalesce(p_claim.is_legacy or v_context.is_current and (v_context.idle or v_is_full), false) then
    perform picture_queue._touch_worker(p_claim.worker, p_claim.queues, p_claim.job_types, not v_is_full);
  end if;
  v_read := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass) - v_read;
  -- After 20,000 entries without a job for this worker. With limits only if no job is left: jobs that this claim
  -- blocked may come before the position, and would have to wait when they are unblocked.
  if v_read > p_claim.max_jobs + 20000 and (not v_context.has_limits or v_started.is_last) then
    perform picture_queue._store_start_positions(p_claim, v_context.queues, v_read);
  end if;
  return case when v_started.ids = '{}' then '[]'::jsonb else picture_queue._leased_jobs(
    p_claim.lease_id, p_claim.worker, case when p_claim.weights is not null then v_started.ids end) end;
exception when others then
  -- A lock timeout also occurs if the first call with this request id is still in progress. A deadlock is possible,
  -- since even `skip locked` waits for a row if another transaction changed it after this claim had read it.
  perform picture_queue._translate_error(sqlstate, sqlerrm, 'another transaction holds what this claim needs');
  raise;
end
$$;
