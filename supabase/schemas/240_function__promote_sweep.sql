-- Makes claimable what its time has come for: scheduled jobs, and parked ones at their poll time.
-- Returns how many.
create function picture_queue._promote(p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changes picture_queue.change[];
begin
  select array_agg(picture_queue._change(d.id, case d.hold when 'parked' then 'wake' else 'promote' end))
  into v_changes
  from (
    select id, hold from public.job_queue
    where hold in ('scheduled', 'parked') and scheduled_for <= picture_queue._now()
    order by scheduled_for limit p_limit
    for update skip locked
  ) d;
  if v_changes is null then
    return 0;
  end if;
  return coalesce(cardinality(picture_queue._transition(v_changes)), 0);
end
$$;

-- Takes back the jobs whose lease ended unheard: the attempt counts, so a job that kills its worker
-- ends. Gives up what was not to start any more. Returns the queues that have work again.
create function picture_queue._sweep(p_limit integer) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changes picture_queue.change[];
  v_queues text[];
begin
  select array_agg(picture_queue._change(
      d.id,
      case when d.cancel_requested_at is not null then 'cancel'
        when d.attempt >= d.max_attempts then 'fail' else 'expire' end,
      'The worker was not heard of again before its lease ended.'))
  into v_changes
  from (
    select id, attempt, max_attempts, cancel_requested_at from public.job_queue
    where status = 'processing' and hold is null and lease_expires_at <= picture_queue._now()
    order by id limit p_limit
    for update skip locked
  ) d;
  if v_changes is not null then
    select array_agg(distinct t.queue) into v_queues from unnest(picture_queue._transition(v_changes)) t where t.status = 'pending';
  end if;

  select array_agg(picture_queue._change(d.id, 'abandon', 'It was not started before it expired.'))
  into v_changes
  from (
    select id from public.job_queue
    where status = 'pending' and expires_at <= picture_queue._now()
    order by expires_at limit p_limit
    for update skip locked
  ) d;
  if v_changes is not null then
    perform picture_queue._transition(v_changes);
  end if;
  return coalesce(v_queues, '{}');
exception when deadlock_detected then
  -- It wanted the child of a job that somebody else has in hand: the next sweep takes them.
  return array[]::text[];
end
$$;
