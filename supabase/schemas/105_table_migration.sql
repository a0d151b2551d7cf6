-- Which migrations `picture-queue migrate` applied. The Supabase CLI has a list of its own,
-- supabase_migrations.schema_migrations; where it applies them, this one is empty.
create table picture_queue.migration (
  name text primary key,
  digest text not null,
  applied_at timestamptz not null default now()
);
comment on table picture_queue.migration is 'What `picture-queue migrate` applied, by the names it ships under.';
