-- Makes all changes of state except claims (_start), many at a time. It skips a change that
-- picture_queue.state_transition does not permit, and a change that names a lease which is not in force; it returns
-- only the jobs that it changed. An expired lease stays in force until maintenance sweeps it. Unless every change
-- names its lease, the caller must hold the row locks, taken in the order of ids or with skip locked. The function
-- writes the rows, their history (of all actions but complete), the counts and the events. It records work for other
-- jobs as follow-ups, and processes the first 20 at once unless p_does_follow_ups is false.
create function picture_queue._transition(p_changes picture_queue.change[], p_does_follow_ups boolean default true)
returns picture_queue.changed_job[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_ids uuid[] := array(select c.job_id from unnest(p_changes) c);
  v_applied picture_queue.applied;
  v_has_children boolean := false;
begin
  if p_changes is null then
    return null;
  end if;
  v_applied := picture_queue._apply_changes(p_changes, v_ids, v_now);
  -- Rarely, fewer jobs changed than requested. If a permitted change did not happen, a trigger of the project returned
  -- null. Then raise an error: without one, the caller would repeat the change forever.
  if coalesce(cardinality(v_applied.changed_jobs), 0) < cardinality(p_changes) and exists (
    select from unnest(p_changes) c
    join public.job_queue j on j.id = any (v_ids) and j.id = c.job_id
    join picture_queue.state_transition e on e.action = c.action and e.from_status = j.status and e.from_hold is not distinct from j.hold
    where (c.lease_id is null or j.lease_id = c.lease_id and j.lease_expires_at is not null)
      and j.id not in (select done.id from unnest(v_applied.changed_jobs) done))
  then
    raise exception 'a trigger on public.job_queue prevented the change of a job';
  elsif v_applied.changed_jobs is null then
    return null;
  end if;
  -- This statement runs after the change, so it sees children that were committed in the meantime. The search takes a
  -- tenth of the time of a report, so it is skipped while the table is empty.
  if pg_relation_size('picture_queue.dependency') > 0 then
    v_has_children := exists (select from picture_queue.dependency d where d.parent_id = any (v_ids));
  end if;
  v_ids := array(select j.id from unnest(v_applied.changed_jobs) j);
  if v_applied.due_at < v_now + interval '2 seconds' then  -- the next round begins within two seconds anyway
    perform picture_queue._wake_maintenance(v_applied.due_at);
  end if;
  if v_applied.takes_turn then
    perform picture_queue._assign_turns(v_ids);
  end if;
  if num_nonnulls(v_applied.ended, v_applied.was_blocked) > 0 then
    perform picture_queue._record_freed_keys(v_applied.ended, v_applied.was_blocked);
  end if;
  if v_applied.has_long_history then
    perform picture_queue._trim_history(v_ids);
  end if;
  if v_applied.has_generation then
    perform picture_queue._mirror_generations(v_ids);
  end if;
  if v_applied.sends_events then
    perform picture_queue._emit(v_ids);
  end if;
  if v_has_children or v_applied.batches is not null then
    perform picture_queue._record_follow_ups(v_applied.changed_jobs, v_applied.batches, p_does_follow_ups);
  end if;
  return v_applied.changed_jobs;
end
$$;

-- Changes the rows, and writes their history and the counts. Returns the changed jobs, and which further steps of
-- _transition they need.
create function picture_queue._apply_changes(p_changes picture_queue.change[], p_ids uuid[], p_now timestamptz)
returns picture_queue.applied
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_applied picture_queue.applied;
begin
  with changed as (
    update public.job_queue j set
      status = c.to_status, hold = c.to_hold, attempt = j.attempt + c.attempt_delta,
      max_attempts = case when c.retries then greatest(j.max_attempts, j.attempt + 1) else j.max_attempts end,
      scheduled_for = case when c.retries or c.wakes then null
        when c.to_hold in ('scheduled', 'parked') and c.action <> 'await' then c.run_at else j.scheduled_for end,
      -- The id of an expired lease is cleared, so that a late report is stale rather than a repetition.
      lease_id = case when c.lease_expired then null else j.lease_id end,
      lease_expires_at = null,
      -- The worker reported, so the start is confirmed, unless the lease expired.
      unconfirmed_claims = case when c.retries or c.from_status = 'processing' and c.lease_expired is not true then 0
        else j.unconfirmed_claims end,
      blocked_on = case when c.action = 'block' then c.key else j.blocked_on end,
      parked_on = case when c.parks then c.key else j.parked_on end,
      parked_at = case when c.parks then p_now else j.parked_at end,
      -- A parked job has started, so it must not expire after it is woken; nor must a job whose retry was requested.
      expires_at = case when c.parks or c.retries then null else j.expires_at end,
      event = case when c.wakes then c.result when c.parks then null else j.event end,
      finished_at = case when c.to_status in ('completed', 'failed', 'cancelled') then p_now end,
      cancel_requested_at = case when c.retries then null else j.cancel_requested_at end,
      progress = case when c.completes then 100 when c.starts_over then 0 else j.progress end,
      message = case when c.completes or c.starts_over then null else j.message end,
      result = case when c.completes then c.result when c.retries then null else j.result end,
      -- A job that expires between two attempts keeps its last error.
      error = case when c.action = 'abandon' then coalesce(case when j.attempt > 0 then j.error end, c.error)
        when c.errs then c.error when c.completes or c.retries then null
        when c.action = 'cancel' then coalesce(c.error, j.error) else j.error end,
      version = j.version + 1, updated_at = p_now
    from (
      -- With offset 0 Postgres evaluates these conditions once for each change, not once for each column that uses
      -- them.
      select c.*, e.from_status, e.from_hold, e.to_status, e.to_hold, e.attempt_delta,
        c.action = 'complete' as completes, c.action = 'retry' as retries, c.action = 'park' as parks, c.action = 'wake' as wakes,
        c.action in ('back_off', 'expire', 'retry') as starts_over,
        c.action in ('fail', 'back_off', 'expire') as errs
      from unnest(p_changes) c join picture_queue.state_transition e on e.action = c.action offset 0
    ) c
    where j.id = any (p_ids) and j.id = c.job_id and c.from_status = j.status and c.from_hold is not distinct from j.hold
      -- A report is fenced by its lease.
      and (c.lease_id is null or j.lease_id = c.lease_id and j.lease_expires_at is not null)
    returning j.id, j.lease_id, c.action, c.from_status, c.from_hold, j.status, j.hold, j.queue, j.tenant, j.batch_id,
      j.generation_id, j.version, j.slots, j.blocked_on, j.attempt, j.worker, j.started_at, j.scheduled_for, j.error, c.detail,
      c.duration_seconds
  ),
  written_history as (
    insert into picture_queue.history
      (job_id, at, action, status, hold, attempt, worker, started_at, duration_seconds, error, detail)
    select j.id, p_now, j.action, j.status, j.hold, j.attempt, j.worker,
      case when j.from_status = 'processing' then j.started_at end,
      case when j.from_status = 'processing' and j.from_hold is null
        then coalesce(j.duration_seconds, extract(epoch from p_now - j.started_at)) end,
      case when j.action in ('fail', 'back_off', 'expire', 'abandon') then j.error end, left(j.detail, 8192)
    from changed j where j.action <> 'complete'
  ),
  written_counts as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select j.queue, d.status, d.hold, sum(d.n), p_now
    from (
      select j.queue, j.from_status, j.from_hold, j.status, j.hold, count(*) as n from changed j
      group by j.queue, j.from_status, j.from_hold, j.status, j.hold
    ) j
    cross join lateral (values (j.from_status, j.from_hold, -j.n), (j.status, j.hold, j.n)) as d (status, hold, n)
    group by j.queue, d.status, d.hold having sum(d.n) <> 0
  )
  select array_agg(row(j.id, j.queue, j.status, j.hold, j.lease_id)::picture_queue.changed_job),
    bool_or(j.queue <> all (array(select q.name from picture_queue.queue q where q.events = 'none'))),
    bool_or(j.version > 50), bool_or(j.generation_id is not null),
    array_agg(j.id) filter (where j.slots is not null and j.from_status = 'processing' and j.from_hold is null),
    array_agg(j.id) filter (where j.blocked_on is not null and j.action not in ('unblock', 'block')),
    bool_or(j.tenant is not null and j.status = 'pending' and j.hold is null),
    min(j.scheduled_for) filter (where j.hold in ('scheduled', 'parked')),
    jsonb_agg(jsonb_build_object('batch_id', j.batch_id, 'from', j.from_status, 'to', j.status))
      filter (where j.batch_id is not null)
  into v_applied
  from changed j;
  return v_applied;
end
$$;
