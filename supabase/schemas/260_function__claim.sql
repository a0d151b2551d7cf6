-- A claim in three parts: pick jobs, start them (258), or, when the call is repeated, read what its lease holds.
-- It does nobody else's work: maintenance promotes, sweeps and settles.

-- Picks and locks the first jobs of these queues that can be claimed, in the order rank, turn, seq. What is not
-- to start any more is left to maintenance. p_heads: where the queues begin (_remember_heads).
create function picture_queue._pick(p_claim picture_queue.claim, p_queues text[], p_heads jsonb, p_some_failed boolean)
returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_start_jobs integer := coalesce(p_claim.start_jobs, p_claim.max_jobs);
begin
  return array(
    select o.id
    from (
      select p.id, p.is_last, row_number() over (order by p.rank, p.turn, p.seq) as n
      from unnest(p_queues) as w (name)
      cross join lateral (
        select coalesce((p_heads -> w.name ->> 0)::integer, -2147483648) as rank,
          coalesce((p_heads -> w.name ->> 1)::double precision, '-infinity') as turn,
          coalesce((p_heads -> w.name ->> 2)::bigint, 0) as seq
      ) h
      cross join lateral (
        select j.id, j.rank, j.turn, j.seq, j.attempt + 1 >= j.max_attempts or not coalesce(j.claimed_ahead, true) as is_last
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
        order by j.rank, j.turn, j.seq limit p_claim.max_jobs
        for update skip locked
      ) p
      order by p.rank, p.turn, p.seq limit p_claim.max_jobs
    ) o
    where o.n <= v_start_jobs or not o.is_last);
end
$$;

-- Where many entries of the index had to be passed over (of jobs claimed while an old snapshot keeps them from
-- being cleaned up, or of types the worker cannot run), notes how far, and for a moment the next claims of this
-- worker begin there: at the first job found, or at the end of the queue if there was none. What comes before
-- that meanwhile, a retry or a higher priority, is seen when the moment is over: 5 seconds at most.
-- p_read: entries read before the pick; p_ids: what it found.
create function picture_queue._remember_heads(p_claim picture_queue.claim, p_queues text[], p_read bigint, p_ids uuid[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass) - p_read;
begin
  if v_read <= p_claim.max_jobs + 20000 then
    return;
  end if;
  update picture_queue.worker w set
    heads = (
      select jsonb_object_agg(q.name, jsonb_build_array(h.rank, h.turn, h.seq))
      from unnest(p_queues) as q (name)
      cross join lateral (
        (select j.rank, j.turn, j.seq from public.job_queue j
          where j.id = any (p_ids) and j.queue = q.name order by j.rank, j.turn, j.seq limit 1)
        union all
        (select j.rank, j.turn, j.seq from public.job_queue j
          where j.queue = q.name and j.status = 'pending' and j.hold is null
            and not exists (select from public.job_queue o where o.id = any (p_ids) and o.queue = q.name)
          order by j.rank desc, j.turn desc, j.seq desc limit 1)
      ) h),
    heads_until = case when w.heads_until > picture_queue._now() then w.heads_until
      else picture_queue._now() + make_interval(secs => least(v_read * 0.000005, 5)) end
  where w.name = p_claim.worker;
end
$$;

-- Leases jobs to a worker and answers them. A repeated call reads what its lease still holds: the id of the
-- request is the id of the lease.
create function picture_queue._claim(p_claim picture_queue.claim, p_isolated boolean) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_claim picture_queue.claim := p_claim;
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass);
  v_known record;
  v_heads jsonb;
  v_ids uuid[];
  v_jobs jsonb := '[]'::jsonb;
begin
  -- In one statement, since of a claim by an idle worker each statement counts.
  select coalesce(p_claim.lease_seconds, s.lease_seconds) as lease_seconds,
    array(select q.name from picture_queue.queue q
      where (p_claim.queues is null or q.name = any (p_claim.queues)) and coalesce(q.paused_until <= v_now, true)) as queues,
    exists (select from picture_queue.queue q
      where (p_claim.queues is null or q.name = any (p_claim.queues)) and q.events <> 'none') as is_announced,
    exists (select from public.job_queue j
      where j.status = 'processing' and j.hold is null and j.lease_id = p_claim.lease_id and j.worker = p_claim.worker
        and j.lease_expires_at > v_now) as is_repeated,
    exists (select from picture_queue.limit_rule)
      or exists (select from picture_queue.limit_key k where k.due_at is not null) as is_limited,
    exists (select from picture_queue.failed_step f where f.kind = 'claim') as some_failed,
    w.heads, w.heads_until, w.idle, w.queues = p_claim.queues and w.job_types = p_claim.job_types as is_known,
    w.seen_at > v_now - interval '5 seconds' as was_seen
  into v_known
  from picture_queue.setting s
  left join lateral (
    select * from picture_queue.worker w where w.name = p_claim.worker order by w.seen_at desc limit 1) w on true;
  if v_known.is_repeated then
    return picture_queue._leased_jobs(p_claim.lease_id, p_claim.worker, null);
  end if;
  v_claim.lease_seconds := v_known.lease_seconds;
  v_heads := case when v_known.heads_until > v_now and v_known.is_known then v_known.heads end;

  if v_known.is_limited or p_claim.weights is not null then
    v_ids := picture_queue._claim_limited(v_claim, v_known.queues, v_heads, v_known.some_failed or p_isolated, p_isolated);
  elsif p_isolated then
    v_ids := picture_queue._claim_one_by_one(v_claim, v_known.queues, v_heads);
  else
    v_ids := picture_queue._pick(v_claim, v_known.queues, v_heads, v_known.some_failed);
    if v_ids <> '{}' then
      perform picture_queue._start(v_ids, v_claim, coalesce(p_claim.start_jobs, p_claim.max_jobs), null);
    end if;
  end if;
  if v_ids <> '{}' then
    v_jobs := picture_queue._leased_jobs(
      p_claim.lease_id, p_claim.worker, case when p_claim.weights is not null then v_ids end);
    if v_known.is_announced then
      perform picture_queue._emit(v_ids);
    end if;
  end if;
  if not p_claim.is_legacy then
    -- Its row is written when it becomes idle or every 5 seconds, not at each claim: until then enqueues may wake a
    -- worker that is busy.
    if not coalesce(v_known.is_known and v_known.was_seen and (v_known.idle or cardinality(v_ids) = p_claim.max_jobs), false) then
      perform picture_queue._touch_worker(p_claim.worker, p_claim.queues, p_claim.job_types, cardinality(v_ids) < p_claim.max_jobs);
    end if;
    perform picture_queue._remember_heads(p_claim, v_known.queues, v_read, v_ids);
  end if;
  return v_jobs;
end
$$;

-- Keeps the row of a worker. One that somebody has locked is left as it is: a claim does not wait for it.
create function picture_queue._touch_worker(p_worker text, p_queues text[], p_job_types text[], p_idle boolean)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
begin
  update picture_queue.worker w
  set queues = p_queues, job_types = p_job_types, idle = p_idle, seen_at = picture_queue._now()
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_worker for update skip locked));
  if not found then
    insert into picture_queue.worker (name, queues, job_types, idle, seen_at)
    values (p_worker, p_queues, p_job_types, p_idle, picture_queue._now())
    on conflict do nothing;
  end if;
end
$$;

-- Refuses transactions that do not see what others commit meanwhile: a lease or a limit could be given out twice.
create function picture_queue._check_isolation() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      format('the transaction isolation level is %s', current_setting('transaction_isolation')),
      'use read committed: alter role … set default_transaction_isolation = ''read committed''');
  end if;
end
$$;

-- The claim that travels with a report.
create function picture_queue._claim_of(p_claim jsonb) returns picture_queue.claim
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim picture_queue.claim;
begin
  select c.worker, c.queues, c.job_types, coalesce(c.max_jobs, 1), c.start_jobs, coalesce(c.lease_seconds, 30),
    coalesce(c.request_id, gen_random_uuid()), c.weights, false
  into v_claim
  from jsonb_to_record(p_claim) as c (worker text, queues text[], job_types text[], max_jobs integer,
    start_jobs integer, lease_seconds real, request_id uuid, weights real[]);
  return v_claim;
exception when data_exception then
  perform picture_queue._refuse('PQ_INVALID_ARGUMENT', sqlerrm, 'claim has the parameters of claim_jobs');
  return null;
end
$$;

-- claim_jobs, after a look at its arguments. A claim that fails because of one job is made again, isolated.
create function picture_queue._claim_jobs(p_claim picture_queue.claim) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_problem text := case
    when coalesce(length(p_claim.worker), 0) not between 1 and 200 then format('worker is %s', quote_nullable(left(p_claim.worker, 100)))
    when coalesce(cardinality(p_claim.queues), 0) = 0 then 'queues is empty'
    when greatest(array_ndims(p_claim.queues), array_ndims(p_claim.job_types), array_ndims(p_claim.weights)) > 1
      then 'queues, job_types and weights are plain lists'
    when p_claim.job_types is null then 'job_types is null'
    when cardinality(p_claim.weights) <> cardinality(p_claim.queues) then 'weights are not as many as queues'
    when not 0 < all (p_claim.weights) then format('weights are %s, not above 0', p_claim.weights)
    when p_claim.max_jobs is null or p_claim.max_jobs not between 0 and 1000
      then format('max_jobs is %s, not 0 to 1000', p_claim.max_jobs)
    when p_claim.start_jobs < 0 then format('start_jobs is %s, not 0 or more', p_claim.start_jobs)
    when p_claim.lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', p_claim.lease_seconds)
    when p_claim.lease_id is null then 'request_id is null'
  end;
begin
  if v_problem is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    perform picture_queue._check_isolation();
  end if;
  -- A repeated call waits for the first, to see its jobs.
  perform pg_catalog.pg_advisory_xact_lock(1903326072, pg_catalog.hashtext(p_claim.lease_id::text));
  return picture_queue._claim_isolated(p_claim);
exception when lock_not_available then
  perform picture_queue._refuse('PQ_BUSY', 'the same request is still being answered', 'repeat the call');
  return null;
end
$$;

-- Makes a claim and, if it fails because of one job, makes it again job by job.
create function picture_queue._claim_isolated(p_claim picture_queue.claim) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue._claim(p_claim, false);
exception when others then
  -- Whatever the error is: a trigger of the project may raise any.
  begin
    return picture_queue._claim(p_claim, true);
  exception when others then
    if picture_queue._is_transient(sqlstate) then
      -- A deadlock is rare, but skip locked does wait where a row has changed hands since it was seen.
      perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
    end if;
    raise;
  end;
end
$$;
