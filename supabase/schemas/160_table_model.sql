-- start_generation checks inputs against this table. 700_data_models.sql fills it with the models of the package, and
-- set_model adds and changes models of the project.
create table picture_queue.model (
  model_id text primary key,
  provider text not null default 'replicate',
  kind text not null,
  also_kinds jsonb not null default '[]',
  official boolean,
  version text,
  typical_seconds real,
  price_usd_per_image numeric,
  max_outputs_param text,
  output text,
  progress_in_logs text,
  inputs jsonb not null,
  inputs_complete boolean not null default true,  -- if false, inputs that are not listed are passed on unchecked
  unavailable_reason text,                        -- null: projects can offer the model
  enabled boolean not null default true,
  changed_at timestamptz,                         -- when set_model last changed the row; null: it is unchanged
  constraint model_kind_is_known check (
    kind in ('text-to-image', 'image-variation', 'image-edit', 'upscale', 'background-removal', 'vector')),
  constraint also_kinds_is_list check (jsonb_typeof(also_kinds) = 'array'),
  -- The name of the provider is part of limit keys and job types.
  constraint provider_name_is_plain check (provider ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
  constraint inputs_is_list check (jsonb_typeof(inputs) = 'array')
);
comment on table picture_queue.model is 'Models and their inputs: name, type, format, bounds, required.';
