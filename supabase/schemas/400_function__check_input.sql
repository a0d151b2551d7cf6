-- Returns the problem with the value of one input; null if the value is valid. p_rule is an entry of model.inputs.
-- p_max_text is the maximum number of characters of a text that is not a URL. A model may read such a text as a prompt,
-- so it has the limit of prompts.
create function picture_queue._input_problem(p_rule jsonb, p_value jsonb, p_max_text integer) returns text
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
      where picture_queue._file_problem(u) is not null)
      then 'is neither an https:// address nor storage:uploads/<user id>/<name> nor generation:<id>/<n>'
    when jsonb_typeof(p_rule -> 'enum') = 'array' and not (p_rule -> 'enum') @> p_value
      then format('is not one of %s', picture_queue._list_values(array(select jsonb_array_elements_text(p_rule -> 'enum'))))
    when p_rule -> 'format' is null and exists (
      select from jsonb_array_elements_text(
        case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end) u
      where length(u) > p_max_text)
      then format('has over %s characters', p_max_text)
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric < (p_rule ->> 'minimum')::numeric
      then format('is below %s', p_rule ->> 'minimum')
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric > (p_rule ->> 'maximum')::numeric
      then format('is above %s', p_rule ->> 'maximum')
  end
$$;

-- Returns how many characters have to be inserted, deleted or replaced to turn one text into the other (the Levenshtein
-- distance). The texts are names of up to 100 characters.
create function picture_queue._edit_distance(p_from text, p_to text) returns integer
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_row integer[] := array(select generate_series(0, length(p_to)));  -- v_row[j + 1]: the distance to the first j characters
  v_diagonal integer;
  v_above integer;
begin
  for i in 1..length(p_from) loop
    v_diagonal := v_row[1];
    v_row[1] := i;
    for j in 1..length(p_to) loop
      v_above := v_row[j + 1];
      v_row[j + 1] := least(v_above + 1, v_row[j] + 1,
        v_diagonal + (substr(p_from, i, 1) <> substr(p_to, j, 1))::integer);
      v_diagonal := v_above;
    end loop;
  end loop;
  return v_row[length(p_to) + 1];
end
$$;

-- Returns the name that a mistyped name probably stands for; null if no name is similar. A name is similar if at most a
-- third of the characters differ, or if it begins with the mistyped name.
create function picture_queue._nearest_name(p_mistyped text, p_names text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select n.name
  from unnest(p_names) as n (name)
  cross join lateral (select picture_queue._edit_distance(lower(left(p_mistyped, 60)), lower(left(n.name, 60))) as distance) d
  where d.distance <= greatest(length(n.name), length(left(p_mistyped, 60))) / 3
    or length(p_mistyped) >= 3 and starts_with(lower(n.name), lower(p_mistyped))
  order by d.distance, n.name limit 1
$$;

-- Returns whether a prompt consists of spaces of any width, line breaks, control and format characters only.
create function picture_queue._is_blank(p_prompt text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(p_prompt, '') !~ (E'[^[:space:]\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c'
    || E'\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f'
    || E'\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]')
$$;

-- Returns the problem with the size and form of an input; null if there is none. This check limits the work of the
-- checks that follow.
create function picture_queue._input_form_problem(p_input jsonb, p_max_bytes integer) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when jsonb_typeof(p_input) is distinct from 'object' then 'input is not an object'
    else coalesce(
      'input ' || picture_queue._json_problem(p_input, p_max_bytes) || ': pass the URLs of files, not the files',
      case when (select count(*) from jsonb_object_keys(p_input)) > 100
        then format('input has %s fields, at most 100 are possible', (select count(*) from jsonb_object_keys(p_input))) end)
  end
$$;

-- Refuses a prompt or input that does not fit the model. The error names the field, the value and the rule. If several
-- inputs are invalid, the error names the first in alphabetical order. If the list of inputs of the model is
-- incomplete, unknown inputs are passed on unchecked, and the function returns a warning for each of them.
create function picture_queue._check_input(p_model_id text, p_prompt text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting picture_queue.setting;
  v_model picture_queue.model;
  v_prompt jsonb;  -- the entry of the prompt in the inputs of the model; null if the model takes no prompt
  v_names text[];
  v_problem text;
  v_nearest text;
begin
  select * into v_setting from picture_queue.setting;
  select * into v_model from picture_queue.model m where m.model_id = p_model_id;
  v_names := array(select r ->> 'name' from jsonb_array_elements(v_model.inputs) r);
  select r into v_prompt from jsonb_array_elements(v_model.inputs) r where r ->> 'name' = 'prompt';
  v_problem := case
    when length(p_prompt) > v_setting.max_prompt_length
      then format('prompt has %s characters, the limit is %s', length(p_prompt), v_setting.max_prompt_length)
    -- Many models have a default prompt. A text-to-image model must not draw this instead of the user's prompt. For
    -- other models, such as upscalers, the default prompt is useful.
    when (v_prompt ->> 'required' = 'true' or v_prompt is not null and v_model.kind = 'text-to-image')
      and picture_queue._is_blank(p_prompt) then 'prompt is empty'
    when v_prompt is null and coalesce(p_prompt, '') <> '' then format('%s takes no prompt', p_model_id)
    when p_input ? 'prompt' then 'input.prompt is not permitted, prompt is a separate argument'
    else coalesce(picture_queue._input_form_problem(p_input, v_setting.max_payload_bytes), (
      select format('input.%s is %s and %s', left(e.key, 100), left(e.value::text, 100), p.problem)
      from jsonb_each(p_input) e
      left join jsonb_array_elements(v_model.inputs) as r (rule) on r.rule ->> 'name' = e.key
      cross join lateral (select case when r.rule is not null
          then picture_queue._input_problem(r.rule, e.value, v_setting.max_prompt_length)
        when v_model.inputs_complete then 'is not an input of ' || p_model_id
        else picture_queue._input_problem('{}', e.value, v_setting.max_prompt_length) end as problem) p
      where p.problem is not null order by e.key limit 1), (
      select format('input.%s is missing', r.rule ->> 'name') from jsonb_array_elements(v_model.inputs) as r (rule)
      where (r.rule ->> 'required')::boolean and r.rule ->> 'name' <> 'prompt' and not p_input ? (r.rule ->> 'name') limit 1))
  end;
  if v_problem is not null then
    select picture_queue._nearest_name(k, array_remove(v_names, 'prompt')) into v_nearest
    from jsonb_object_keys(case jsonb_typeof(p_input) when 'object' then p_input else '{}' end) k
    where v_problem like '%is not an input of%' and k <> all (v_names) order by k limit 1;
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem, coalesce(
      'did you mean ' || v_nearest || '? ', '') || format('inputs of %s: %s', p_model_id, picture_queue._list_values(v_names)));
  end if;
  return (
    select coalesce(jsonb_agg(format('input.%s is not among the known inputs of %s, and is passed on unchecked%s',
      left(u.k, 100), p_model_id,
      -- The search for a similar name takes milliseconds.
      case when u.n <= 3 then '; did you mean ' || picture_queue._nearest_name(u.k, v_names) || '?' end) order by u.k), '[]')
    from (
      select k, row_number() over (order by k) as n from jsonb_object_keys(p_input) k where k <> all (v_names)) u);
end
$$;
