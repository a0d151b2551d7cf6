-- The operator's rules over inputs (picture_queue.input_rule).

-- Returns the rules that apply to each of these inputs of a model, for users of this plan (null: no plan). Of several
-- rules with the same action, the most specific applies: one with a plan before one without, then by the pattern of the
-- model, then by that of the input. `allow` ends all less specific locks, caps and refusals, and equal ones.
create function picture_queue._input_rules(p_model_id text, p_plan text, p_inputs text[])
returns table (input text, locked jsonb, preset jsonb, cap jsonb, is_refused boolean, refused_values jsonb)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select m.input, m.locked[1], m.preset[1], m.cap[1],
    coalesce(m.refused[1] = 'null', false), nullif(m.refused[1], 'null')
  from (
    select r.input,
      array_agg(r.value order by r.place, r.value) filter (where r.action = 'lock') as locked,
      array_agg(r.value order by r.place, r.value) filter (where r.action = 'default') as preset,
      array_agg(r.value order by r.place, r.value) filter (where r.action = 'cap') as cap,
      array_agg(coalesce(r.value, 'null') order by r.place, r.value) filter (where r.action = 'refuse') as refused
    from (
      select n.input, i.action, i.value, i.place,
        min(i.place) filter (where i.action = 'allow') over (partition by n.input) as allowed_at
      from unnest(p_inputs) as n (input)
      cross join lateral (
        select o.action, o.value, rank() over (order by o.specificity desc) as place
        from picture_queue.input_rule o
        where (o.plan is null or o.plan = p_plan) and p_model_id like o.model_like escape '!'
          and lower(n.input) like o.input_like escape '!'
      ) i
    ) r
    where r.action in ('lock', 'default', 'cap', 'refuse')
      and (r.action = 'default' or r.place < coalesce(r.allowed_at, 2147483647))
    group by r.input
  ) m
$$;

-- Returns the value to send for an input under one row of _input_rules (null: none), and the problem with the given
-- value. p_rule is the entry of the input in model.inputs; null if the model does not list it.
create function picture_queue._apply_input_rule(
  p_rule jsonb, p_given jsonb, p_locked jsonb, p_preset jsonb, p_cap jsonb, p_is_refused boolean,
  p_refused_values jsonb, out value jsonb, out problem text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_default jsonb := nullif(p_rule -> 'default', 'null');
  v_cap numeric := case when p_locked is null then (p_cap #>> '{}')::numeric end;
  v_exceeds boolean := jsonb_typeof(v_default) = 'number' and (v_default #>> '{}')::numeric > v_cap;
begin
  -- The default of the model counts as not given, so that a form may send all defaults.
  if p_given is null or p_given = v_default and (p_is_refused or p_locked is not null or v_exceeds) then
    value := case
      when p_rule is null then null
      when p_locked is not null then nullif(p_locked, v_default)  -- a value that the model has by default is not sent
      when p_is_refused then null
      when jsonb_typeof(p_preset) = 'number' and (p_preset #>> '{}')::numeric > v_cap then p_cap
      when p_preset is null and v_exceeds then p_cap
      else p_preset end;
    return;
  end if;
  value := p_given;
  problem := case
    when p_is_refused then 'is not permitted in this project'
    when exists (
      select from jsonb_array_elements(p_refused_values) r
      where r = p_given or jsonb_typeof(p_given) = 'array' and exists (
        select from jsonb_array_elements(p_given) g where g = r))
      then 'is a value that this project does not permit'
    when p_given <> p_locked then format('is not permitted, this project permits only %s', left(p_locked::text, 100))
    else case jsonb_typeof(p_given)
      when 'number' then case when (p_given #>> '{}')::numeric > v_cap
        then format('is above %s, the maximum of this project', v_cap) end
      when 'array' then case
        when jsonb_array_length(p_given) > v_cap
          then format('has %s entries, this project permits %s', jsonb_array_length(p_given), v_cap)
        when p_rule is null and exists (
          select from jsonb_array_elements(p_given) g
          where case when jsonb_typeof(g) = 'number' then (g #>> '{}')::numeric > v_cap end)
          then format('has a number above %s, the maximum of this project', v_cap) end
      when 'string' then case
        -- Some providers convert texts to numbers.
        when case when p_given #>> '{}' ~* '^[[:space:]]*[+-]?([0-9]{1,40}[.]?[0-9]{0,40}|[.][0-9]{1,40})(e[+-]?[0-9]{1,2})?[[:space:]]*$'
          then (p_given #>> '{}')::numeric > v_cap
          -- The type of an input that the model does not list is not known. Python reads '9_9' as 99.
          when p_rule is null and v_cap is not null
            then p_given #>> '{}' ~* '^[[:space:]]*[+-]?([0-9_.]+(e[0-9_+-]*)?|inf|infinity|nan)[[:space:]]*$' end
          then format('is above %s, the maximum of this project', v_cap)
        when p_rule -> 'format' is null and length(p_given #>> '{}') > v_cap
          then format('has %s characters, this project permits %s', length(p_given #>> '{}'), v_cap) end
    end end;
end
$$;

-- Applies the operator's rules to an input, and returns the input to send: locked values and defaults are added, and
-- defaults of the model above a cap are lowered to it. A given value that is the model's default counts as not given.
-- Refuses a value that a rule does not permit, unless _check_input will refuse it. p_plan: the plan of the user; null:
-- none.
create function picture_queue._apply_input_rules(p_model_id text, p_plan text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting picture_queue.setting;
  v_inputs jsonb := (select m.inputs from picture_queue.model m where m.model_id = p_model_id);
  v_problem text;
  v_ruled text[];
  v_values jsonb;
begin
  select * into v_setting from picture_queue.setting;
  if picture_queue._input_form_problem(p_input, v_setting.max_payload_bytes) is not null then
    return p_input;  -- _check_input refuses it
  end if;
  select (array_agg(format('input.%s is %s and %s', left(r.input, 100), left((p_input -> r.input)::text, 100), a.problem)
      order by r.input) filter (where a.problem is not null and (m.rule is null
        or picture_queue._input_problem(m.rule, p_input -> r.input, v_setting.max_prompt_length) is null)))[1],
    array_agg(r.input), jsonb_object_agg(r.input, a.value) filter (where a.value is not null)
  into v_problem, v_ruled, v_values
  from picture_queue._input_rules(p_model_id, p_plan, array(
    select n ->> 'name' from jsonb_array_elements(v_inputs) n where n ->> 'name' <> 'prompt'
    union select k from jsonb_object_keys(p_input) k)) r
  left join jsonb_array_elements(v_inputs) as m (rule) on m.rule ->> 'name' = r.input
  cross join lateral picture_queue._apply_input_rule(m.rule, p_input -> r.input, r.locked, r.preset, r.cap,
    r.is_refused, r.refused_values) a;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem,
      'omit it, or change its value; list_input_rules() shows the rules to the operator');
  end if;
  return p_input - coalesce(v_ruled, '{}') || coalesce(v_values, '{}');
end
$$;
