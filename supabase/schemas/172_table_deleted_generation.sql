-- A generation is deleted in three steps. First it is marked as deleted, which hides it, and a job is enqueued that
-- deletes its files. The worker deletes the files and calls record_deleted_files. Maintenance then deletes the row. So
-- no file remains without a row that names it, whatever fails in between.
create table picture_queue.deleted_generation (
  generation_id uuid primary key references public.generations (id) on delete cascade,
  deleted_at timestamptz not null,
  -- The job that deletes the files.
  job_id uuid,
  -- When to enqueue another job if that one has ended and the files are not deleted.
  enqueue_at timestamptz not null,
  -- When to delete the row; null: the files are not deleted yet.
  remove_at timestamptz
);
comment on table picture_queue.deleted_generation is 'Deleted generations whose row, and perhaps files, still exist.';
create index deleted_generation_enqueue on picture_queue.deleted_generation (enqueue_at) where remove_at is null;
create index deleted_generation_remove on picture_queue.deleted_generation (remove_at) where remove_at is not null;
