-- Limits. A job runs under the keys 'global', 'queue:<name>', 'type:<job type>', 'user:<id>' and those
-- named at its enqueue, such as 'model:flux'. A rule is for one key, or for each key of a kind
-- ('user:*'); the rule of the key itself wins.
create table picture_queue.limit_rule (
  key text primary key,
  max_running integer,
  rate integer,
  period_seconds real,
  created_at timestamptz not null default now(),
  constraint limit_key_is_plain check (key ~ '^[^[:cntrl:]]{1,200}$'),
  constraint limit_is_positive check (least(max_running, rate, period_seconds) > 0),
  constraint limit_says_something check (max_running is not null or rate is not null),
  constraint rate_has_a_period check ((rate is null) = (period_seconds is null))
);
comment on table picture_queue.limit_rule is 'How many jobs of a key may run at once, or start in any period.';
alter table picture_queue.limit_rule enable row level security;

-- A key that is paused, or that jobs wait for.
create table picture_queue.limit_key (
  key text primary key,
  paused_until timestamptz,
  due_at timestamptz
);
comment on table picture_queue.limit_key is
  'Keys that are paused (until then) or that jobs wait for (look again at due_at).';
create index limit_key_due on picture_queue.limit_key (due_at) where due_at is not null;
alter table picture_queue.limit_key enable row level security;

-- The running jobs of each limited key. Rows, not a counter: what is counted is what is there.
create table picture_queue.slot (
  key text not null,
  job_id uuid not null,
  primary key (key, job_id)
);
comment on table picture_queue.slot is 'The running jobs of each limited key.';
alter table picture_queue.slot enable row level security;

-- The starts of each key with a rate, as long as they count.
create table picture_queue.start (
  key text not null,
  at timestamptz not null
);
comment on table picture_queue.start is 'The latest starts of each key that has a rate.';
create index start_key on picture_queue.start (key, at);
alter table picture_queue.start enable row level security;

-- Keys of which a slot came free; the next claim lets waiting jobs through. Appended, so that whoever
-- ends a job needs no lock.
create table picture_queue.freed_key (key text not null);
comment on table picture_queue.freed_key is 'Keys of which a slot came free since the last claim.';
alter table picture_queue.freed_key enable row level security;

create table picture_queue.tenant (
  name text primary key,
  weight real not null,
  constraint tenant_weight_is_in_range check (weight between 0.001 and 1000)
);
comment on table picture_queue.tenant is 'The weight of tenants in queues that share fairly; 1 where there is no row.';
alter table picture_queue.tenant enable row level security;
