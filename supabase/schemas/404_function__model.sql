-- Returns the job type of the generations of a kind and a provider. Each provider has its own job types. A worker
-- claims only job types that it has a handler for, so a worker without the provider never claims the job.
create function picture_queue._generation_job_type(p_kind text, p_provider text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case p_kind
      when 'text-to-image' then 'generate-image'
      when 'image-variation' then 'vary-image'
      when 'image-edit' then 'edit-image'
      when 'upscale' then 'upscale-image'
      when 'background-removal' then 'remove-background'
      when 'vector' then 'vectorize-image'
    end || case when p_provider <> 'replicate' then ':' || p_provider else '' end
$$;

-- Returns the input of a model that takes the picture of an earlier step: the first required file, else the first file.
-- A mask comes last. Null if the model takes no picture.
create function picture_queue._picture_input(p_inputs jsonb) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select r.rule from jsonb_array_elements(p_inputs) with ordinality as r (rule, i)
  where r.rule ->> 'format' = 'uri'
  order by coalesce((r.rule ->> 'required')::boolean, false) desc, r.rule ->> 'name' ~ 'mask', r.i limit 1
$$;

-- Returns the default model of a kind for a step that gets a picture: the model with the lowest expected cost, of the
-- models that are offered and take a picture. If the step has a prompt (p_prompted), models that take a prompt come
-- first; otherwise models that do not require a prompt. Null if there is no such model.
create function picture_queue._default_model(p_kind text, p_prompted boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return (
    select m.model_id
    from picture_queue.model m
    left join lateral (
      select r.rule from jsonb_array_elements(m.inputs) as r (rule) where r.rule ->> 'name' = 'prompt' limit 1) p on true
    where m.kind = p_kind and m.enabled and m.unavailable_reason is null
      and picture_queue._picture_input(m.inputs) is not null
    order by case when p_prompted then p.rule is null else coalesce((p.rule ->> 'required')::boolean, false) end,
      picture_queue._cost(m.model_id, '{}') ->> 'price_unit' is null,
      (picture_queue._cost(m.model_id, '{}') ->> 'amount_usd')::numeric, m.model_id limit 1);
end
$$;

-- Returns the model of a generation with its provider, and the kind of the generation: p_kind, or if it is null the
-- kind of the model. If p_model_id is null, the model is the default model.
create function picture_queue._resolve_model(
  p_model_id text, p_kind text, out model_id text, out kind text, out provider text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_model record;
begin
  select m.* into v_model from picture_queue.model m
  where m.model_id = coalesce(p_model_id, (select s.default_model from picture_queue.setting s));
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('model_id is %s', left(quote_nullable(p_model_id), 200)));
  elsif v_model.unavailable_reason is not null then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL',
      format('model_id is %L, which is not offered: %s', v_model.model_id, v_model.unavailable_reason));
  elsif not v_model.enabled then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL',
      format('model_id is %L, which this project has disabled', v_model.model_id));
  elsif p_kind <> v_model.kind and not v_model.also_kinds ? p_kind then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('options.kind is %s, and %s does %s', p_kind, v_model.model_id,
        concat_ws(', ', v_model.kind, (select string_agg(k, ', ') from jsonb_array_elements_text(v_model.also_kinds) k))),
      format('models of this kind: %s', picture_queue._list_values(array(
        select m.model_id from picture_queue.model m
        where m.enabled and m.unavailable_reason is null and (m.kind = p_kind or m.also_kinds ? p_kind)
        order by m.model_id))));
  end if;
  model_id := v_model.model_id;
  provider := v_model.provider;
  kind := coalesce(p_kind, v_model.kind);
end
$$;
