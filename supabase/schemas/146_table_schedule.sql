-- Schedules of recurring jobs: by a cron expression in a time zone, or at an interval counted from created_at. The
-- column job is an item of enqueue_jobs without the fields that only one job can have, such as job_id.
create table picture_queue.schedule (
  name text primary key,
  cron text,
  every_seconds double precision,
  timezone text not null default 'UTC',
  job jsonb not null,
  missed text not null default 'once',
  paused boolean not null default false,
  next_at timestamptz,
  last_at timestamptz,
  last_job_id uuid,
  last_error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint schedule_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'),
  constraint schedule_has_cron_or_interval check ((cron is null) <> (every_seconds is null)),
  constraint schedule_interval_is_in_range check (every_seconds between 1 and 31536000),
  constraint schedule_missed_is_known check (missed in ('skip', 'once', 'all')),
  constraint schedule_job_is_object check (jsonb_typeof(job) = 'object'),
  constraint schedule_has_next_unless_paused check ((next_at is null) = paused)
);
comment on table picture_queue.schedule is 'Schedules of recurring jobs, by cron or at an interval.';
comment on column picture_queue.schedule.missed is
  'Which missed ticks enqueue a job: skip (only the latest, if under two minutes late), once (only the latest), all.';
comment on column picture_queue.schedule.last_at is 'The latest tick that enqueued a job; last_job_id is that job.';
comment on column picture_queue.schedule.last_error is 'Why the latest tick enqueued no job; null if it did.';
create index schedule_due on picture_queue.schedule (next_at) where not paused;
