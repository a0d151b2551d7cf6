-- The models of the project.

-- Returns the model with this id (null: all models) in the format of list_models. rules has the operator's rules by
-- input, for users of this plan (null: no plan). capabilities are those of the provider, which its first worker
-- registers; null before.
create function picture_queue._model_rows(p_model_id text, p_plan text default null) returns setof jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select to_jsonb(m) || jsonb_build_object('default', m.model_id = s.default_model, 'capabilities', (
    select t.capabilities from picture_queue.job_type t
    where t.name = picture_queue._generation_job_type(m.kind, m.provider)), 'rules', coalesce((
    select jsonb_object_agg(r.input, jsonb_strip_nulls(jsonb_build_object('lock', r.locked, 'default', r.preset,
      'cap', r.cap, 'refuse', case when r.is_refused then 'true' else r.refused_values end)))
    from picture_queue._input_rules(m.model_id, p_plan, array(
      select i ->> 'name' from jsonb_array_elements(m.inputs) i where i ->> 'name' <> 'prompt')) r), '{}'))
  from picture_queue.model m cross join picture_queue.setting s
  where p_model_id is null or m.model_id = p_model_id
  order by m.model_id
$$;

-- Returns the models that generations can use. filter.kind selects a kind. With filter.include_disabled, which needs a
-- service key, the function also returns models that are disabled or cannot be offered.
create function picture_queue.list_models(p_filter jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', p_filter, '{
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "include_disabled": ["boolean"]
  }');
  if (p_filter ->> 'include_disabled')::boolean and not picture_queue._is_service() then
    perform picture_queue._raise_error('PQ_NOT_ALLOWED', 'filter.include_disabled needs a service key', 'omit it');
  end if;
  return (
    select coalesce(jsonb_agg(m order by m ->> 'model_id'), '[]')
    from picture_queue._model_rows(null, (
      select a.plan from picture_queue.account a where a.key = 'user:' || picture_queue._caller_id())) m
    where ((p_filter ->> 'include_disabled')::boolean or (m ->> 'enabled')::boolean and m ->> 'unavailable_reason' is null)
      and (p_filter ->> 'kind' is null or m ->> 'kind' = p_filter ->> 'kind' or m -> 'also_kinds' ? (p_filter ->> 'kind')));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.list_models(filter jsonb default '{}') returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.list_models(coalesce(nullif(filter, 'null'), '{}')) $$;
comment on function public.list_models is 'The models that generations can use, with their inputs.';

-- Returns the problem with an entry of model.inputs; null if there is none.
create function picture_queue._model_input_problem(p_path text, p_input jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_enum jsonb := nullif(p_input -> 'enum', 'null');
  v_default jsonb := nullif(p_input -> 'default', 'null');
  v_problem text := picture_queue._fields_problem(p_path, p_input - 'enum' - 'default', '{
    "name": ["text", 100],
    "type": ["choice", "string", "integer", "number", "boolean", "array"],
    "format": ["choice", "uri"],
    "required": ["boolean"],
    "minimum": ["number", -1e18, 1e18],
    "maximum": ["number", -1e18, 1e18],
    "description": ["text", 2000, 0]
  }');
begin
  return case
    when v_problem is not null then v_problem
    when p_input ->> 'name' is null or p_input ->> 'type' is null then format('%sname and %stype are required', p_path, p_path)
    when jsonb_typeof(v_enum) <> 'array' or jsonb_array_length(
        case jsonb_typeof(v_enum) when 'array' then v_enum else '[]' end) > 1000
      then format('%senum is not a list of up to 1000 values', p_path)
    -- The default of a file input may be the file of an example, whose URL is not checked.
    when v_default is not null and p_input ->> 'format' is null
      then format('%sdefault is %s and ', p_path, left(v_default::text, 100))
        || picture_queue._input_problem(p_input - 'minimum' - 'maximum', v_default, 100000)
  end;
end
$$;

-- Returns the problem with the changes of a model; null if there is none.
create function picture_queue._model_problem(p_changes jsonb, p_is_new boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_kinds text[] := '{text-to-image,image-variation,image-edit,upscale,background-removal,vector}'::text[];
  v_inputs jsonb := nullif(p_changes -> 'inputs', 'null');
  v_problem text;
begin
  v_problem := coalesce(
    'changes ' || picture_queue._json_problem(p_changes, 524288),
    picture_queue._fields_problem('changes.', p_changes - 'inputs', '{
      "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
      "also_kinds": ["list", 6, 40],
      "provider": ["name", 32, "_-"],
      "official": ["boolean"],
      "version": ["text", 200],
      "typical_seconds": ["number", 0, 86400],
      "price_usd_per_image": ["number", 0, 1000],
      "max_outputs_param": ["text", 100],
      "output": ["choice", "uri", "uri[]"],
      "progress_in_logs": ["choice", "percent", "text", "empty"],
      "inputs_complete": ["boolean"],
      "enabled": ["boolean"]
    }'),
    case when p_changes ->> 'provider' ~ '[A-Z]'
      then format('changes.provider is %s, which has capital letters', p_changes -> 'provider') end,
    case when p_is_new and (v_inputs is null or nullif(p_changes -> 'kind', 'null') is null)
      then 'changes.kind and changes.inputs are required for a new model' end,
    case when v_inputs is not null and (not picture_queue._is_object_list(v_inputs) or jsonb_array_length(v_inputs) > 200)
      then 'changes.inputs is not a list of up to 200 objects' end);
  if v_problem is null then
    select format('changes.also_kinds has %s, which is none of %s', k, array_to_string(v_kinds, ', ')) into v_problem
    from jsonb_array_elements_text(coalesce(nullif(p_changes -> 'also_kinds', 'null'), '[]')) k where k <> all (v_kinds) limit 1;
  end if;
  if v_problem is null then
    select coalesce(picture_queue._model_input_problem(format('changes.inputs[%s].', i.i - 1), i.input),
        case when count(*) over (partition by i.input ->> 'name') > 1
          then format('changes.inputs has %s twice', i.input ->> 'name') end) as problem into v_problem
    from jsonb_array_elements(coalesce(v_inputs, '[]')) with ordinality as i (input, i)
    order by problem nulls last limit 1;
  end if;
  return v_problem;
end
$$;

-- Returns the problem with inputs of a model that the operator's rules make unusable, for users of any plan; null if
-- there is none. Either the value that a rule adds does not fit the input, so that each generation is refused; or the
-- input is required, and the rules permit none of its values. p_prefix: the beginning of the text.
create function picture_queue._ruled_inputs_problem(p_prefix text, p_model_id text, p_inputs jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_max_text integer := (select s.max_prompt_length from picture_queue.setting s);
begin
  return (
    select p_prefix || format('%s, %s; its rules are %s', r.input, coalesce(p.problem, 'which is required, and of '
        'which the rules of this project permit no value'), concat_ws(', ', 'lock ' || left(r.locked::text, 100),
        'default ' || left(r.preset::text, 100), 'cap ' || r.cap::text, case when r.is_refused then 'refuse' end,
        'refuse ' || left(r.refused_values::text, 100), 'plan ' || o.plan))
    from (select null as plan union select i.plan from picture_queue.input_rule i) o
    cross join lateral picture_queue._input_rules(p_model_id, o.plan, array(
      select n ->> 'name' from jsonb_array_elements(p_inputs) n where n ->> 'name' <> 'prompt')) r
    join lateral jsonb_array_elements(p_inputs) as m (rule) on m.rule ->> 'name' = r.input
    cross join lateral picture_queue._apply_input_rule(m.rule, null, r.locked, r.preset, r.cap, r.is_refused,
      r.refused_values) a
    cross join lateral (select format('for which a rule of this project sets %s, which %s', left(a.value::text, 100),
      picture_queue._input_problem(m.rule, a.value, v_max_text)) as problem
      where a.value is not null and picture_queue._input_problem(m.rule, a.value, v_max_text) is not null
      union all
      select null
      where (m.rule ->> 'required')::boolean and a.value is null and (r.is_refused
        or (m.rule ->> 'minimum')::numeric > (r.cap #>> '{}')::numeric
        or jsonb_typeof(m.rule -> 'enum') = 'array' and not exists (
          select from jsonb_array_elements(m.rule -> 'enum') e
          cross join lateral picture_queue._apply_input_rule(m.rule, e, r.locked, r.preset, r.cap, r.is_refused,
            r.refused_values) g
          where g.problem is null))) p
    order by r.input, o.plan nulls first limit 1);
end
$$;

-- Adds a model to the project, or changes a model. changes: the fields to change; null resets a field to its default.
create function public.set_model(model_id text, changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_changes jsonb := nullif(changes, 'null');
  v_model record;
begin
  perform picture_queue._raise_problem(case
    when coalesce(model_id, '') !~ '^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$' or length(model_id) > 180
      then format('model_id is %s', left(quote_nullable(model_id), 200))
    when jsonb_typeof(v_changes) is distinct from 'object' then 'changes is not an object' end, 'a model is owner/name, as in the address of its page at Replicate');
  select m.kind, m.inputs, m.unavailable_reason, m.model_id = s.default_model as is_default into v_model
  from picture_queue.setting s cross join picture_queue.model m where m.model_id = set_model.model_id;
  perform picture_queue._raise_problem(coalesce(picture_queue._model_problem(v_changes, v_model.kind is null), case
    when v_model.unavailable_reason is not null and v_changes ->> 'enabled' = 'true'
      then format('changes.enabled is true, and %s cannot be offered: %s', model_id, v_model.unavailable_reason) end),
    'docs/sql.md describes the fields of a model and of its inputs');
  perform picture_queue._raise_problem(picture_queue._ruled_inputs_problem('changes.inputs has ', model_id, coalesce(
      nullif(v_changes -> 'inputs', 'null'), case when v_changes ->> 'enabled' = 'true' then v_model.inputs end)),
    'set another rule for this model and input first: set_input_rule(), for example with the action allow');
  if v_model.is_default and v_changes ->> 'enabled' = 'false' then
    perform picture_queue._raise_error('PQ_CONFLICT', format('%s is the default model', model_id),
      'set_setting() changes default_model');
  end if;
  -- kind and inputs have no default. So the insert of an upsert needs them, even if it becomes an update.
  perform picture_queue._write_row('picture_queue.model', 'model_id', model_id, v_changes || jsonb_build_object(
    'kind', coalesce(v_changes ->> 'kind', v_model.kind),
    'inputs', coalesce(nullif(v_changes -> 'inputs', 'null'), v_model.inputs), 'changed_at', picture_queue._now()));
  return (select m from picture_queue._model_rows(model_id) m);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_model is 'Adds or changes a model of the project.';
