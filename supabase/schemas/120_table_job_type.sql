create table picture_queue.job_type (
  name text primary key,
  queue text,
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_policy text,
  backoff_seconds real,
  backoff_cap_seconds real,
  backoff_jitter real,
  capabilities jsonb,  -- for job types of generations: what the provider supports; null: unknown
  constraint job_type_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'),
  constraint job_type_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000  -- a year
    and backoff_jitter between 0 and 1
  ),
  constraint job_type_backoff_policy_is_known check (backoff_policy in ('constant', 'linear', 'exponential'))
);
comment on table picture_queue.job_type is
  'The policies of job types, registered by workers; null: the policy of the queue or the default in setting applies.';
