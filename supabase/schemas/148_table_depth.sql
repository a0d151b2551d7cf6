-- How many jobs there are in each state. _transition appends what changed, maintenance adds it up,
-- readers take the sum of both: exact, no counting of jobs, and nobody waits for a counter's lock.
create table picture_queue.depth (
  queue text not null,
  status text not null,
  hold text,
  n bigint not null,
  unique nulls not distinct (queue, status, hold)
);
comment on table picture_queue.depth is 'Jobs by queue and state, as of the last folding.';

create table picture_queue.depth_change (
  queue text not null,
  status text not null,
  hold text,
  n integer not null,
  at timestamptz not null
);
comment on table picture_queue.depth_change is 'What changed in depth since the last folding.';

create table picture_queue.throughput (
  queue text not null,
  minute timestamptz not null,
  status text not null,
  n bigint not null,
  primary key (queue, minute, status)
);
comment on table picture_queue.throughput is 'Jobs finished per minute, kept for two days.';
create index throughput_minute on picture_queue.throughput (minute);
