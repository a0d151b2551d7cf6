create table picture_queue.dependency (
  child_id uuid not null references public.job_queue (id) on delete cascade,
  parent_id uuid not null,
  on_parent_failure text not null default 'cancel',
  primary key (child_id, parent_id),
  constraint on_parent_failure_is_known check (on_parent_failure in ('cancel', 'fail', 'run'))
);
comment on table picture_queue.dependency is 'The unfinished jobs that waiting jobs depend on.';
create index dependency_parent on picture_queue.dependency (parent_id);

create table picture_queue.failed_dependency (
  child_id uuid not null references public.job_queue (id) on delete cascade,
  parent_id uuid not null,
  on_parent_failure text not null,
  primary key (child_id, parent_id)
);
comment on table picture_queue.failed_dependency is
  'Dependencies on parents that failed or were cancelled. A retry of the child makes it wait for them again.';

create table picture_queue.batch (
  id uuid primary key,
  user_id uuid,  -- the owner of a batch of generations; null: the project
  total integer not null default 0,
  completed integer not null default 0,
  failed integer not null default 0,
  cancelled integer not null default 0,
  callback jsonb,
  callback_job_id uuid,
  callback_error text,  -- why the callback could not be enqueued
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint batch_counts_fit check (
    least(total, completed, failed, cancelled) >= 0 and completed + failed + cancelled <= total)
);
comment on table picture_queue.batch is
  'Batches of jobs, the counts of their finished jobs, and the callback to enqueue when all have finished. Chains and '
  'batches of generations are batches of their jobs.';
create index batch_finished on picture_queue.batch (finished_at) where finished_at is not null;
-- Finished batches whose callback has not been enqueued yet.
create index batch_callback on picture_queue.batch (finished_at)
  where finished_at is not null and callback is not null and callback_job_id is null and callback_error is null;
