-- Work for other jobs that follows from a change of a job. The rows are written in the transaction of the change. The
-- first few are processed there too, the rest by maintenance, in bounded steps of which each can fail alone.
create table picture_queue.follow_up (
  id bigint generated always as identity primary key,
  kind text not null,
  subject uuid not null,
  data jsonb,
  due_at timestamptz not null default '-infinity',
  constraint follow_up_kind_is_known check (kind in ('parent', 'child', 'batch'))
);
comment on table picture_queue.follow_up is
  'Work that follows from changes of jobs: children of a finished parent, a new child, the counts of a batch.';
comment on column picture_queue.follow_up.data is
  'Of a batch: how much its counts change. Of a child: "before" is a transaction id; once every transaction with a'
  ' lower id has ended, no parent can have missed the child. "looks" is how often it was looked at.';
create index follow_up_subject on picture_queue.follow_up (subject);
create index follow_up_due on picture_queue.follow_up (due_at, id);

-- Steps that failed, each for one subject. Other subjects are processed; this one is tried again at retry_at.
create table picture_queue.failed_step (
  kind text not null,
  subject text not null,
  failures integer not null default 1,
  last_error text not null,
  first_at timestamptz not null,
  retry_at timestamptz not null,
  primary key (kind, subject)
);
comment on table picture_queue.failed_step is
  'Steps of maintenance and claims that failed for one subject, to be tried again; queue_doctor() shows them.';
create index failed_step_retry on picture_queue.failed_step (retry_at);

create table picture_queue.lease_extension (
  -- No foreign key: its check would wait for the lock on the row of the job.
  job_id uuid primary key,
  lease_id uuid not null,
  lease_expires_at timestamptz not null
);
comment on table picture_queue.lease_extension is
  'Leases that a heartbeat extended here, because another transaction had locked the row of the job.';

-- The worker that does the maintenance, until when, and the times of its next steps.
create table picture_queue.maintenance (
  only_row boolean primary key default true constraint maintenance_has_one_row check (only_row),
  worker text,
  leased_until timestamptz not null default '-infinity',
  done_at timestamptz not null default '-infinity',
  look_at timestamptz not null default '-infinity',
  sweep_at timestamptz not null default '-infinity',
  fold_at timestamptz not null default '-infinity',
  tidied boolean not null default false,
  step_size integer not null default 100
);
comment on column picture_queue.maintenance.step_size is
  'How many subjects a step takes: more after quick rounds, fewer after slow ones.';
comment on table picture_queue.maintenance is
  'The lease of maintenance: one worker for the whole project, for some seconds.';
comment on column picture_queue.maintenance.tidied is 'The latest round was one of housekeeping.';
comment on column picture_queue.maintenance.done_at is 'When the latest round began.';
comment on column picture_queue.maintenance.look_at is
  'When the next round is to begin; what becomes due earlier wakes the worker that has the lease.';
comment on column picture_queue.maintenance.sweep_at is 'When to look for expired leases next.';
comment on column picture_queue.maintenance.fold_at is 'When to add up depth_change next.';
insert into picture_queue.maintenance default values;
