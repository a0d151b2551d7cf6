-- A queue is a row; its policy columns are null where the setting's default holds.
create table picture_queue.queue (
  name text primary key,
  events text not null default 'progress',
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_seconds real,
  backoff_cap_seconds real,
  created_at timestamptz not null default now(),
  constraint queue_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
  constraint queue_events_is_known check (events in ('none', 'status', 'progress')),
  constraint queue_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000
  )
);
comment on table picture_queue.queue is 'The queues and their policies; null means the default of setting.';
comment on column picture_queue.queue.events is 'What is announced over Realtime: none, status, or progress as well.';
insert into picture_queue.queue (name) values ('default');
alter table picture_queue.queue enable row level security;
