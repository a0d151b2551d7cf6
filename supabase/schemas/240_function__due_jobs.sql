-- What becomes due by the clock: each step takes the ids of jobs, looks at each again under its lock, and
-- leaves those that somebody has locked.

-- Makes scheduled jobs claimable, and parked ones at their poll time. Returns how many.
create function picture_queue._promote_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_moved picture_queue.moved[] := picture_queue._transition((
    select array_agg(picture_queue._change(d.id, case d.hold when 'parked' then 'wake' else 'promote' end))
    from (
      select j.id, j.hold from public.job_queue j
      where j.id = any (p_ids) and j.hold in ('scheduled', 'parked') and j.scheduled_for <= picture_queue._now()
      order by j.id for update skip locked
    ) d));
begin
  perform picture_queue._wake(array(select distinct m.queue from unnest(v_moved) m), 'enqueue');
  return coalesce(cardinality(v_moved), 0);
end
$$;

-- Takes back jobs whose lease ended unheard. The attempt counts, so that a job that kills its worker ends;
-- one that was claimed ahead had not started and loses none. Returns how many.
create function picture_queue._sweep_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_moved picture_queue.moved[] := picture_queue._transition((
    select array_agg(row(d.id,
      case when d.cancel_requested_at is not null then 'cancel'
        when d.claimed_ahead then 'release'
        when d.attempt >= d.max_attempts then 'fail' else 'expire' end,
      null, null, 'The worker was not heard of again before its lease ended.', null, null, null, null, true)::picture_queue.change)
    from (
      select j.id, j.attempt, j.max_attempts, j.cancel_requested_at, j.claimed_ahead from public.job_queue j
      where j.id = any (p_ids) and j.status = 'processing' and j.hold is null and j.lease_expires_at <= picture_queue._now()
        and not exists (
          select from picture_queue.lease_extension x
          where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > picture_queue._now())
      order by j.id for update skip locked
    ) d));
begin
  perform picture_queue._wake(array(select distinct m.queue from unnest(v_moved) m where m.status = 'pending'), 'enqueue');
  return coalesce(cardinality(v_moved), 0);
end
$$;

-- Fails jobs that were not to start any more. Returns how many.
create function picture_queue._expire_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  return coalesce(cardinality(picture_queue._transition((
    select array_agg(picture_queue._change(d.id, 'abandon', 'It was not started before it expired.'))
    from (
      select j.id from public.job_queue j
      where j.id = any (p_ids) and j.status = 'pending' and j.expires_at <= picture_queue._now()
      order by j.id for update skip locked
    ) d))), 0);
end
$$;
