-- Work for other jobs that follows from a change of a job. The rows are written in the transaction of the change. The
-- same transaction processes the first few, maintenance the rest, in bounded steps. If a step fails, the others still
-- run.
create table picture_queue.follow_up (
  id bigint generated always as identity primary key,
  kind text not null,
  subject uuid not null,  -- the id of the parent, child, batch or generation
  -- For a batch: by how much its counts change. For a child: a transaction that finished a parent before the child was
  -- committed did not see the child. So maintenance checks the child until all transactions with ids below "before"
  -- have ended; "checks" counts the checks.
  data jsonb,
  due_at timestamptz not null default '-infinity',
  constraint follow_up_kind_is_known check (kind in ('parent', 'child', 'batch', 'settlement'))
);
comment on table picture_queue.follow_up is
  'Work that follows from changes of jobs: children of a parent, a new child, counts of a batch, a settlement.';
create index follow_up_subject on picture_queue.follow_up (subject);
create index follow_up_due on picture_queue.follow_up (due_at, id);

-- Steps that failed for one subject, such as a job. The step skips the subject until retry_at and processes the others;
-- a report is retried when the worker repeats it. A success deletes the row, except for the kinds claim and report,
-- whose rows are pruned.
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
  'Steps of maintenance, claims and reports that failed for one subject, to be tried again; queue_doctor() shows them.';
create index failed_step_retry on picture_queue.failed_step (retry_at);

create table picture_queue.lease_extension (
  -- No foreign key: its check would wait for the lock on the row of the job.
  job_id uuid primary key,
  lease_id uuid not null,
  lease_expires_at timestamptz not null
);
comment on table picture_queue.lease_extension is
  'Leases that a heartbeat extended here, because another transaction had locked the row of the job.';

create table picture_queue.maintenance (
  only_row boolean primary key default true constraint maintenance_has_one_row check (only_row),
  worker text,
  leased_until timestamptz not null default '-infinity',
  round_began_at timestamptz not null default '-infinity',
  -- When the next round is to begin. Work that becomes due earlier wakes the worker that holds the lease.
  next_round_at timestamptz not null default '-infinity',
  sweep_at timestamptz not null default '-infinity',  -- when to search for expired leases
  aggregate_at timestamptz not null default '-infinity',  -- when to add depth_change to depth, the counts of jobs
  prune_at timestamptz not null default '-infinity',  -- when to delete old rows
  -- Whether the latest round aggregated and pruned; if so, the next round does not.
  was_housekeeping boolean not null default false,
  step_size integer not null default 100,  -- subjects of a step: more after quick rounds, fewer after slow rounds
  worker_call_id bigint  -- the last request of call_worker() to pg_net
);
comment on table picture_queue.maintenance is
  'The worker that does the maintenance of the project, until when, and the times of its next steps.';
insert into picture_queue.maintenance default values;
