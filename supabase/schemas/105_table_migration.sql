-- If the Supabase CLI applies the migrations, it lists them in supabase_migrations.schema_migrations, and this table is
-- empty.
create table picture_queue.migration (
  name text primary key,
  digest text not null,
  applied_at timestamptz not null default now()
);
comment on table picture_queue.migration is
  'The migrations that `picture-queue migrate` applied, by the names of their files.';
