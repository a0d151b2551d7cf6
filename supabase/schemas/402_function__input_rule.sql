-- The operator's rules over inputs (picture_queue.input_rule).

-- Returns the rules that apply to each of these inputs of a model, for users of this plan (null: no plan). Of several
-- rules with the same action, the most specific applies. A rule with a plan is more specific than a rule without. After
-- that, the pattern of the model decides, then the pattern of the input. A rule `allow` cancels all locks, caps and
-- refusals that are equally or less specific. The function is plpgsql with a generic plan, since planning the query
-- takes longer than running it, and an SQL function would plan it for each call.
create function picture_queue._input_rules(p_model_id text, p_plan text, p_inputs text[])
returns table (input text, locked jsonb, preset jsonb, cap jsonb, is_refused boolean, refused_values jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  select most_specific.input, most_specific.locked[1], most_specific.preset[1], most_specific.cap[1],
    coalesce(most_specific.refused[1] = 'null', false), nullif(most_specific.refused[1], 'null')
  from (
    select rule.input,
      array_agg(rule.value order by rule.place, rule.value) filter (where rule.action = 'lock') as locked,
      array_agg(rule.value order by rule.place, rule.value) filter (where rule.action = 'default') as preset,
      array_agg(rule.value order by rule.place, rule.value) filter (where rule.action = 'cap') as cap,
      array_agg(coalesce(rule.value, 'null') order by rule.place, rule.value)
        filter (where rule.action = 'refuse') as refused
    from (
      select requested.input, matching.action, matching.value, matching.place,
        min(matching.place) filter (where matching.action = 'allow') over (partition by requested.input) as allowed_at
      from unnest(p_inputs) as requested (input)
      cross join lateral (
        -- place is 1 for the most specific rules.
        select o.action, o.value, rank() over (order by o.specificity desc) as place
        from picture_queue.input_rule o
        where (o.plan is null or o.plan = p_plan) and p_model_id like o.model_like escape '!'
          and lower(requested.input) like o.input_like escape '!'
      ) matching
    ) rule
    where rule.action in ('lock', 'default', 'cap', 'refuse')
      and (rule.action = 'default' or rule.place < coalesce(rule.allowed_at, 2147483647))
    group by rule.input
  ) most_specific;
end
$$;

-- Returns the number that a text is for most providers; null if it is none. A number with many characters, such as one
-- padded with zeros, is infinite. The text is read without space and control characters, as Python reads it.
create function picture_queue._text_number(p_text text) returns numeric
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := regexp_replace(p_text, E'[\u0001-\u0020\u007f]', '', 'g');
begin
  return case
    when v_text !~* '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?$' then null
    when length(v_text) > 80 or v_text ~* 'e[+-]?[0-9]{3}' then 'infinity'
    else v_text::numeric end;
end
$$;

-- Returns whether a text is a number above a cap, since some providers convert texts to numbers. p_is_strict: the model
-- does not list the input, so its type is not known, and the model may convert the text with Python or JavaScript.
-- Python reads '9_9' as 99, and digits of all scripts. So a text that is long or not in ASCII counts as above the cap,
-- unless it has a letter that occurs in no number, such as those of https.
create function picture_queue._number_exceeds(p_text text, p_cap numeric, p_is_strict boolean) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_number numeric := picture_queue._text_number(p_text);
  v_text text := regexp_replace(p_text, E'[\u0001-\u0020\u007f]', '', 'g');
begin
  if p_cap is null then
    return false;
  elsif v_number is not null or not p_is_strict then
    return coalesce(v_number > p_cap, false);
  end if;
  return v_text ~* '^[+-]?([0-9_.]+(e[0-9_+-]*)?|0[box][0-9a-f_]*|inf|infinity|nan)$'
    or (v_text ~ E'[^\u0001-\u007f]' or length(v_text) > 80) and v_text !~ '[GHJ-MP-SU-WZghj-mp-su-wz]';
end
$$;

-- Applies one row of _input_rules to the value that the caller passed (p_passed). Returns the value to send (null:
-- none), and the problem with the passed value. p_rule is the entry of the input in model.inputs; null if the model
-- does not list the input.
create function picture_queue._apply_input_rule(
  p_rule jsonb, p_passed jsonb, p_locked jsonb, p_preset jsonb, p_cap jsonb, p_is_refused boolean,
  p_refused_values jsonb, out value jsonb, out problem text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_default jsonb := nullif(p_rule -> 'default', 'null');
  v_cap numeric := case when p_locked is null then (p_cap #>> '{}')::numeric end;
  v_exceeds boolean := jsonb_typeof(v_default) = 'number' and (v_default #>> '{}')::numeric > v_cap;
begin
  -- A value that is the default of the model counts as omitted, so that a form may send all defaults.
  if p_passed is null or p_passed = v_default and (p_is_refused or p_locked is not null or v_exceeds) then
    value := case
      when p_rule is null then null
      when p_locked is not null then nullif(p_locked, v_default)  -- the default of the model need not be sent
      when p_is_refused then null
      when jsonb_typeof(p_preset) = 'number' and (p_preset #>> '{}')::numeric > v_cap then p_cap
      when p_preset is null and v_exceeds then p_cap
      else p_preset end;
    return;
  end if;
  value := p_passed;
  problem := case
    when p_is_refused then 'is not permitted in this project'
    when exists (
      select from jsonb_array_elements(p_refused_values) r
      where r = p_passed or jsonb_typeof(p_passed) = 'array' and exists (
        select from jsonb_array_elements(p_passed) g where g = r))
      then 'is a value that this project does not permit'
    when p_passed <> p_locked then format('is not permitted, this project permits only %s', left(p_locked::text, 100))
    else case jsonb_typeof(p_passed)
      when 'number' then case when (p_passed #>> '{}')::numeric > v_cap
        then format('is above %s, the maximum of this project', v_cap) end
      when 'array' then case
        when jsonb_array_length(p_passed) > v_cap
          then format('has %s entries, this project permits %s', jsonb_array_length(p_passed), v_cap)
        when p_rule is null and exists (
          select from jsonb_array_elements(p_passed) g
          where case jsonb_typeof(g) when 'number' then (g #>> '{}')::numeric > v_cap
            when 'string' then picture_queue._number_exceeds(g #>> '{}', v_cap, true) end)
          then format('has a number above %s, the maximum of this project', v_cap) end
      when 'string' then case
        when picture_queue._number_exceeds(p_passed #>> '{}', v_cap, p_rule is null)
          then format('is above %s, the maximum of this project', v_cap)
        when p_rule -> 'format' is null and length(p_passed #>> '{}') > v_cap
          then format('has %s characters, this project permits %s', length(p_passed #>> '{}'), v_cap) end
    end end;
end
$$;

-- Applies the operator's rules to an input, and returns the input to send: locked values and defaults are added, and
-- defaults of the model above a cap are lowered to the cap. A value that is the model's default counts as omitted.
-- Refuses a value that a rule does not permit, unless _check_input will refuse the value. p_plan: the plan of the user;
-- null: none.
create function picture_queue._apply_input_rules(p_model_id text, p_plan text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting picture_queue.setting;
  v_inputs jsonb := (select m.inputs from picture_queue.model m where m.model_id = p_model_id);
  v_problem text;
  v_inputs_with_rules text[];
  v_values jsonb;
begin
  select * into v_setting from picture_queue.setting;
  if picture_queue._input_form_problem(p_input, v_setting.max_payload_bytes) is not null then
    return p_input;  -- _check_input refuses it
  end if;
  select (array_agg(format('input.%s is %s and %s', left(rules.input, 100), left((p_input -> rules.input)::text, 100),
      applied.problem) order by rules.input)
      filter (where applied.problem is not null and (listed.rule is null
        or picture_queue._input_problem(listed.rule, p_input -> rules.input, v_setting.max_prompt_length) is null)))[1],
    array_agg(rules.input), jsonb_object_agg(rules.input, applied.value) filter (where applied.value is not null)
  into v_problem, v_inputs_with_rules, v_values
  from picture_queue._input_rules(p_model_id, p_plan, array(
    select i ->> 'name' from jsonb_array_elements(v_inputs) i where i ->> 'name' <> 'prompt'
    union select k from jsonb_object_keys(p_input) k)) rules
  left join jsonb_array_elements(v_inputs) as listed (rule) on listed.rule ->> 'name' = rules.input
  cross join lateral picture_queue._apply_input_rule(listed.rule, p_input -> rules.input, rules.locked, rules.preset,
    rules.cap, rules.is_refused, rules.refused_values) applied;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem,
      'omit it, or change its value; list_input_rules() shows the rules to the operator');
  end if;
  return p_input - coalesce(v_inputs_with_rules, '{}') || coalesce(v_values, '{}');
end
$$;
