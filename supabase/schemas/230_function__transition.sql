-- Every change of state of every job is made here, many at a time, along the edges of
-- picture_queue.edge. A change whose edge does not exist is left out of what is returned, so the
-- caller sees what happened. The caller holds the locks of the rows, taken in the order of their
-- ids, and has checked the lease. What follows for other jobs (children of a finished parent) is
-- made in the same transaction, but not returned.
create function picture_queue._transition(p_changes picture_queue.change[]) returns setof public.job_queue
language plpgsql rows 10 set search_path = ''
as $$
declare
  v_moved public.job_queue[] := picture_queue._move(p_changes);
begin
  return query select * from unnest(v_moved);
  while v_moved is not null loop
    v_moved := picture_queue._move(picture_queue._settle_children(v_moved));
  end loop;
end
$$;

-- One step of _transition: the rows, their history, the counts, the events.
create function picture_queue._move(p_changes picture_queue.change[]) returns public.job_queue[]
language plpgsql set search_path = '' set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_ids uuid[] := array(select c.job_id from unnest(p_changes) c);
  v_jobs public.job_queue[];
  v_traits record;
begin
  if p_changes is null then
    return null;
  end if;
  with moved as (
    update public.job_queue j set
      status = e.to_status,
      hold = e.to_hold,
      attempt = j.attempt + e.attempt_delta,
      max_attempts = case when e.action = 'retry' then greatest(j.max_attempts, j.attempt + 1) else j.max_attempts end,
      scheduled_for = case when e.action in ('retry', 'wake') then null when e.action = 'await' then j.scheduled_for
        when e.to_hold in ('scheduled', 'parked') then c.run_at else j.scheduled_for end,
      -- A lease that expired is forgotten: a late report of it is stale, not a repetition.
      lease_id = case e.action when 'claim' then c.lease_id when 'expire' then null else j.lease_id end,
      lease_expires_at = case when e.action = 'claim' then v_now + make_interval(secs => c.lease_seconds) end,
      lease_seconds = case when e.action = 'claim' then c.lease_seconds else j.lease_seconds end,
      lease_is_legacy = case when e.action = 'claim' then coalesce(c.lease_is_legacy, false) else j.lease_is_legacy end,
      slots = case when e.action = 'claim' then c.slots else j.slots end,
      blocked_on = case e.action when 'claim' then null when 'block' then c.key else j.blocked_on end,
      parked_on = case when e.action = 'park' then c.key else j.parked_on end,
      -- One that parked has started, and is not to be given up when it is woken.
      expires_at = case when e.action = 'park' then null else j.expires_at end,
      event = case e.action when 'wake' then c.result when 'park' then null else j.event end,
      -- Uniqueness that does not cover running jobs ends when the job starts.
      unique_states = case when e.action = 'claim' and not 'processing' = any (j.unique_states) then '{}'
        else j.unique_states end,
      worker = case when e.action = 'claim' then c.worker else j.worker end,
      started_at = case when e.action = 'claim' then v_now else j.started_at end,
      finished_at = case when e.to_status in ('completed', 'failed', 'cancelled') then v_now end,
      cancel_requested_at = case when e.action = 'retry' then null else j.cancel_requested_at end,
      progress = case when e.action = 'complete' then 100
        when e.action in ('back_off', 'expire', 'retry') then 0 else j.progress end,
      message = case when e.action in ('complete', 'back_off', 'expire', 'retry') then null else j.message end,
      result = case when e.action = 'complete' then c.result when e.action = 'retry' then null else j.result end,
      error = case when e.action in ('fail', 'back_off', 'expire', 'abandon') then c.error
        when e.action in ('complete', 'retry') then null when e.action = 'cancel' then coalesce(c.error, j.error)
        else j.error end,
      version = j.version + 1
    from unnest(p_changes) c
    join picture_queue.edge e on e.action = c.action
    where j.id = any (v_ids) and j.id = c.job_id and e.from_status = j.status and e.from_hold is not distinct from j.hold
    returning j as job, e.action, e.from_status, e.from_hold, c.detail, c.duration_seconds
  ),
  remembered as (
    insert into picture_queue.history
      (job_id, at, action, status, hold, attempt, worker, started_at, duration_seconds, error, detail)
    select (m.job).id, v_now, m.action, (m.job).status, (m.job).hold, (m.job).attempt, (m.job).worker,
      case when m.from_status = 'processing' then (m.job).started_at end,
      case when m.from_status = 'processing' and m.from_hold is null
        then coalesce(m.duration_seconds, extract(epoch from v_now - (m.job).started_at)) end,
      case when m.action in ('fail', 'back_off', 'expire', 'abandon') then (m.job).error end, left(m.detail, 8192)
    from moved m
    where m.action not in ('claim', 'complete')
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select d.queue, d.status, d.hold, sum(d.n), v_now
    from (
      select (m.job).queue, m.from_status as status, m.from_hold as hold, -1 as n from moved m
      union all
      select (m.job).queue, (m.job).status, (m.job).hold, 1 from moved m
    ) d
    group by d.queue, d.status, d.hold
    having sum(d.n) <> 0
  )
  select array_agg(m.job),
    bool_or((m.job).version > 50) as long_lived,
    bool_or((m.job).generation_id is not null) as has_generation,
    bool_or((m.job).slots is not null and m.action <> 'claim' and m.from_status = 'processing') as frees_slots,
    bool_or((m.job).blocked_on is not null and (m.job).status <> 'pending') as leaves_key,
    bool_or((m.job).tenant is not null and (m.job).status = 'pending' and (m.job).hold is null) as takes_turn,
    jsonb_agg(jsonb_build_object('batch_id', (m.job).batch_id, 'from', m.from_status, 'to', (m.job).status))
      filter (where (m.job).batch_id is not null) as batches
  into v_traits
  from moved m;
  v_jobs := v_traits.array_agg;
  if v_jobs is null then
    return null;
  end if;

  if v_traits.takes_turn then
    v_jobs := picture_queue._take_turns(v_jobs);
  end if;
  if v_traits.frees_slots or v_traits.leaves_key then
    perform picture_queue._free_keys(v_jobs);
  end if;
  if v_traits.batches is not null then
    perform picture_queue._count_batches(v_traits.batches);
  end if;
  if v_traits.long_lived then
    perform picture_queue._bound_history(v_jobs);
  end if;
  if v_traits.has_generation then
    perform picture_queue._mirror_generations(v_jobs);
  end if;
  perform picture_queue._emit(v_jobs);
  return v_jobs;
end
$$;
