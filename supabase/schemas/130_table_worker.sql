create table picture_queue.worker (
  name text primary key,
  queues text[] not null,
  job_types text[] not null,
  idle boolean not null default false,
  seen_at timestamptz not null default now(),
  -- Where its claims begin in each queue ([rank, turn, seq]), while it is expensive to find the first job there.
  start_positions jsonb,
  positions_until timestamptz not null default '-infinity'
);
comment on table picture_queue.worker is 'Workers, their queues and job types, and when they called last.';
-- Claims look up their worker, and enqueues an idle one heard of lately: the newest row version first, so that those
-- which an old snapshot keeps from being cleaned up are not in the way.
create index worker_newest on picture_queue.worker (name, seen_at desc);
create index worker_idle on picture_queue.worker (seen_at) where idle;
