-- Predictions at a provider, each of which may cost money. A worker commits the row before it creates the prediction,
-- and writes the id that the provider returns into the row at once. So another worker can resume the prediction instead
-- of paying for another.
create table picture_queue.prediction (
  id uuid primary key default gen_random_uuid(),
  job_id uuid not null,
  generation_id uuid not null references public.generations (id) on delete cascade,
  attempt integer not null,
  provider text not null default 'replicate',
  model_id text not null,
  input jsonb not null,
  state text not null default 'creating',
  prediction_id text,
  -- The latest status that a webhook reported: starting, processing, or a final status of the provider.
  status text,
  error text,
  metrics jsonb,
  cost_usd numeric,  -- the amount that the provider charges, by the price of the model or by metrics.predict_time
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint prediction_id_is_unique unique (provider, prediction_id),
  constraint state_is_known
    check (state in ('creating', 'created', 'succeeded', 'failed', 'canceled', 'aborted', 'lost')),
  constraint status_is_known
    check (status in ('starting', 'processing', 'succeeded', 'failed', 'canceled', 'aborted')),
  constraint created_has_an_id check (state <> 'created' or prediction_id is not null)
);
comment on table picture_queue.prediction is 'One row per prediction at a provider, committed before its creation.';
create unique index prediction_live on picture_queue.prediction (generation_id)
  where state in ('creating', 'created');
create index prediction_generation on picture_queue.prediction (generation_id, created_at);
create index prediction_recent on picture_queue.prediction (provider, created_at) where prediction_id is not null;
-- For the search for a lost prediction: rows whose prediction may exist, although its id is not recorded.
create index prediction_unrecorded on picture_queue.prediction (provider, created_at)
  where prediction_id is null and state in ('creating', 'lost', 'canceled');
