-- For callers that never heartbeat: one job under a lease of at least ten minutes, marked legacy, which
-- complete_job may end without naming the lease. Where nothing can be claimed and nobody did maintenance lately, it
-- does a little of it, since it may be the only one who calls; not before, since its transaction may stay open while
-- the job is worked on.
create function public.claim_next_job(queue text default null) returns setof public.job_queue
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim picture_queue.claim := row('claim_next_job', case when queue is not null then array[queue] end, null, 1, 1,
    (select greatest(600, s.timeout_seconds) from picture_queue.setting s), gen_random_uuid(), null, true, null, null);
  v_jobs jsonb;
begin
  v_jobs := picture_queue._claim(v_claim);
  if v_jobs = '[]'
    and (select m.done_at < picture_queue._now() - interval '5 seconds' from picture_queue.maintenance m)
  then
    perform picture_queue._do_due_steps(10, true);
    v_jobs := picture_queue._claim(v_claim);
  end if;
  return query select j.* from public.job_queue j where j.id = (v_jobs #>> '{0,id}')::uuid;
end
$$;
comment on function public.claim_next_job is 'Claims one job under a long lease, for callers without heartbeat.';

-- Leases up to max_jobs jobs of these types to a worker, which starts start_jobs of them at once (null: all) and
-- holds the others ahead; those count under limits as well. Repeating it with the same request_id gives the jobs that
-- lease still holds. lease_seconds is for jobs whose type and queue have none of their own (null: the project's
-- setting). weights, one a queue, give each queue its share; without them the jobs of all queues are taken by priority.
create function public.claim_jobs(
  worker text, queues text[], job_types text[], max_jobs integer default 1, lease_seconds real default null,
  request_id uuid default gen_random_uuid(), weights real[] default null, start_jobs integer default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim picture_queue.claim := row(worker, queues, job_types, coalesce(max_jobs, 1), coalesce(start_jobs, max_jobs, 1),
    lease_seconds, coalesce(request_id, gen_random_uuid()), weights, false, null, null);
  v_problem text := case
    when coalesce(length(worker), 0) not between 1 and 200 then format('worker is %s', quote_nullable(left(worker, 100)))
    when coalesce(cardinality(queues), 0) = 0 then 'queues is empty'
    when greatest(array_ndims(queues), array_ndims(job_types), array_ndims(weights)) > 1
      then 'queues, job_types and weights are plain lists'
    when job_types is null then 'job_types is null'
    when cardinality(weights) <> cardinality(queues) then 'weights are not as many as queues'
    when not 0 < all (weights) then format('weights are %s, not above 0', weights)
    when max_jobs not between 0 and 1000 then format('max_jobs is %s, not 0 to 1000', max_jobs)
    when start_jobs < 0 then format('start_jobs is %s, not 0 or more', start_jobs)
    when lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', lease_seconds)
  end;
begin
  if v_problem is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
  return picture_queue._claim(v_claim);
end
$$;
comment on function public.claim_jobs is 'Leases jobs to a worker; repeatable by request_id.';
