-- The operator's rules over the inputs of generations.

-- Returns the problem with a rule; null if there is none. A locked or default value must fit each model that has the
-- input, because users could not correct it.
create function picture_queue._input_rule_problem(p_model text, p_input text, p_action text, p_value jsonb, p_plan text)
returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case
    when coalesce(p_model, '') !~ '^[A-Za-z0-9._:/*-]{1,200}$' then format('model is %s', left(quote_nullable(p_model), 200))
    when coalesce(p_input, '') !~ '^[A-Za-z0-9_.*-]{1,100}$' then format('input is %s', left(quote_nullable(p_input), 200))
    when p_input = 'prompt' then 'input is prompt, for which the setting max_prompt_length applies'
    when picture_queue._plan_problem(p_plan) is not null then picture_queue._plan_problem(p_plan)
    when coalesce(p_action, '') not in ('lock', 'default', 'cap', 'refuse', 'allow')
      then format('action is %s, not lock, default, cap, refuse or allow', left(quote_nullable(p_action), 100))
    when p_action in ('lock', 'default') and p_value is null then format('value is null, and %s needs a value', p_action)
    when p_action = 'cap' and (p_value is null or jsonb_typeof(p_value) <> 'number')
      then format('value is %s, and cap needs a number', coalesce(left(p_value::text, 100), 'null'))
    when p_action = 'refuse' and jsonb_typeof(p_value) <> 'array'
      then format('value is %s, and refuse takes a list of values, or none', left(p_value::text, 100))
    when p_action = 'allow' and p_value is not null
      then format('value is %s, and allow takes no value', left(p_value::text, 100))
    -- A generation would not wait for the picture, and the picture may be deleted.
    when p_action in ('lock', 'default') and exists (
      select from picture_queue._input_texts(jsonb_build_object('value', p_value), 'generation:'))
      then format('value is %s, which names a picture by its generation: name its file, storage:pictures/<path>',
        left(p_value::text, 100))
    else coalesce('value ' || picture_queue._json_problem(p_value, 8192), (
      select format('value is %s and %s (%s of %s)', left(p_value::text, 100), p.problem, i.rule ->> 'name', m.model_id)
      from picture_queue.model m
      cross join lateral jsonb_array_elements(m.inputs) as i (rule)
      cross join lateral (select picture_queue._input_problem(i.rule, p_value, s.max_prompt_length) as problem
        from picture_queue.setting s) p
      where p_action in ('lock', 'default') and p.problem is not null and i.rule ->> 'name' <> 'prompt'
        and m.model_id like replace(replace(p_model, '_', '!_'), '*', '%') escape '!'
        and lower(i.rule ->> 'name') like replace(replace(lower(p_input), '_', '!_'), '*', '%') escape '!'
      order by m.model_id limit 1)) end
$$;

-- Returns the problem with models that the rules for these patterns make unusable; null if there is none.
create function picture_queue._ruled_models_problem(p_model text, p_input text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select p.problem
  from picture_queue.model m
  cross join lateral (
    select jsonb_agg(i) as inputs from jsonb_array_elements(m.inputs) i
    where lower(i ->> 'name') like replace(replace(lower(p_input), '_', '!_'), '*', '%') escape '!') matching
  cross join lateral (
    select picture_queue._ruled_inputs_problem(format('model %s has ', m.model_id), m.model_id, matching.inputs) as problem) p
  where m.enabled and m.unavailable_reason is null and matching.inputs is not null and p.problem is not null
    and m.model_id like replace(replace(p_model, '_', '!_'), '*', '%') escape '!'
  order by m.model_id limit 1
$$;

-- Sets a rule over an input. model and input may be patterns with *. plan: the rule applies to users of this plan;
-- null: to all users. A rule that makes an enabled model unusable is refused. The actions are:
-- lock      permits only this value
-- default   is the value if the caller omits the input
-- cap       is the highest number, and the maximum number of entries of a list or of characters of a text
-- refuse    refuses the input, or if value is a list, these values
-- allow     cancels less specific rules
create function public.set_input_rule(
  model text, input text, action text, value jsonb default null, plan text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(
    picture_queue._input_rule_problem(model, input, action, nullif(value, 'null'), plan),
    'a model is owner/name and an input is its name; both may contain *, which stands for any characters');
  insert into picture_queue.input_rule as o (model, plan, input, action, value)
  values (set_input_rule.model, set_input_rule.plan, set_input_rule.input, set_input_rule.action,
    nullif(set_input_rule.value, 'null'))
  on conflict on constraint input_rule_key do update set value = excluded.value;
  if action <> 'allow' then
    perform picture_queue._raise_problem(picture_queue._ruled_models_problem(model, input),
      'set another rule for this model and input first, for example with the action allow, or disable the model: set_model()');
  end if;
  return jsonb_build_object('model', model, 'plan', plan, 'input', input, 'action', action, 'value', nullif(value, 'null'));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_input_rule is 'Sets a rule over an input of generations.';

-- Deletes a rule over an input. A deletion that makes an enabled model unusable is refused: a rule `allow` may cancel a
-- rule that the model does not fit.
create function public.delete_input_rule(
  model text, input text, action text, plan text default null, request_id uuid default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_problem text;
begin
  if picture_queue._find_answer('delete_input_rule', request_id::text) is not null then
    return;
  end if;
  perform picture_queue._store_answer('delete_input_rule', request_id::text, '{}');
  v_problem := picture_queue._ruled_models_problem(model, input);
  delete from picture_queue.input_rule r
  where r.model = delete_input_rule.model and r.input = delete_input_rule.input
    and r.action = delete_input_rule.action and r.plan is not distinct from delete_input_rule.plan;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_RULE', format('model is %s, input is %s, action is %s, plan is %s',
      left(quote_nullable(model), 200), left(quote_nullable(input), 200), left(quote_nullable(action), 100),
      left(quote_nullable(plan), 100)));
  elsif v_problem is null then
    perform picture_queue._raise_problem(picture_queue._ruled_models_problem(model, input),
      'delete or change the other rule for this input first, or disable the model: set_model()');
  end if;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.delete_input_rule is 'Deletes a rule over an input.';

-- Returns the rules by model, input, plan and action.
create function public.list_input_rules() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
        'model', r.model, 'plan', r.plan, 'input', r.input, 'action', r.action, 'value', r.value)
      order by r.model, r.input, r.plan, r.action), '[]')
    from picture_queue.input_rule r);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_input_rules is 'The rules over inputs of generations.';
