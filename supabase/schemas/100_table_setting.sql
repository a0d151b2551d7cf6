create table picture_queue.setting (
  only_row boolean primary key default true constraint setting_has_one_row check (only_row),
  max_payload_bytes integer not null default 65536,  -- 64 KiB
  max_result_bytes integer not null default 1048576,  -- 1 MiB
  max_prompt_length integer not null default 4000,
  max_user_uploads integer not null default 100,
  max_attempts integer not null default 3,
  timeout_seconds real not null default 600,
  timeout_grace_seconds real not null default 30,
  cancel_grace_seconds real not null default 30,
  lease_seconds real not null default 30,
  backoff_policy text not null default 'exponential',
  backoff_seconds real not null default 5,
  backoff_cap_seconds real not null default 3600,
  backoff_jitter real not null default 0.2,
  unknown_queue text not null default 'create',
  keep_completed_seconds real not null default 604800,  -- 7 days
  keep_cancelled_seconds real not null default 604800,  -- 7 days
  keep_failed_seconds real not null default 2592000,  -- 30 days
  archive boolean not null default false,
  keep_archive_months integer not null default 12,
  keep_generations_days integer,
  default_model text not null default 'black-forest-labs/flux-schnell',
  strip_metadata boolean not null default true,
  -- The price of a second of the hardware (A100 80 GB). It estimates the cost of models that have no price per picture.
  estimate_usd_per_second numeric not null default 0.0014,
  constraint setting_is_in_range check (
    estimate_usd_per_second between 0 and 1
    and least(max_payload_bytes, max_result_bytes, max_prompt_length, max_attempts, keep_archive_months) > 0
    and max_user_uploads >= 0
    and least(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000  -- a year
    and least(timeout_grace_seconds, cancel_grace_seconds) >= 0
    and greatest(timeout_grace_seconds, cancel_grace_seconds) <= 86400  -- a day
    and least(keep_completed_seconds, keep_cancelled_seconds, keep_failed_seconds) >= 60
    and greatest(keep_completed_seconds, keep_cancelled_seconds, keep_failed_seconds) <= 3153600000  -- 100 years
    and backoff_jitter between 0 and 1
    and keep_generations_days between 1 and 36500
  ),
  constraint setting_backoff_policy_is_known check (backoff_policy in ('constant', 'linear', 'exponential')),
  constraint setting_unknown_queue_is_known check (unknown_queue in ('create', 'refuse'))
);
comment on table picture_queue.setting is 'Defaults and limits of the whole project, in one row.';
comment on column picture_queue.setting.unknown_queue is
  'Whether an enqueue to an unknown queue creates the queue (create) or is refused (refuse).';
comment on column picture_queue.setting.keep_generations_days is
  'After how many days finished generations are deleted with their pictures; null: never.';
comment on column picture_queue.setting.strip_metadata is
  'Whether workers remove EXIF, comments and other metadata from the pictures that they store.';
insert into picture_queue.setting default values;
