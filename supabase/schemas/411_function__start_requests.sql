-- Chains and batches of generations. Both are a batch of jobs (picture_queue.batch). A generation of a batch has the id
-- of the batch, the position of its request in the call and its step in the chain of this request. Each step is a
-- separate generation, with its own job, cost and refund. The job of a step depends on the job of the previous step.

-- Refuses options.then, or the field `then` of a request, if it is not a list of up to 5 valid steps. p_path: the name
-- of the list.
create function picture_queue._check_steps(p_path text, p_steps jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(p_steps, 'null') = 'null' then
    return;
  elsif jsonb_typeof(p_steps) <> 'array' then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', p_path || ' is not a list', 'pass a list of steps');
  elsif jsonb_array_length(p_steps) > 5 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('%s has %s steps, at most 5 are possible', p_path, jsonb_array_length(p_steps)), 'use fewer steps');
  end if;
  perform picture_queue._check_fields(format('%s[%s].', p_path, s.i - 1), s.step, '{
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "model_id": ["text", 200],
    "prompt": ["text", 1000000, 0],
    "input": ["object"]
  }')
  from jsonb_array_elements(p_steps) with ordinality as s (step, i);
  perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
    format('%s[%s] has neither model_id nor kind', p_path, s.i - 1), 'name the model of the step, or its kind')
  from jsonb_array_elements(p_steps) with ordinality as s (step, i)
  where coalesce(s.step ->> 'model_id', s.step ->> 'kind') is null;
end
$$;

-- Refuses the requests of start_generations if they are not a list of 1 to 100 objects with known fields. This check
-- limits the work of the checks that follow.
create function picture_queue._check_requests(p_requests jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := case when jsonb_typeof(p_requests) = 'array' then jsonb_array_length(p_requests) end;
  v_request record;
begin
  perform picture_queue._raise_problem(case
    when v_count is null then 'requests is not a list'
    when v_count not between 1 and 100 then format('requests has %s entries, 1 to 100 are possible', v_count)
    else 'requests ' || picture_queue._json_problem(p_requests, 100 * (select s.max_payload_bytes from picture_queue.setting s))
    end, 'pass a list of objects with prompt, model_id, input, kind and then');
  for v_request in
    select format('requests[%s].', r.i - 1) as path, r.request from jsonb_array_elements(p_requests) with ordinality as r (request, i)
  loop
    perform picture_queue._check_fields(v_request.path,
      case when v_request.request ? 'then' then v_request.request || '{"then": null}' else v_request.request end, '{
        "prompt": ["text", 1000000, 0],
        "model_id": ["text", 200],
        "input": ["object"],
        "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
        "then": ["object"]
      }');
    perform picture_queue._check_steps(v_request.path || 'then', v_request.request -> 'then');
  end loop;
end
$$;

-- Raises the error of one request again, with the path of the request in front of the name of the field.
create function picture_queue._raise_request_error(
  p_path text, p_sqlstate text, p_message text, p_detail text, p_hint text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_detail text := regexp_replace(p_detail, '^options[.]', '');
begin
  raise exception using errcode = p_sqlstate, message = p_message, hint = p_hint, detail = case
    when p_path is null then p_detail
    when v_detail ~ '^(prompt|model_id|kind|input)([. ]|$)' then p_path || '.' || v_detail
    else p_path || ': ' || p_detail end;
end
$$;

-- Returns the path of a request or step in an error; null: the first generation of a chain.
create function picture_queue._request_path(p_is_batch boolean, p_position bigint, p_step bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws('.',
    case when p_is_batch then format('requests[%s]', p_position) end,
    case when p_step > 0
      then format('%s[%s]', case when p_is_batch then 'then' else 'options.then' end, p_step - 1) end), '')
$$;

-- Returns the steps of requests in the order of the call: the position of the request, the step of its chain (from 0),
-- and the path of the step in errors. n is the place of the step in the call, from 1.
create function picture_queue._list_steps(p_requests jsonb, p_is_batch boolean)
returns table (
  n bigint, request_position bigint, step bigint, path text, prompt text, model_id text, kind text, input jsonb)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select row_number() over (order by r.i, s.step), r.i - 1, s.step, picture_queue._request_path(p_is_batch, r.i - 1, s.step),
    s.item ->> 'prompt', s.item ->> 'model_id', s.item ->> 'kind', coalesce(nullif(s.item -> 'input', 'null'), '{}')
  from jsonb_array_elements(p_requests) with ordinality as r (request, i)
  cross join lateral (
    select 0 as step, r.request as item
    union all
    select t.i, t.item
    from jsonb_array_elements(coalesce(nullif(r.request -> 'then', 'null'), '[]')) with ordinality as t (item, i)) s
$$;

-- Refuses a call that starts more generations than the rates of a user allow, before other work. The error names the
-- first generation that exceeds a rate. Locks the account of the user until the transaction ends.
create function picture_queue._check_step_rates(p_user uuid, p_requests jsonb, p_is_batch boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_account jsonb;
  v_budget jsonb;
  v_left integer;
  v_path text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._lock_account(p_user);
  v_account := picture_queue._read_account('user:' || p_user);
  v_budget := picture_queue._user_budget(p_user, v_account ->> 'plan');
  v_left := picture_queue._starts_left(p_user, v_account, v_budget);
  if v_left is null or coalesce((v_budget ->> 'exempts_service')::boolean, false) and picture_queue._is_service() then
    return;
  end if;
  select s.path into v_path from picture_queue._list_steps(p_requests, p_is_batch) s where s.n = v_left + 1;
  if found then
    perform picture_queue._check_rates(p_user, v_account, v_budget, v_left);
  end if;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;

-- Returns the default model of each kind for which a step after the first names no model, by the name that
-- _step_model uses.
create function picture_queue._default_models(p_requests jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_object_agg(d.kind || d.has_prompt, picture_queue._default_model(d.kind, d.has_prompt)), '{}')
    from (
      select distinct s.kind, not picture_queue._is_blank(s.prompt) as has_prompt
      from picture_queue._list_steps(p_requests, true) s
      where s.step > 0 and s.model_id is null
    ) d);
end
$$;

-- Returns the model of a step after the first: the named model, or the default model of its kind. Refuses a step that
-- cannot use the picture of the previous step. p_previous_kind: the kind of the previous step.
create function picture_queue._step_model(
  p_model_id text, p_kind text, p_prompt text, p_previous_kind text, p_default_models jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_model_id text := coalesce(p_model_id, p_default_models ->> (p_kind || not picture_queue._is_blank(p_prompt)));
begin
  if v_model_id is null then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('kind is %s, and no model of this kind takes a picture',
      p_kind));
  elsif p_previous_kind = 'vector' then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', 'the previous step makes a vector picture, which no model takes',
      'make it the last step');
  end if;
  return v_model_id;
end
$$;

-- Returns the job of a step in the format of _enqueue. p_model: the answer of _check_generation. p_id: the id of the
-- generation; null: a new id. p_previous: the job of the previous step, which the job of this step waits for.
create function picture_queue._step_job(
  p_user uuid, p_batch_id uuid, p_id uuid, p_model jsonb, p_options jsonb, p_previous jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_parents jsonb := (p_model -> 'depends_on') || coalesce(p_previous -> 'job_id', '[]');
begin
  return picture_queue._generation_job(coalesce(p_id, gen_random_uuid()), p_user, p_model ->> 'kind',
    p_model ->> 'provider', p_model ->> 'model_id',
    case when p_previous is null then p_options else p_options - '{scheduled_for,idempotency_key}'::text[] end,
    array(select jsonb_array_elements_text(p_model -> 'operator_files')),
    jsonb_strip_nulls(jsonb_build_object('batch_id', p_batch_id, 'depends_on', nullif(v_parents, '[]'))));
end
$$;

-- Writes the generation of a step. p_step: the row of _list_steps. p_model: the answer of _check_generation. p_job: the
-- job of the step.
create function picture_queue._insert_step(p_user uuid, p_batch_id uuid, p_step jsonb, p_model jsonb, p_job jsonb)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- Each row has a later time than the row before. So lists, which have the newest row first, keep an exact order.
  v_at timestamptz := picture_queue._now() + (p_step ->> 'n')::integer * interval '1 microsecond';
begin
  insert into public.generations (id, user_id, job_id, batch_id, batch_position, batch_step, kind, model_id, model_version,
    prompt, input, status, created_at, updated_at)
  values ((p_job ->> 'generation_id')::uuid, p_user, (p_job ->> 'job_id')::uuid, p_batch_id,
    case when p_batch_id is not null then (p_step ->> 'request_position')::integer end,
    case when p_batch_id is not null then (p_step ->> 'step')::integer end, p_model ->> 'kind', p_model ->> 'model_id',
    p_model ->> 'version', coalesce(p_step ->> 'prompt', ''), p_model -> 'input', 'pending', v_at, v_at)
  on conflict (id) do nothing;
  if not found then
    perform picture_queue._raise_busy('another call starts the same generation at the same time');
  end if;
end
$$;

-- Adds the costs of new generations to the account of the project, if there is one, and refuses those that exceed its
-- budget. p_paths: the paths of the generations in errors.
create function picture_queue._charge_project(p_paths text[], p_costs jsonb[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_account jsonb := picture_queue._lock_project();
  v_budget jsonb := (select to_jsonb(b) from picture_queue.budget b where b.key = 'project');
  v_item record;
  v_path text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if v_account is null then
    return;
  end if;
  for v_item in
    select c.path, (c.cost ->> 'amount_usd')::numeric as amount, c.cost ->> 'price_unit' as unit
    from unnest(p_paths, p_costs) with ordinality as c (path, cost, n)
    order by c.n
  loop
    v_path := v_item.path;
    perform picture_queue._check_amounts(v_account, v_budget, v_item.amount, v_item.unit);
    v_account := v_account || jsonb_build_object('day_usd', (v_account ->> 'day_usd')::numeric + v_item.amount,
      'month_usd', (v_account ->> 'month_usd')::numeric + v_item.amount);
  end loop;
  perform picture_queue._add_to_account('project', (select sum((c ->> 'amount_usd')::numeric) from unnest(p_costs) as c), 0, 0);
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;

-- Checks requests and their steps in the order of the call, and writes their generations and jobs, all or none. Returns
-- warnings. Each reservation is written before the next request is checked, so that budgets and credits count all
-- requests. The account of the project counts them at the end, since all starts in the project wait for its lock. The
-- rows of the generations are written before the jobs: a job whose parent has just failed is cancelled at once, which
-- settles its generation. p_options: the options of start_generation, with the id of the first generation, or the
-- options of start_generations. p_is_batch: whether errors name entries of requests.
create function picture_queue._start_requests(
  p_user uuid, p_batch_id uuid, p_requests jsonb, p_options jsonb, p_is_batch boolean)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_step record;
  v_path text;
  v_default_models jsonb;
  v_model jsonb;
  v_job jsonb;  -- the job of the previous step, and then of the current one
  v_jobs jsonb[] := '{}'::jsonb[];
  v_kind text;  -- the kind of the previous step
  v_cost jsonb;
  v_costs jsonb[] := '{}'::jsonb[];
  v_paths text[] := '{}'::text[];
  v_warnings jsonb := '[]'::jsonb;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if p_user is not null then
    perform picture_queue._check_step_rates(p_user, p_requests, p_is_batch);
  end if;
  v_default_models := picture_queue._default_models(p_requests);
  for v_step in select * from picture_queue._list_steps(p_requests, p_is_batch) s order by s.n loop
    v_path := v_step.path;
    v_paths := v_paths || v_path;
    v_job := case when v_step.step > 0 then v_job end;
    v_model := (
      select to_jsonb(g) from picture_queue._check_generation(p_user, v_step.prompt,
        case when v_step.step = 0 then v_step.model_id
          else picture_queue._step_model(v_step.model_id, v_step.kind, v_step.prompt, v_kind, v_default_models) end,
        v_step.kind, v_step.input, 'generation:' || (v_job ->> 'generation_id')) g);
    v_kind := v_model ->> 'kind';
    v_warnings := v_warnings || case when v_path is null then v_model -> 'warnings' else (
      select coalesce(jsonb_agg(v_path || '.' || w), '[]') from jsonb_array_elements_text(v_model -> 'warnings') w) end;
    v_job := picture_queue._step_job(p_user, p_batch_id,
      case when v_step.n = 1 then (p_options ->> 'generation_id')::uuid end, v_model, p_options, v_job);
    v_cost := picture_queue._check_spending(p_user, v_model ->> 'model_id', v_model -> 'input',
      (v_job ->> 'generation_id')::uuid, v_job ->> 'job_type', v_job ->> 'idempotency_key');
    perform picture_queue._insert_step(p_user, p_batch_id, to_jsonb(v_step), v_model, v_job);
    perform picture_queue._reserve(
      (v_job ->> 'generation_id')::uuid, p_user, v_model ->> 'model_id', v_cost, p_adds_to_project => false);
    v_costs := v_costs || v_cost;
    v_jobs := v_jobs || v_job;
  end loop;
  v_path := null;
  if jsonb_path_exists(picture_queue._enqueue(to_jsonb(v_jobs)), '$[*] ? (@.outcome != "created")') then
    perform picture_queue._raise_busy('another call starts the same generation at the same time');
  end if;
  perform picture_queue._charge_project(v_paths, v_costs);
  return v_warnings;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;
