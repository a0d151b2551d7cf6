-- For callers that never heartbeat: one job under a lease of at least ten minutes, marked legacy,
-- which complete_job may end without naming the lease. It sweeps too, since there may be no worker.
create function public.claim_next_job(queue text default null) returns setof public.job_queue
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs jsonb;
begin
  perform picture_queue._know_rules();
  perform picture_queue._sweep(100);
  v_jobs := picture_queue._claim(
    'claim_next_job', case when queue is not null then array[queue] end, null, null, 1,
    (select greatest(600, s.timeout_seconds) from picture_queue.setting s)::real, gen_random_uuid(), true);
  return query select j.* from public.job_queue j where j.id = (v_jobs #>> '{0,id}')::uuid;
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
end
$$;
comment on function public.claim_next_job is 'Claims one job under a long lease, for callers without heartbeat.';

-- Leases up to max_jobs jobs of these types to a worker. Repeating it with the same request_id gives
-- the same jobs. weights, one a queue, give each queue its
-- share; without them the queues are one line by priority.
create function public.claim_jobs(
  worker text, queues text[], job_types text[], max_jobs integer default 1, lease_seconds real default 30,
  request_id uuid default gen_random_uuid(), weights real[] default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue._claim_jobs(worker, queues, job_types, coalesce(max_jobs, 1), coalesce(lease_seconds, 30),
    coalesce(request_id, gen_random_uuid()), weights);
exception when deadlock_detected then
  -- Rare, but skip locked does wait where a row has changed hands since it was seen, and by then the claim
  -- may hold keys that the other wants.
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
  return null;
end
$$;
comment on function public.claim_jobs is 'Leases jobs to a worker; repeatable by request_id.';
