-- start_generation checks inputs against this catalogue. 700_data_models.sql fills it.
create table picture_queue.model (
  model_id text primary key,
  provider text not null default 'replicate',
  kind text not null,
  official boolean,
  version text,
  typical_seconds real,
  price_usd_per_image numeric,
  max_outputs_param text,
  output text,
  progress_in_logs text,
  inputs jsonb not null,
  enabled boolean not null default true,
  -- The name is part of limit keys and job types.
  constraint provider_name_is_plain check (provider ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
  constraint inputs_is_list check (jsonb_typeof(inputs) = 'array')
);
comment on table picture_queue.model is 'Models and their inputs: name, type, format, bounds, required.';
