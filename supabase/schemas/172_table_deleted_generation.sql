-- A generation is deleted in three steps. First the row is marked as deleted, which hides it, and a job is enqueued
-- that deletes the files. Then the worker deletes the files and calls record_deleted_files. Last, maintenance deletes
-- the row. So no file remains without a row that names it, whichever step fails.
create table picture_queue.deleted_generation (
  generation_id uuid primary key references public.generations (id) on delete cascade,
  deleted_at timestamptz not null,
  -- The job that deletes the files.
  job_id uuid,
  -- When to enqueue another job, if this job has ended and the files are not deleted.
  enqueue_at timestamptz not null,
  -- When to delete the row of the generation; null: the files are not deleted yet.
  remove_at timestamptz
);
comment on table picture_queue.deleted_generation is 'Deleted generations whose row, and perhaps files, still exist.';
create index deleted_generation_enqueue on picture_queue.deleted_generation (enqueue_at) where remove_at is null;
create index deleted_generation_remove on picture_queue.deleted_generation (remove_at) where remove_at is not null;
