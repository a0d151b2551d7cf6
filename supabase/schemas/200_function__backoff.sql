-- Returns the seconds until the next attempt of a job: the delay of the policy (constant, linear, exponential), at
-- most the cap, multiplied by a random factor from 1 - jitter to 1 + jitter. The factor spreads the retries of jobs
-- that failed at the same time. Each value is resolved in this order: job, job type, queue, project.
create function picture_queue._backoff_of(p_job public.job_queue) returns real
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  -- 2^30 seconds is beyond any cap; the bound keeps the power from overflowing.
  select (least(b.base * case b.policy
      when 'constant' then 1
      when 'linear' then greatest(p_job.attempt, 1)
      else 2 ^ least(greatest(p_job.attempt, 1) - 1, 30) end, b.cap)
    * (1 - b.jitter + 2 * b.jitter * random()))::real
  from picture_queue.setting s
  left join picture_queue.job_type t on t.name = p_job.job_type
  left join picture_queue.queue q on q.name = p_job.queue
  cross join lateral (
    select coalesce(p_job.backoff ->> 'policy', t.backoff_policy, q.backoff_policy, s.backoff_policy) as policy,
      coalesce((p_job.backoff ->> 'base_seconds')::real, t.backoff_seconds, q.backoff_seconds, s.backoff_seconds) as base,
      coalesce((p_job.backoff ->> 'cap_seconds')::real, t.backoff_cap_seconds, q.backoff_cap_seconds,
        s.backoff_cap_seconds) as cap,
      coalesce((p_job.backoff ->> 'jitter')::real, t.backoff_jitter, q.backoff_jitter, s.backoff_jitter) as jitter) b
$$;
