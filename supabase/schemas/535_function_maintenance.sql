-- Maintenance: work that is due and that no other call triggers, and housekeeping, which keeps the tables small.

-- Does the work that is due: promotes jobs, ends expired leases, fails expired jobs, runs schedules, processes
-- follow-ups and events, counts the running jobs of new limits, reorders queues and unblocks keys. It processes up to
-- p_limit subjects (jobs, schedules, keys, …) of each kind; if a step fails for one subject, it is still done for the
-- others (_run_isolated). The selects skip locked jobs, so that jobs that other sessions have locked do not use up
-- p_limit. Returns the number of subjects of each kind.
create function picture_queue._do_due_steps(p_limit integer, p_sweeps boolean) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100 set lock_timeout = '500ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_kind text;
  v_result jsonb;
  v_resolved integer := 0;
begin
  v_result := jsonb_build_object(
    'promoted', picture_queue._run_isolated('promote', array(
      select j.id::text from public.job_queue j
      where j.hold in ('scheduled', 'parked') and j.scheduled_for <= v_now
        and j.id::text not in (select picture_queue._failed_subjects('promote'))
      order by j.scheduled_for limit p_limit for update skip locked), p_limit),
    'swept', picture_queue._run_isolated('sweep', case when p_sweeps then picture_queue._jobs_with_expired_lease(p_limit) end, p_limit),
    'expired', picture_queue._run_isolated('abandon', array(
      select j.id::text from public.job_queue j
      where j.status = 'pending' and j.expires_at <= v_now and j.id::text not in (select picture_queue._failed_subjects('abandon'))
      order by j.expires_at limit p_limit for update skip locked), p_limit),
    'scheduled', picture_queue._run_isolated('schedule', array(
      select s.name from picture_queue.schedule s
      where not s.paused and s.next_at <= v_now and s.name not in (select picture_queue._failed_subjects('schedule'))
      order by s.next_at limit p_limit), p_limit));
  foreach v_kind in array array['parent', 'child', 'settlement'] loop
    v_resolved := v_resolved + picture_queue._run_isolated(v_kind, array(
      select f.id::text from picture_queue.follow_up f
      where f.kind = v_kind and f.due_at <= v_now and f.id::text not in (select picture_queue._failed_subjects(v_kind))
      order by f.due_at, f.id limit p_limit), p_limit);
  end loop;
  return v_result || jsonb_build_object(
    'resolved', v_resolved + picture_queue._run_isolated('batch', array(
      select distinct f.subject::text
      from (select o.subject from picture_queue.follow_up o
        where o.kind = 'batch' and o.due_at <= v_now and o.subject::text not in (select picture_queue._failed_subjects('batch'))
        order by o.due_at, o.id limit p_limit) f), p_limit)
    + picture_queue._run_isolated('event', array(
      select s.name from picture_queue.external_event s
      where s.check_at <= v_now and s.name not in (select picture_queue._failed_subjects('event'))
      order by s.check_at limit p_limit), p_limit)
    + picture_queue._run_isolated('callback', array(
      select b.id::text from picture_queue.batch b
      where b.finished_at is not null and b.callback is not null and b.callback_job_id is null and b.callback_error is null
        and b.id::text not in (select picture_queue._failed_subjects('callback'))
      order by b.finished_at limit p_limit), p_limit),
    'counted', picture_queue._run_isolated('rule', array(
      select r.key from picture_queue.limit_rule r
      where (r.count_at <= v_now or r.count_at is null and not r.counted)
        and r.key not in (select picture_queue._failed_subjects('rule')) limit 100), p_limit),
    'reordered', picture_queue._run_isolated('reorder', array(
      select q.name from picture_queue.queue q
      where q.reorder_after is not null and q.name not in (select picture_queue._failed_subjects('reorder'))), p_limit * 5),
    'keys', picture_queue._run_isolated('key', array(
      select distinct f.key
      from (select o.key from picture_queue.freed_key o
        where o.at <= v_now and o.key not in (select picture_queue._failed_subjects('key')) order by o.at limit p_limit * 10) f
      limit p_limit), p_limit));
end
$$;

-- Returns up to p_limit jobs whose lease has expired. It reads all running jobs, so it sets the time of the next scan
-- (sweep_at) by their number: in 0.9 seconds, or in a second for each 4,000 jobs.
create function picture_queue._jobs_with_expired_lease(p_limit integer) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_running integer;
  v_overdue uuid[];
begin
  select count(*), array_agg(j.id) filter (where j.lease_expires_at <= v_now) into v_running, v_overdue
  from public.job_queue j where j.status = 'processing' and j.hold is null;
  update picture_queue.maintenance m set sweep_at = v_now + interval '1 second' * greatest(v_running / 4000.0, 0.9)
  where m.only_row = any (array(select o.only_row from picture_queue.maintenance o for update skip locked))
    and coalesce(cardinality(v_overdue), 0) <= p_limit;
  return array(
    select j.id::text from public.job_queue j
    where j.id = any (v_overdue) and j.lease_expires_at <= v_now
      and not exists (
        select from picture_queue.lease_extension x
        where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > v_now)
      and j.id::text not in (select picture_queue._failed_subjects('sweep'))
    limit p_limit for update skip locked);
end
$$;

-- Runs one round of maintenance. One worker at a time does the maintenance of the project, under a lease of five
-- seconds that each of its calls extends. A call without p_worker runs a round if no worker holds the lease, but does
-- not acquire the lease. With p_force the lease is ignored; this is the default here, for pg_cron, but not in
-- maintain_jobs. Returns leased (whether the round was done, also for a call without p_worker), the number of subjects
-- of each step, and next_in (the seconds until the next call).
create function picture_queue.maintain(p_force boolean default true, p_worker text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
set lock_timeout = '500ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_state picture_queue.maintenance;
  v_worker text := coalesce(p_worker, '');
  v_has_row boolean;
  v_prunes boolean;
  v_does_housekeeping boolean;
  v_has_more_work boolean;
  v_started_at timestamptz := clock_timestamp();
  v_step_size integer;
  v_result jsonb := '{}'::jsonb;
  v_next_round_at timestamptz;
begin
  perform picture_queue._check_isolation();
  perform set_config('picture_queue.is_worker', 'true', true);  -- _check_deferred_constraints then checks all tables
  select * into v_state from picture_queue.maintenance;
  v_step_size := case when p_force then 1000 else v_state.step_size end;
  if length(v_worker) > 200 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', format('worker has %s characters, at most 200 are possible', length(v_worker)));
  elsif not p_force and v_state.leased_until > v_now and v_state.worker <> v_worker then
    return jsonb_build_object('leased', false, 'next_in', extract(epoch from v_state.leased_until - v_now));
  end if;
  perform from picture_queue.maintenance for update skip locked;
  v_has_row := found;
  -- Another round is running. If the last recorded round began over ten seconds ago, run this round all the same: each
  -- step skips locked rows.
  if not v_has_row and not p_force and v_state.round_began_at > v_now - interval '10 seconds' then
    return '{"leased": false, "next_in": 1}'::jsonb;
  end if;
  -- A round that is not forced does either housekeeping or due work, and two rounds of housekeeping never follow each
  -- other. A round that cannot lock the row of picture_queue.maintenance cannot record that it did housekeeping, so it
  -- does the due work as well. So due work waits for at most one round.
  v_does_housekeeping := p_force
    or least(v_state.aggregate_at, v_state.prune_at) <= v_now and not (v_state.was_housekeeping and v_has_row);
  v_prunes := v_does_housekeeping and (p_force or v_state.prune_at <= v_now);
  if v_does_housekeeping then
    v_result := jsonb_build_object('aggregated', picture_queue._run_isolated('aggregate', '{depth_change}', 50000));
  end if;
  if v_prunes then
    v_result := v_result || picture_queue._prune(0.2);
  end if;
  if p_force or not v_does_housekeeping or not v_has_row then
    perform set_config('picture_queue.deadline', (v_started_at + interval '2 seconds')::text, true);
    v_result := v_result || picture_queue._do_due_steps(v_step_size, p_force or v_state.sweep_at <= v_now);
    perform set_config('picture_queue.deadline', '', true);
    -- A transaction that adds work due before v_next_round_at wakes the worker that holds the lease.
    v_next_round_at := least(v_now + interval '2 seconds',
      (select j.scheduled_for from public.job_queue j
        where j.hold in ('scheduled', 'parked') and j.scheduled_for > v_now order by j.scheduled_for limit 1),
      (select s.next_at from picture_queue.schedule s where not s.paused and s.next_at > v_now order by s.next_at limit 1),
      (select f.due_at from picture_queue.follow_up f where f.due_at > v_now order by f.due_at limit 1),
      (select s.check_at from picture_queue.external_event s where s.check_at > v_now order by s.check_at limit 1),
      (select f.at from picture_queue.freed_key f where f.at > v_now order by f.at limit 1));
  end if;
  -- Starts wait for the accounts that this step locks, until the transaction ends.
  perform picture_queue._add_old_changes() where v_prunes;
  -- If a step reached its limit, or the round used up its time, there is more work: let the worker call again at once.
  v_has_more_work := exists (select from jsonb_each_text(v_result - 'aggregated') d where d.value ~ '^[0-9]+$' and d.value::integer >= v_step_size);
  if v_next_round_at is null or v_has_more_work or clock_timestamp() > v_started_at + interval '2 seconds' then
    v_next_round_at := v_now;
  end if;
  update picture_queue.maintenance m set round_began_at = v_now, next_round_at = v_next_round_at,
    step_size = case when clock_timestamp() > v_started_at + interval '1 second' then greatest(v_step_size / 4, 10)
      when v_has_more_work and clock_timestamp() < v_started_at + interval '0.2 seconds' then least(v_step_size * 2, 500)
      else m.step_size end,
    was_housekeeping = v_does_housekeeping and not p_force,
    -- Run the step again at once if rows are left.
    aggregate_at = case when not v_does_housekeeping then m.aggregate_at
      when (v_result ->> 'aggregated')::integer < 50000 then v_now + interval '5 seconds' else v_now end,
    prune_at = case when not v_prunes then m.prune_at
      when (v_result ->> 'more')::boolean then v_now else v_now + interval '1 minute' end,
    worker = case when p_force or p_worker is null then m.worker else v_worker end,
    leased_until = case when p_force or p_worker is null then m.leased_until
      else picture_queue._now() + interval '5 seconds' end
  where m.only_row = any (array(select o.only_row from picture_queue.maintenance o for update skip locked));
  return v_result || jsonb_build_object('leased', true, 'failed', (select count(*) from picture_queue.failed_step),
    'next_in', greatest(extract(epoch from v_next_round_at - picture_queue._now()), 0));
end
$$;

create function public.maintain_jobs(force boolean default false, worker text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue.maintain(coalesce(force, false), worker);
exception when deadlock_detected or lock_not_available then
  return picture_queue._raise_busy();
end
$$;
comment on function public.maintain_jobs is
  'Does the maintenance that is due; returns the work done and the time of the next call.';
