-- What was pruned, for projects that want to keep it (setting archive): a partition a month of
-- finishing (UTC), made when it is needed and dropped after keep_archive_months.
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
  'Jobs that were pruned, by month of finishing; only where setting.archive is on.';
create index archive_owned on picture_queue.archive (user_id) where user_id is not null;
