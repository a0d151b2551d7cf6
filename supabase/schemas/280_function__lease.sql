-- Locks a job and returns its row. Raises PQ_UNKNOWN_JOB if there is no such job, and PQ_STALE_LEASE if the lease is
-- not in force. If p_needs_lease is false, a lease is not required.
create function picture_queue._lock_job(p_job_id uuid, p_lease_id uuid default null, p_needs_lease boolean default true)
returns public.job_queue
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.job_queue;
begin
  perform picture_queue._check_isolation();
  select * into v_job from public.job_queue where id = p_job_id for update;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  elsif p_needs_lease and (v_job.lease_expires_at is null or v_job.lease_id is distinct from p_lease_id) then
    perform picture_queue._raise_error('PQ_STALE_LEASE',
      format('job %s is %s and its lease is not %s', p_job_id, v_job.status, p_lease_id),
      'stop working on this job; another worker runs it now');
  end if;
  return v_job;
end
$$;

-- Extends the leases in force, including expired leases that were not swept yet, and records that their jobs have
-- started. Returns the jobs to cancel, and the jobs whose lease is lost. If a call names two leases of a job,
-- lost_leases has the lease that is not in force. The lease of a job with a cancel request, or past its timeout, is
-- extended only until the end of the grace period (cancel_grace_seconds, timeout_grace_seconds). Then the lease
-- expires and counts as lost, but a report is accepted until the sweep. A job that was cancelled while parked is
-- claimed once more, so that its handler can undo its work; its grace period begins at that claim. A lease is extended
-- in the table lease_extension if another transaction has locked the row of the job, or if p_extension_only is true.
-- The call waits no longer than lock_timeout.
create function picture_queue._heartbeat(p_worker text, p_leases jsonb, p_extension_only boolean default false)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '10ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_ids uuid[];
  v_row_locked_ids uuid[];
  v_extended_ids uuid[];
  v_lease_ends timestamptz[];
  v_answer jsonb;
begin
  v_ids := array(select (l.item ->> 'job_id')::uuid from jsonb_array_elements(p_leases) as l (item));
  v_row_locked_ids := case when p_extension_only then '{}' else
    array(select j.id from public.job_queue j where j.id = any (v_ids) order by j.id for update skip locked) end;
  with held as (
    select j.id, j.lease_id, j.cancel_requested_at, j.id = any (v_row_locked_ids) as has_row_lock, least(
        v_now + make_interval(secs => j.lease_seconds),
        case when j.cancel_requested_at is not null then
          greatest(j.cancel_requested_at, j.started_at) + make_interval(secs => s.cancel_grace_seconds) end,
        j.started_at + make_interval(secs => s.timeout_grace_seconds
          + coalesce(j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, s.timeout_seconds))) as lease_ends_at
    from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
    join public.job_queue j on j.id = l.job_id and j.lease_id = l.lease_id
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    where j.id = any (v_ids) and j.lease_expires_at is not null
  ),
  extensions as (
    insert into picture_queue.lease_extension as x (job_id, lease_id, lease_expires_at)
    select h.id, h.lease_id, h.lease_ends_at from held h where not h.has_row_lock order by h.id
    on conflict (job_id) do update set lease_id = excluded.lease_id, lease_expires_at = excluded.lease_expires_at
  )
  select jsonb_build_object(
    'cancel', coalesce(jsonb_agg(l.job_id) filter (where h.cancel_requested_at is not null and h.lease_ends_at > v_now), '[]'),
    'lost', coalesce(jsonb_agg(l.job_id) filter (where h.id is null or h.lease_ends_at <= v_now), '[]'))
    || jsonb_strip_nulls(jsonb_build_object(
      'lost_leases', jsonb_agg(l.lease_id) filter (where h.id is null and l.job_id in (select o.id from held o)))),
    array_agg(h.id) filter (where h.has_row_lock), array_agg(greatest(h.lease_ends_at, v_now)) filter (where h.has_row_lock)
  into v_answer, v_extended_ids, v_lease_ends
  from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
  left join held h on h.id = l.job_id and h.lease_id = l.lease_id;
  -- With p_extension_only there is no update: while a `create index` runs, even an update of no rows would wait for
  -- the table lock.
  if v_extended_ids <> '{}' then
    update public.job_queue j set lease_expires_at = h.ends_at, unconfirmed_claims = 0, updated_at = v_now
    from unnest(v_extended_ids, v_lease_ends) as h (id, ends_at)
    where j.id = any (v_extended_ids) and j.id = h.id;
  end if;
  -- The rows that were just updated have the end of their leases, so delete their extensions. An extension may end
  -- later than the lease in the row, since a cancel request can shorten the lease.
  if pg_relation_size('picture_queue.lease_extension') > 0 then
    delete from picture_queue.lease_extension x where x.job_id = any (array(
      select o.job_id from picture_queue.lease_extension o where o.job_id = any (v_row_locked_ids) for update skip locked));
  end if;
  perform picture_queue._check_deferred_constraints();
  update picture_queue.worker w set seen_at = v_now
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_worker for update skip locked));
  return v_answer;
end
$$;
