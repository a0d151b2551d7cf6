-- Limits. A job runs under the keys 'global', 'queue:<name>', 'type:<job type>', 'user:<id>' and the keys that its
-- enqueue names, such as 'model:flux'. A rule applies to one key, or to each key of a kind ('user:*'). The rule of a
-- key takes precedence over the rule of its kind.
create table picture_queue.limit_rule (
  key text primary key,
  max_running integer,
  rate integer,
  period_seconds real,
  created_at timestamptz not null default now(),
  -- Whether the jobs that were running when the rule was set have been counted. Until then no job of these keys starts.
  counted boolean not null default false,
  -- When to count the running jobs again. A claim that began before the rule was set does not see the rule, so it may
  -- start jobs without counting them.
  count_at timestamptz,
  constraint limit_key_is_plain check (key ~ '^[^[:cntrl:]]{1,200}$'),
  constraint limit_is_positive check (least(max_running, rate, period_seconds) > 0),
  constraint limit_has_maximum_or_rate check (max_running is not null or rate is not null),
  constraint rate_has_a_period check ((rate is null) = (period_seconds is null))
);
comment on table picture_queue.limit_rule is
  'How many jobs of a key may run at once (max_running), or start within any period_seconds (rate).';

-- A transaction that changes a row of limit_key, or reads it to decide which jobs may start, holds the advisory lock
-- of the key (_lock_keys). Because of this lock no key gets two rows, so the table needs no unique index. Each change
-- increases the column version. So the index returns the current tuple of a key first, even while an old snapshot
-- keeps vacuum from removing dead tuples.
create table picture_queue.limit_key (
  key text not null,
  running integer not null default 0,
  paused_until timestamptz,
  pause_reason text,  -- from the handler that paused the key; null if an operator paused it
  version bigint not null default 0
);
comment on table picture_queue.limit_key is 'The number of running jobs of each limited key, and the end of its pause.';
create index limit_key_newest on picture_queue.limit_key (key, version desc);
create index limit_key_paused on picture_queue.limit_key (paused_until) where paused_until is not null;

create table picture_queue.start (
  key text not null,
  at timestamptz not null
);
comment on table picture_queue.start is 'The latest job starts of each key that has a rate.';
create index start_key on picture_queue.start (key, at);

-- A row with n > 0 says that n jobs of this key ended. A row with n = 0 says that the pause or the period of the key
-- ends at this time, so that jobs that wait for the key may start. Rows are only appended, so that a transaction that
-- ends a job does not wait for the lock of the key. _unblock_keys deletes the rows, subtracts n from
-- limit_key.running, and unblocks jobs.
create table picture_queue.freed_key (
  key text not null,
  n integer not null default 1,
  at timestamptz not null default picture_queue._now()
);
comment on table picture_queue.freed_key is
  'When to unblock jobs of limit keys: jobs of the key have ended, or its pause or period ends.';
-- Claims read only recent rows by this index. So they do not read old entries that vacuum cannot remove while an old
-- snapshot exists.
create index freed_key_at on picture_queue.freed_key (at);
create index freed_key_key on picture_queue.freed_key (key, at);

create table picture_queue.tenant (
  name text primary key,
  weight real not null,
  constraint tenant_weight_is_in_range check (weight between 0.001 and 1000)
);
comment on table picture_queue.tenant is 'The weights of tenants in queues with fair_share; 1 without a row.';
