-- All changes of state except claim and complete, since the row of the job shows these two. The actions fail, back_off
-- and expire end a failed attempt. The table is internal: owners see only job_queue.error.
create table picture_queue.history (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.job_queue (id) on delete cascade,
  at timestamptz not null,
  action text not null,
  status text not null,
  hold text,
  attempt integer not null,
  worker text,
  started_at timestamptz,
  duration_seconds real,
  error text,
  detail text
);
comment on table picture_queue.history is
  'Changes of state of a job with their internal detail, the last 50 of each job.';
create index history_job on picture_queue.history (job_id, id);
