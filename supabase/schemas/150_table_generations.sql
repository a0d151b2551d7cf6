create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid,
  job_id uuid not null,
  -- Null for a generation outside of a batch or chain. batch_position is the position of the request in the call, and
  -- batch_step the step in the chain of this request; both start at 0.
  batch_id uuid,
  batch_position integer,
  batch_step integer,
  kind text not null default 'text-to-image',
  model_id text not null,
  model_version text,
  prompt text not null,
  input jsonb not null default '{}',
  status text not null default 'pending',
  error text,
  favourite boolean not null default false,
  missing_images jsonb not null default '[]',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  -- The reserved cost, and the actual cost once the generation has ended. Null if the cost of the model is not known.
  cost_usd numeric,
  cost_is_estimate boolean not null default false,
  deleted boolean not null default false,
  constraint status_is_known
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled'))
);
comment on table public.generations is
  'Requests for pictures; status, error and finished_at are copied from the job.';
comment on column public.generations.missing_images is
  'Pictures of a completed generation that were made and could not be stored: a list of {n, reason}.';
comment on column public.generations.model_version is 'The version of the model in the catalogue at the start.';
comment on column public.generations.deleted is
  'Whether the generation was deleted. A deleted row is hidden; it is removed after its files.';
-- deleted is a boolean instead of a time, since the planner estimates that `deleted_at is null` matches few rows until
-- the table is analyzed.
create index generations_owned on public.generations (user_id, created_at desc, id desc);
create index generations_favourite on public.generations (user_id, created_at desc, id desc) where favourite;
create index generations_listed on public.generations (created_at desc, id desc) where not deleted;
-- For lists of all users with a filter that few rows fit. There is no index of status: with one, no change of status
-- could be a HOT update, and each would write to all indexes. A list by status alone reads a million rows in a second.
create index generations_of_model on public.generations (model_id, created_at desc, id desc) where not deleted;
create index generations_of_kind on public.generations (kind, created_at desc, id desc) where not deleted;
create index generations_favourite_listed on public.generations (created_at desc, id desc)
  where favourite and not deleted;
create index generations_job on public.generations (job_id);
create index generations_batch on public.generations (batch_id, batch_position, batch_step) where batch_id is not null;
-- The words of the prompt, and the id of the owner as another word. So the search of an owner reads no rows of other
-- owners. With fastupdate, an insert might have to write the pending entries of other inserts, and each search would
-- read them.
create index generations_words on public.generations
using gin ((to_tsvector('simple'::regconfig, left(prompt, 20000)) || coalesce(user_id::text, '')::tsvector))
with (fastupdate = off);
-- start_generation with options.reuse finds an equal generation by this hash.
create index generations_equal on public.generations (
  md5(coalesce(user_id::text, '') || ' ' || model_id || ' ' || coalesce(model_version, '') || ' ' || input::text
    || ' ' || prompt));
-- The planner gets no statistics of these columns, for the reason given for job_queue: the row estimates in a query
-- plan would reveal values of other users.
alter table public.generations
  alter id set statistics 0, alter user_id set statistics 0, alter job_id set statistics 0, alter kind set statistics 0,
  alter batch_id set statistics 0,
  alter prompt set statistics 0, alter error set statistics 0, alter missing_images set statistics 0,
  alter model_version set statistics 0, alter favourite set statistics 0;
alter index public.generations_words alter column 1 set statistics 0;
alter index public.generations_equal alter column 1 set statistics 0;

create table public.images (
  id uuid primary key default gen_random_uuid(),
  generation_id uuid not null references public.generations (id) on delete cascade,
  user_id uuid,
  n integer not null,
  path text not null,
  mime_type text not null,
  width integer,
  height integer,
  bytes bigint,
  sha256 text,
  blurhash text,
  thumbnail_path text,
  created_at timestamptz not null default now(),
  deleted boolean not null default false,
  constraint n_is_positive check (n >= 1),
  unique (generation_id, n)
);
comment on table public.images is 'The pictures of a generation, in the bucket "pictures" under path.';
comment on column public.images.thumbnail_path is 'The path of a small WebP in the same bucket; null if there is none.';
create index images_owned on public.images (user_id, created_at desc);
alter table public.images
  alter id set statistics 0, alter user_id set statistics 0, alter generation_id set statistics 0,
  alter path set statistics 0, alter sha256 set statistics 0, alter blurhash set statistics 0,
  alter thumbnail_path set statistics 0;
