-- Every change of state of every job is made here, many at a time, along the edges of
-- picture_queue.edge. A change whose edge does not exist is left out of what is returned, so the
-- caller sees what happened. The caller holds the locks of the rows, taken in the order of their
-- ids, and has checked the lease.
create function picture_queue._transition(p_changes picture_queue.change[]) returns setof public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_jobs public.job_queue[];
begin
  with moved as (
    update public.job_queue j set
      status = e.to_status,
      hold = e.to_hold,
      attempt = j.attempt + e.attempt_delta,
      max_attempts = case when e.action = 'retry' then greatest(j.max_attempts, j.attempt + 1) else j.max_attempts end,
      scheduled_for = case when e.to_hold in ('scheduled', 'parked') then c.run_at else j.scheduled_for end,
      -- A lease that expired is forgotten: a late report of it is stale, not a repetition.
      lease_id = case e.action when 'claim' then c.lease_id when 'expire' then null else j.lease_id end,
      lease_expires_at = case when e.action = 'claim' then v_now + make_interval(secs => c.lease_seconds) end,
      lease_seconds = case when e.action = 'claim' then c.lease_seconds else j.lease_seconds end,
      lease_is_legacy = case when e.action = 'claim' then coalesce(c.lease_is_legacy, false) else j.lease_is_legacy end,
      worker = case when e.action = 'claim' then c.worker else j.worker end,
      started_at = case when e.action = 'claim' then v_now else j.started_at end,
      finished_at = case when e.to_status in ('completed', 'failed', 'cancelled') then v_now end,
      cancel_requested_at = case when e.action = 'retry' then null else j.cancel_requested_at end,
      progress = case when e.action = 'complete' then 100
        when e.action in ('back_off', 'expire', 'retry') then 0 else j.progress end,
      message = case when e.action in ('complete', 'back_off', 'expire', 'retry') then null else j.message end,
      result = case when e.action = 'complete' then c.result when e.action = 'retry' then null else j.result end,
      error = case when e.action in ('fail', 'back_off', 'expire') then c.error
        when e.action in ('complete', 'retry') then null else j.error end,
      version = j.version + 1
    from unnest(p_changes) c
    join picture_queue.edge e on e.action = c.action
    where j.id = c.job_id and e.from_status = j.status and e.from_hold is not distinct from j.hold
    returning j as job, e.action, c.detail, c.duration_seconds
  ),
  attempts as (
    insert into picture_queue.attempt
      (job_id, attempt, worker, error, detail, duration_seconds, started_at, ended_at)
    select (m.job).id, (m.job).attempt, (m.job).worker, (m.job).error, left(m.detail, 8192),
      coalesce(m.duration_seconds, extract(epoch from v_now - (m.job).started_at)), (m.job).started_at, v_now
    from moved m
    where m.action in ('fail', 'back_off', 'expire')
  )
  select array_agg(m.job) into v_jobs from moved m;

  perform picture_queue._bound_history(v_jobs);
  perform picture_queue._mirror_generations(v_jobs);
  perform picture_queue._emit(v_jobs);
  return query select * from unnest(v_jobs);
end
$$;

-- Keeps the last 20 failed attempts of each job.
create function picture_queue._bound_history(p_jobs public.job_queue[]) returns void
language sql volatile set search_path = ''
as $$
  delete from picture_queue.attempt a
  using unnest(p_jobs) j
  where j.attempt > 20 and a.job_id = j.id and a.attempt <= j.attempt - 20
$$;

-- The generations of these jobs show their state.
create function picture_queue._mirror_generations(p_jobs public.job_queue[]) returns void
language sql volatile set search_path = ''
as $$
  update public.generations g
  set status = j.status, error = j.error, finished_at = j.finished_at, updated_at = j.updated_at
  from unnest(p_jobs) j
  where j.generation_id is not null and g.id = j.generation_id
    and (g.status, g.error) is distinct from (j.status, j.error)
$$;
