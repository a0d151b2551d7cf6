-- Keeps the row of a worker: written when something changed or every 5 seconds, not at each claim.
create function picture_queue._touch_worker(
  p_worker text, p_queues text[], p_job_types text[], p_idle boolean, p_swept boolean)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  if not p_swept and exists (
    select from picture_queue.worker w
    where w.name = p_worker and w.idle = p_idle and w.queues = p_queues and w.job_types = p_job_types
      and w.seen_at > v_now - interval '5 seconds')
  then
    return;
  end if;
  insert into picture_queue.worker as w (name, queues, job_types, idle, seen_at, swept_at)
  values (p_worker, p_queues, p_job_types, p_idle, v_now, v_now)
  on conflict (name) do update
  set queues = p_queues, job_types = p_job_types, idle = p_idle, seen_at = v_now,
    swept_at = case when p_swept then v_now else w.swept_at end;
end
$$;

-- Leases up to p_max_jobs of what can be claimed, highest priority first, then oldest. A repeated
-- call (same p_request_id) gives the jobs of the first again: the request id is the lease id.
-- p_queues null: every queue; p_job_types null: every type.
create function picture_queue._claim(
  p_worker text, p_queues text[], p_job_types text[], p_max_jobs integer, p_lease_seconds real,
  p_request_id uuid, p_legacy boolean)
returns setof public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_queues text[] := coalesce(p_queues, (select array_agg(name order by name) from picture_queue.queue));
  v_changes picture_queue.change[];
begin
  return query
    select * from public.job_queue
    where status = 'processing' and hold is null and lease_id = p_request_id and worker = p_worker;
  if found then
    return;
  end if;

  perform picture_queue._promote(100);
  select array_agg(row(
      d.id, 'claim', null, null, null, null, null, p_worker, p_request_id,
      case when p_legacy then p_lease_seconds
        else coalesce(t.lease_seconds, q.lease_seconds, p_lease_seconds, s.lease_seconds) end,
      p_legacy)::picture_queue.change order by d.priority desc, d.seq)
  into v_changes
  from (
    select j.* from unnest(v_queues) as name
    cross join lateral (
      select id, queue, job_type, priority, seq from public.job_queue
      where queue = name and status = 'pending' and hold is null
        and (p_job_types is null or job_type = any (p_job_types))
      order by priority desc, seq limit p_max_jobs
      for update skip locked
    ) j
    order by j.priority desc, j.seq limit p_max_jobs
  ) d
  cross join picture_queue.setting s
  left join picture_queue.job_type t on t.name = d.job_type
  left join picture_queue.queue q on q.name = d.queue;

  if v_changes is not null then
    return query select * from picture_queue._transition(v_changes) order by priority desc, seq;
  end if;
end
$$;

-- claim_jobs for the worker: sweeps once a second at most, and remembers a worker that found less
-- than it asked for, so that the next enqueue wakes it.
create function picture_queue._claim_jobs(
  p_worker text, p_queues text[], p_job_types text[], p_max_jobs integer, p_lease_seconds real, p_request_id uuid)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_sweep boolean := not exists (
    select from picture_queue.worker w
    where w.name = p_worker and w.swept_at > picture_queue._now() - interval '1 second');
  v_jobs jsonb;
begin
  perform picture_queue._check_claim(p_worker, p_queues, p_max_jobs, p_lease_seconds, p_request_id);
  if v_sweep then
    perform picture_queue._sweep(100);
  end if;
  select coalesce(jsonb_agg(to_jsonb(j) || jsonb_build_object('timeout_seconds',
      coalesce(j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, s.timeout_seconds))
    order by j.priority desc, j.seq), '[]')
  into v_jobs
  from picture_queue._claim(p_worker, p_queues, p_job_types, p_max_jobs, p_lease_seconds, p_request_id, false) j
  cross join picture_queue.setting s
  left join picture_queue.job_type t on t.name = j.job_type
  left join picture_queue.queue q on q.name = j.queue;
  perform picture_queue._touch_worker(
    p_worker, p_queues, p_job_types, jsonb_array_length(v_jobs) < p_max_jobs, v_sweep);
  return v_jobs;
end
$$;

create function picture_queue._check_claim(
  p_worker text, p_queues text[], p_max_jobs integer, p_lease_seconds real, p_request_id uuid)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_problem text := case
    when coalesce(p_worker, '') = '' then 'worker is empty'
    when coalesce(cardinality(p_queues), 0) = 0 then 'queues is empty'
    when p_max_jobs is null or p_max_jobs not between 0 and 1000 then format('max_jobs is %s, not 0 to 1000', p_max_jobs)
    when p_lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', p_lease_seconds)
    when p_request_id is null then 'request_id is null'
  end;
begin
  if v_problem is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
end
$$;
