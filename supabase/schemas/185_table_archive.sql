-- A partition holds the jobs that finished in a month (UTC). It is created when it is needed, and dropped after
-- keep_archive_months.
create table picture_queue.archive (
  id uuid not null,
  seq bigint not null,
  queue text not null,
  job_type text not null,
  status text not null,
  priority integer not null,
  payload jsonb not null,
  result jsonb,
  error text,
  tags text[],
  metadata jsonb not null,
  tenant text,
  batch_id uuid,
  user_id uuid,
  generation_id uuid,
  attempt integer not null,
  worker text,
  created_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz not null,
  primary key (id, finished_at)
) partition by range (finished_at);
comment on table picture_queue.archive is
  'Jobs that were pruned while the setting archive was on, by the month in which they finished.';
create index archive_owned on picture_queue.archive (user_id) where user_id is not null;
