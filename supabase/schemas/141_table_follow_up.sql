-- What a change of a job leaves to do for other jobs. Written in the transaction of the change; the first few
-- are done there as well, the rest by maintenance, in bounded steps that fail alone.
create table picture_queue.follow_up (
  id bigint generated always as identity primary key,
  kind text not null,
  subject uuid not null,
  data jsonb,
  due_at timestamptz not null default '-infinity',
  constraint follow_up_kind_is_known check (kind in ('parent', 'child', 'batch'))
);
comment on table picture_queue.follow_up is
  'Work that changes of jobs leave behind: children of a finished parent, a new child, the counts of a batch.';
comment on column picture_queue.follow_up.data is
  'Of a batch: how much its counts change. Of a child: "before" is a transaction id; once every transaction with a'
  ' lower id has ended, no parent can have missed the child. "looks" is how often it was looked at.';
create index follow_up_subject on picture_queue.follow_up (subject);
create index follow_up_due on picture_queue.follow_up (due_at, id);

-- Steps that failed, for one subject each. Others go on; the step is tried again at retry_at.
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
  -- No foreign key: it would wait for the very lock that is in the way.
  job_id uuid primary key,
  lease_id uuid not null,
  lease_expires_at timestamptz not null
);
comment on table picture_queue.lease_extension is
  'Leases prolonged beside their job, whose row somebody else had locked at the heartbeat.';

-- Who does the maintenance, until when, and when they look next.
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
