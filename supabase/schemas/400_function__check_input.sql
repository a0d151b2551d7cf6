-- Returns the problem with the value of one input; null if it is valid. p_rule is an entry of model.inputs.
create function picture_queue._input_problem(p_rule jsonb, p_value jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_rule ->> 'type' = 'integer' and (jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}')::numeric % 1 <> 0)
      then 'is not a whole number'
    when case when jsonb_typeof(p_value) = 'number' then
        p_rule ->> 'type' = 'integer' and abs((p_value #>> '{}')::numeric) >= 2::numeric ^ 63 end
      then 'is beyond 64 bits'
    when p_rule ->> 'type' in ('number', 'string', 'boolean', 'array') and jsonb_typeof(p_value) <> p_rule ->> 'type'
      then format('is not of type %s', p_rule ->> 'type')
    when case when jsonb_typeof(p_value) = 'array' then jsonb_array_length(p_value) > 100 end
      then format('has %s entries, at most 100 are possible', jsonb_array_length(p_value))
    when p_rule ->> 'format' = 'uri' and exists (
      select from jsonb_array_elements_text(
        case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end) u
      where u !~ '^https://[^[:space:]]+$')
      then 'is not an https:// address'
    when jsonb_typeof(p_rule -> 'enum') = 'array' and not (p_rule -> 'enum') @> p_value
      then format('is not one of %s', (select string_agg(v, ', ') from jsonb_array_elements_text(p_rule -> 'enum') v))
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric < (p_rule ->> 'minimum')::numeric
      then format('is below %s', p_rule ->> 'minimum')
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric > (p_rule ->> 'maximum')::numeric
      then format('is above %s', p_rule ->> 'maximum')
  end
$$;

-- Refuses a prompt or input that does not fit the model. The error names the field, the value and the rule. If several
-- inputs are invalid, it names the first by name.
create function picture_queue._check_input(p_model_id text, p_prompt text, p_input jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting picture_queue.setting;
  v_model picture_queue.model;
  v_takes_prompt boolean;
  v_problem text;
begin
  select * into v_setting from picture_queue.setting;
  select * into v_model from picture_queue.model m where m.model_id = p_model_id;
  v_takes_prompt := v_model.inputs @> '[{"name": "prompt"}]';
  v_problem := case
    when jsonb_typeof(p_input) is distinct from 'object' then 'input is not an object'
    when length(p_prompt) > v_setting.max_prompt_length
      then format('prompt has %s characters, the limit is %s', length(p_prompt), v_setting.max_prompt_length)
    -- A prompt of spaces of any width, line breaks, control and format characters is empty.
    when v_takes_prompt and coalesce(p_prompt, '') !~ (E'[^[:space:]\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c'
      || E'\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f'
      || E'\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]') then 'prompt is empty'
    when not v_takes_prompt and coalesce(p_prompt, '') <> '' then format('%s takes no prompt', p_model_id)
    when p_input ? 'prompt' then 'input.prompt is not permitted, prompt is a separate argument'
    else coalesce('input ' || picture_queue._json_problem(p_input, v_setting.max_payload_bytes)
      || ': pass the URLs of files, not the files', (
      select format('input.%s is %s and %s', left(e.key, 100), left(e.value::text, 100), p.problem)
      from jsonb_each(p_input) e
      left join jsonb_array_elements(v_model.inputs) as r (rule) on r.rule ->> 'name' = e.key
      cross join lateral (select case when r.rule is null then 'is not an input of ' || p_model_id
        else picture_queue._input_problem(r.rule, e.value) end as problem) p
      where p.problem is not null order by e.key limit 1), (
      select format('input.%s is missing', r.rule ->> 'name') from jsonb_array_elements(v_model.inputs) as r (rule)
      where (r.rule ->> 'required')::boolean and r.rule ->> 'name' <> 'prompt' and not p_input ? (r.rule ->> 'name') limit 1))
  end;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem, format('inputs of %s: %s', p_model_id,
      (select string_agg(r.rule ->> 'name', ', ') from jsonb_array_elements(v_model.inputs) as r (rule))));
  end if;
end
$$;
