create table picture_queue.log (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.job_queue (id) on delete cascade,
  attempt integer not null,
  at timestamptz not null,
  level text not null,
  message text not null,
  constraint level_is_known check (level in ('debug', 'info', 'warning', 'error'))
);
comment on table picture_queue.log is 'Log lines of jobs, the last 200 of each job.';
create index log_job on picture_queue.log (job_id, id);

create table picture_queue.external_event (
  name text primary key,
  payload jsonb,
  -- The time at which the event was sent. If no job was parked on the event then, it becomes the time at which
  -- maintenance or a report first finds parked jobs. The event wakes only jobs that parked before this time.
  sent_at timestamptz not null,
  -- When to search again for jobs parked on the event; null: no job was parked on it when it was sent.
  check_at timestamptz
);
comment on table picture_queue.external_event is
  'External events that have not woken all their jobs, or that no job has waited for yet; kept for a day.';
create index external_event_check on picture_queue.external_event (check_at) where check_at is not null;

-- The answers of calls with a request id, so that a client can repeat a call whose answer was lost.
create table picture_queue.answer (
  call text not null,
  id text not null,
  answer jsonb,
  at timestamptz not null,
  constraint answer_pkey primary key (call, id)
);
comment on table picture_queue.answer is 'Answers of calls that must not run twice, kept for a day.';
create index answer_at on picture_queue.answer (at);
