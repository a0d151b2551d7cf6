create table picture_queue.queue (
  name text primary key,
  events text not null default 'progress',
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_policy text,
  backoff_seconds real,
  backoff_cap_seconds real,
  backoff_jitter real,
  fair_share boolean not null default false,
  aging_seconds real,
  breaker_failures integer,
  breaker_seconds real not null default 60,
  paused_until timestamptz,
  pause_reason text,
  draining boolean not null default false,
  -- Maintenance reorders the jobs after a change of fair_share or aging_seconds. Jobs up to this seq have their new
  -- rank and turn; null: all jobs have them.
  reorder_after bigint,
  -- When to reorder all jobs once more, since transactions that were open at the change may have enqueued some in the
  -- old order.
  reorder_again_at timestamptz,
  created_at timestamptz not null default now(),
  constraint queue_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
  constraint queue_events_is_known check (events in ('none', 'status', 'progress')),
  constraint queue_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds, aging_seconds,
      breaker_failures, breaker_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds, aging_seconds,
      breaker_seconds) <= 31536000  -- a year
    and backoff_jitter between 0 and 1
  ),
  constraint queue_backoff_policy_is_known check (backoff_policy in ('constant', 'linear', 'exponential')),
  constraint queue_has_fair_share_or_aging check (not (fair_share and aging_seconds is not null))
);
comment on table picture_queue.queue is 'The queues and their policies; null: the default in setting applies.';
comment on column picture_queue.queue.events is
  'Which events are sent: none, status (changes of status), or progress (changes of status and of progress).';
comment on column picture_queue.queue.fair_share is 'Whether tenants take turns within a priority.';
comment on column picture_queue.queue.aging_seconds is
  'The seconds of waiting that raise the priority by one; null: waiting does not raise it.';
comment on column picture_queue.queue.breaker_failures is
  'The number of failures in a row for one reason after which the queue is paused for breaker_seconds; null: never.';
comment on column picture_queue.queue.paused_until is
  'No job is claimed until this time; infinity: until the queue is resumed.';
comment on column picture_queue.queue.draining is 'Whether new jobs are refused; the jobs of the queue are still run.';
insert into picture_queue.queue (name) values ('default');

create table picture_queue.breaker (
  queue text primary key references picture_queue.queue (name) on delete cascade,
  reason text not null,
  failures integer not null
);
comment on table picture_queue.breaker is 'Failures in a row for one reason, of queues with breaker_failures.';
