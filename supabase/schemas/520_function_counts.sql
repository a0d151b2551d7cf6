create function public.queue_counts(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(to_jsonb(c) - '{failed_last_day,workers}'::text[] order by c.queue), '[]')
    from (
      select * from picture_queue.counts() o
      where o.queue > coalesce(filter ->> 'after', '') order by o.queue limit coalesce((filter ->> 'limit')::integer, 10000)) c);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.queue_counts is 'Counts of jobs by queue and state, with the throughput.';

-- Returns the position of a job of the caller in its queue, from 1 to 10,000. at_least is true if the job may be
-- further back. The position is null if the job cannot be claimed, because it has a hold, runs or has finished.
create function picture_queue.job_position(p_job_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_jobs_before integer;
begin
  select * into v_job from public.job_queue
  where id = p_job_id and (picture_queue._is_service() or user_id = picture_queue._caller_id());
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  elsif v_job.status <> 'pending' or v_job.hold is not null then
    return '{"position": null, "at_least": false}'::jsonb;
  end if;
  select count(*) into v_jobs_before
  from (
    select from public.job_queue j
    where j.queue = v_job.queue and j.status = 'pending' and j.hold is null
      and (j.rank, j.turn, j.seq) < (v_job.rank, v_job.turn, v_job.seq)
    order by j.rank desc, j.turn desc, j.seq desc limit 10000
  ) b;
  return jsonb_build_object('position', least(v_jobs_before + 1, 10000), 'at_least', v_jobs_before = 10000);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.job_position(job_id uuid) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.job_position(job_id) $$;
comment on function public.job_position is 'Position of a job of the caller in its queue, from 1.';

-- Returns the recommended number of workers: one for each jobs_per_worker jobs that run or could run. Jobs that are
-- due, but not promoted yet, count as well, since without a worker nothing promotes them. If only a schedule or a
-- limit key is due, one worker is recommended. queue null: all queues.
create function public.desired_workers(
  queue text default null, jobs_per_worker integer default 10, min_workers integer default 0,
  max_workers integer default 100)
returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_running bigint;
  v_ready bigint;
  v_desired bigint;
begin
  jobs_per_worker := coalesce(jobs_per_worker, 10);
  min_workers := coalesce(min_workers, 0);
  max_workers := coalesce(max_workers, 100);
  perform picture_queue._raise_problem(case when jobs_per_worker < 1 or min_workers < 0 or max_workers < min_workers
    then format('jobs_per_worker is %s, min_workers %s, max_workers %s', jobs_per_worker, min_workers, max_workers) end,
    'use at least 1 job for each worker, and 0 or more workers');
  if queue is not null then
    perform picture_queue._queue(queue);
  end if;
  select coalesce(sum(d.n) filter (where d.status = 'processing'), 0),
    coalesce(sum(d.n) filter (where d.status = 'pending' and not coalesce(q.paused_until > v_now, false)), 0)
  into v_running, v_ready
  from picture_queue._depths() d
  left join picture_queue.queue q on q.name = d.queue
  where d.status in ('pending', 'processing') and d.hold is null and d.queue = coalesce(desired_workers.queue, d.queue);
  v_ready := v_ready + (
    select count(*)
    from (
      select j.queue from public.job_queue j
      where j.hold in ('scheduled', 'parked') and j.scheduled_for <= v_now
      order by j.scheduled_for limit 10000
    ) d
    join picture_queue.queue q on q.name = d.queue and not coalesce(q.paused_until > v_now, false)
    where d.queue = coalesce(desired_workers.queue, d.queue));
  v_desired := ceil((v_running + v_ready)::numeric / jobs_per_worker);
  if v_desired = 0 and (
    exists (select from picture_queue.freed_key f where f.n = 0 and f.at <= v_now)
    or exists (select from picture_queue.schedule s where not s.paused and s.next_at <= v_now))
  then
    v_desired := 1;
  end if;
  return jsonb_build_object('desired', least(greatest(v_desired, min_workers), max_workers),
    'running', v_running, 'ready', v_ready);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.desired_workers is 'Recommended number of workers.';
