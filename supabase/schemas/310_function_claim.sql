-- Claims one job for a caller that sends no heartbeats, under a lease of at least ten minutes. The lease is marked
-- legacy: complete_job may end it without its lease_id. If nothing can be claimed and the last round of maintenance
-- began more than 5 seconds ago, it does the work that is due and claims again, since the project may have no worker
-- that does maintenance. Otherwise it does no maintenance: the transaction of the caller may stay open while the job
-- runs, and would keep the locks of maintenance.
create function public.claim_next_job(queue text default null) returns setof public.job_queue
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_claim picture_queue.claim;
  v_jobs jsonb;
begin
  v_claim := row('claim_next_job', case when queue is not null then array[queue] end, null, 1,
    (select greatest(600, s.timeout_seconds) from picture_queue.setting s), gen_random_uuid(), null, true, false, null, null);
  v_jobs := picture_queue._claim(v_claim);
  if v_jobs = '[]'
    and (select m.round_began_at < picture_queue._now() - interval '5 seconds' from picture_queue.maintenance m)
  then
    perform picture_queue._do_due_steps(10, true);
    v_jobs := picture_queue._claim(v_claim);
  end if;
  return query select j.* from public.job_queue j where j.id = (v_jobs #>> '{0,id}')::uuid;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.claim_next_job is 'Claims one job under a long lease, for callers without heartbeat.';

-- Leases up to max_jobs jobs of these types to a worker. Jobs that a worker prefetches count under limits as running
-- jobs do. confirms_start: a job counts as started only at its first heartbeat. A call that repeats a request_id
-- returns the jobs of the first call that are still under its lease. lease_seconds applies to jobs whose type and
-- queue set no lease (null: the setting of the project). weights has one number for each queue: its share of the jobs.
-- Without weights, jobs of all queues are claimed by priority.
create function public.claim_jobs(
  worker text, queues text[], job_types text[], max_jobs integer default 1, lease_seconds real default null,
  request_id uuid default gen_random_uuid(), weights real[] default null, confirms_start boolean default false)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim picture_queue.claim := row(worker, queues, job_types, coalesce(max_jobs, 1), lease_seconds,
    coalesce(request_id, gen_random_uuid()), weights, false, coalesce(confirms_start, false), null, null);
begin
  perform picture_queue._raise_problem(case
    when coalesce(length(worker), 0) not between 1 and 200
      then format('worker is %s, not 1 to 200 characters', quote_nullable(left(worker, 100)))
    when coalesce(cardinality(queues), 0) = 0 then 'queues is empty'
    when greatest(cardinality(queues), cardinality(job_types)) > 1000 then 'queues or job_types has more than 1000 entries'
    -- A cheap check, on the sum of the lengths: names have at most 63 and 128 characters.
    when length(array_to_string(queues, '')) > 63 * cardinality(queues)
      or length(array_to_string(job_types, '')) > 128 * cardinality(job_types)
      then 'queues or job_types has a name of more than 63 or 128 characters'
    when greatest(array_ndims(queues), array_ndims(job_types), array_ndims(weights)) > 1
      then 'queues, job_types or weights is not a plain list'
    when job_types is null then 'job_types is null'
    when cardinality(weights) <> cardinality(queues)
      then format('weights has %s entries, queues has %s', cardinality(weights), cardinality(queues))
    when not 0 < all (weights) then format('weights are %s, not above 0', weights)
    when max_jobs not between 0 and 1000 then format('max_jobs is %s, not 0 to 1000', max_jobs)
    when lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', lease_seconds)
  end);
  perform set_config('picture_queue.is_worker', 'true', true);  -- read by _check_deferred_constraints
  return picture_queue._claim(v_claim);
end
$$;
comment on function public.claim_jobs is 'Leases jobs to a worker; repeatable by request_id.';
