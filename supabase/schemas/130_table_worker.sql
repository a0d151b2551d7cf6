create table picture_queue.worker (
  name text primary key,
  queues text[] not null,
  job_types text[] not null,
  idle boolean not null default false,
  seen_at timestamptz not null default now(),
  -- The position in each queue ([rank, turn, seq]) at which claims of the worker begin to scan the index, until
  -- positions_until. They skip the entries before it, which are dead or belong to jobs that the worker cannot claim.
  start_positions jsonb,
  positions_until timestamptz not null default '-infinity'
);
comment on table picture_queue.worker is 'Workers, their queues and job types, and when they called last.';
-- A claim looks up its worker; an enqueue looks up an idle worker with a recent heartbeat. Both scans begin at the
-- newest version of the row. So they do not read the dead versions that vacuum cannot remove while an old snapshot
-- exists.
create index worker_newest on picture_queue.worker (name, seen_at desc);
create index worker_idle on picture_queue.worker (seen_at) where idle;
