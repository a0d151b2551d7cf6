-- The failed attempts of a job, the last 20 of each. Internal: owners see job_queue.error.
create table picture_queue.attempt (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.job_queue (id) on delete cascade,
  attempt integer not null,
  worker text,
  error text,
  detail text,
  duration_seconds real,
  started_at timestamptz,
  ended_at timestamptz not null
);
comment on table picture_queue.attempt is 'Failed attempts with their internal detail, the last 20 of each job.';
create index attempt_job on picture_queue.attempt (job_id, id);
alter table picture_queue.attempt enable row level security;
