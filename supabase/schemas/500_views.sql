-- One row for each queue: the counts of its pending and running jobs, and of the jobs that failed in the last day and
-- were not retried since.
create view public.queue_health with (security_invoker = true) as
select c.queue, c.pending, c.scheduled, c.processing, c.parked, c.failed_last_day,  -- noqa: ST06
  coalesce(c.oldest_seconds, 0) as oldest_pending_seconds, c.workers
from picture_queue.counts() c;
comment on view public.queue_health is 'One row for each queue: its pending, running and recently failed jobs.';

create view public.failed_jobs_recent with (security_invoker = true) as
select id, queue, job_type, error, attempt, max_attempts, user_id, created_at, finished_at
from public.job_queue
where status = 'failed' and finished_at is not null
order by finished_at desc;
comment on view public.failed_jobs_recent is 'Failed jobs, the newest first.';

create view public.stuck_jobs with (security_invoker = true) as
select id, queue, job_type, worker, attempt, max_attempts, started_at, lease_expires_at, user_id
from public.job_queue
where status = 'processing' and hold is null
  and (started_at < now() - interval '10 minutes' or lease_expires_at < now())
order by started_at;
comment on view public.stuck_jobs is 'Jobs that have run for over ten minutes, or have an expired lease.';
