-- One row a queue: what waits, what runs, what failed lately. Reads partial indexes, not the history.
create view public.queue_health with (security_invoker = true) as
select q.name as queue,
  coalesce(c.pending, 0) as pending,
  coalesce(c.scheduled, 0) as scheduled,
  coalesce(c.processing, 0) as processing,
  coalesce(c.parked, 0) as parked,
  (select count(*) from public.job_queue f where f.status = 'failed' and f.queue = q.name
    and f.finished_at > now() - interval '1 day') as failed_last_day,
  coalesce(c.oldest_pending_seconds, 0) as oldest_pending_seconds,
  (select count(*) from picture_queue.worker w
    where w.queues @> array[q.name] and w.seen_at > now() - interval '1 minute') as workers
from picture_queue.queue q
left join (
  select queue,
    count(*) filter (where status = 'pending' and hold is null) as pending,
    count(*) filter (where hold = 'scheduled') as scheduled,
    count(*) filter (where status = 'processing' and hold is null) as processing,
    count(*) filter (where hold = 'parked') as parked,
    round(extract(epoch from now() - min(greatest(created_at, scheduled_for))
      filter (where status = 'pending' and hold is null)), 3) as oldest_pending_seconds
  from (
    select queue, status, hold, created_at, scheduled_for from public.job_queue
    where status = 'pending' and hold is null
    union all
    select queue, status, hold, created_at, scheduled_for from public.job_queue
    where status = 'processing' and hold is null
    union all
    select queue, status, hold, created_at, scheduled_for from public.job_queue
    where hold in ('scheduled', 'parked')
  ) open_jobs
  group by queue
) c on c.queue = q.name
order by q.name;
comment on view public.queue_health is 'One row a queue: what waits, what runs, what failed in the last day.';

create view public.failed_jobs_recent with (security_invoker = true) as
select id, queue, job_type, error, attempt, max_attempts, user_id, created_at, finished_at
from public.job_queue
where status = 'failed'
order by finished_at desc;
comment on view public.failed_jobs_recent is 'Failed jobs, the newest first.';

-- Processing for more than ten minutes, or the lease expired and nobody has swept it yet.
create view public.stuck_jobs with (security_invoker = true) as
select id, queue, job_type, worker, attempt, max_attempts, started_at, lease_expires_at, user_id
from public.job_queue
where status = 'processing' and hold is null
  and (started_at < now() - interval '10 minutes' or lease_expires_at < now())
order by started_at;
comment on view public.stuck_jobs is 'Jobs processing for over ten minutes, or with an expired lease.';
