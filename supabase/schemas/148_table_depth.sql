-- The number of jobs in each state. _transition appends changes to depth_change, maintenance adds these to depth, and
-- queries add up both tables. So the counts are exact, no query reads all jobs, and no caller waits for the lock of a
-- counter.
create table picture_queue.depth (
  queue text not null,
  status text not null,
  hold text,
  n bigint not null,
  unique nulls not distinct (queue, status, hold)
);
comment on table picture_queue.depth is 'Numbers of jobs by queue and state, without the rows of depth_change.';

create table picture_queue.depth_change (
  queue text not null,
  status text not null,
  hold text,
  n integer not null,
  at timestamptz not null
);
comment on table picture_queue.depth_change is 'Changes of the numbers of jobs that are not added to depth yet.';

create table picture_queue.throughput (
  queue text not null,
  minute timestamptz not null,
  status text not null,
  n bigint not null,
  primary key (queue, minute, status)
);
comment on table picture_queue.throughput is 'Jobs finished per minute, kept for two days.';
create index throughput_minute on picture_queue.throughput (minute);
