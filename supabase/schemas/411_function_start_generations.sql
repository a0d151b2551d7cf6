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

-- Checks requests and their steps in the order of the call, and writes their generations and jobs, all or none. Returns
-- warnings. A call that the rates do not allow is refused before other work. Each reservation is written before the
-- next request is checked, so that budgets and credits count all requests. The account of the project counts them at
-- the end, since all starts in the project wait for its lock. The rows of the generations are written before the jobs:
-- a job whose parent has just failed is cancelled at once, which settles its generation. p_options: the options of
-- start_generation, with the id of the first generation, or the options of start_generations. p_is_batch: whether
-- errors name entries of requests.
create function picture_queue._start_requests(
  p_user uuid, p_batch_id uuid, p_requests jsonb, p_options jsonb, p_is_batch boolean)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_item record;
  v_path text;
  v_model_id text;
  v_default text;
  v_defaults jsonb := '{}'::jsonb;  -- the default models of kinds, with and without a prompt
  v_model record;
  v_kind text;  -- the kind of the previous step
  v_id uuid;  -- the id of the previous generation, and then of the current one
  v_options jsonb;
  v_cost jsonb;
  v_costs jsonb[] := '{}'::jsonb[];
  v_paths text[] := '{}'::text[];
  v_account jsonb;
  v_budget jsonb;
  v_left integer;
  v_job jsonb;
  v_jobs jsonb[] := '{}'::jsonb[];
  v_warnings jsonb := '[]'::jsonb;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if p_user is not null then
    perform picture_queue._check_isolation();
    perform picture_queue._lock_account(p_user);
    v_account := picture_queue._read_account('user:' || p_user);
    v_budget := picture_queue._user_budget(p_user, v_account ->> 'plan');
    v_left := picture_queue._starts_left(p_user, v_account, v_budget);
    if v_left is not null and not (coalesce((v_budget ->> 'exempts_service')::boolean, false) and picture_queue._is_service()) then
      -- The first generation that exceeds a rate.
      for v_item in
        select r.i - 1 as position, s.step
        from jsonb_array_elements(p_requests) with ordinality as r (request, i)
        cross join lateral generate_series(
          0, jsonb_array_length(coalesce(nullif(r.request -> 'then', 'null'), '[]'))) as s (step)
        order by r.i, s.step offset v_left limit 1
      loop
        v_path := picture_queue._request_path(p_is_batch, v_item.position, v_item.step);
        perform picture_queue._check_rates(p_user, v_account, v_budget, v_left);
      end loop;
    end if;
  end if;
  for v_item in
    select r.i - 1 as position, s.step, s.item ->> 'prompt' as prompt, s.item ->> 'model_id' as model_id,
      s.item ->> 'kind' as kind, coalesce(nullif(s.item -> 'input', 'null'), '{}') as input,
      row_number() over (order by r.i, s.step) as n
    from jsonb_array_elements(p_requests) with ordinality as r (request, i)
    cross join lateral (
      select 0 as step, r.request as item
      union all
      select t.i, t.item
      from jsonb_array_elements(coalesce(nullif(r.request -> 'then', 'null'), '[]')) with ordinality as t (item, i)) s
    order by r.i, s.step
  loop
    v_path := picture_queue._request_path(p_is_batch, v_item.position, v_item.step);
    v_paths := v_paths || v_path;
    v_model_id := v_item.model_id;
    if v_item.step > 0 then
      if v_model_id is null then
        v_default := v_item.kind || picture_queue._is_blank(v_item.prompt);
        if not v_defaults ? v_default then
          v_defaults := v_defaults || jsonb_build_object(v_default,
            picture_queue._default_model(v_item.kind, not picture_queue._is_blank(v_item.prompt)));
        end if;
        v_model_id := v_defaults ->> v_default;
      end if;
      if v_model_id is null then
        perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('kind is %s, and no model of this kind takes a picture',
          v_item.kind));
      elsif v_kind = 'vector' then
        perform picture_queue._raise_error('PQ_INVALID_INPUT', 'the previous step makes a vector picture, which no model takes',
          'make it the last step');
      end if;
    end if;
    v_model := picture_queue._check_generation(p_user, v_item.prompt, v_model_id, v_item.kind, v_item.input,
      case when v_item.step > 0 then 'generation:' || v_id end);
    v_warnings := v_warnings || case when v_path is null then v_model.warnings else (
      select coalesce(jsonb_agg(v_path || '.' || w), '[]') from jsonb_array_elements_text(v_model.warnings) w) end;
    v_options := case when v_item.step = 0 then p_options else p_options - '{scheduled_for,idempotency_key}'::text[] end;
    v_job := picture_queue._generation_job(
      case when v_item.n = 1 and p_options ->> 'generation_id' is not null then (p_options ->> 'generation_id')::uuid
        else gen_random_uuid() end,
      p_user, v_model.kind, v_model.provider, v_model.model_id, v_options, v_model.operator_files, jsonb_strip_nulls(jsonb_build_object(
        'batch_id', p_batch_id, 'depends_on', nullif(v_model.depends_on || case when v_item.step > 0
          then array[(v_jobs[cardinality(v_jobs)] ->> 'job_id')::uuid] else '{}' end, '{}'))));
    v_id := (v_job ->> 'generation_id')::uuid;
    v_kind := v_model.kind;
    v_cost := picture_queue._check_spending(p_user, v_model.model_id, v_model.input, v_id, v_job ->> 'job_type',
      v_options ->> 'idempotency_key');
    insert into public.generations (id, user_id, job_id, batch_id, batch_position, batch_step, kind, model_id, model_version,
      prompt, input, status, created_at, updated_at)
    values (v_id, p_user, (v_job ->> 'job_id')::uuid, p_batch_id,
      case when p_batch_id is not null then v_item.position end, case when p_batch_id is not null then v_item.step end,
      v_model.kind, v_model.model_id, v_model.version, coalesce(v_item.prompt, ''), v_model.input, 'pending',
      -- Each row has a later time than the row before. So lists, which have the newest row first, keep an exact order.
      v_now + v_item.n * interval '1 microsecond', v_now + v_item.n * interval '1 microsecond')
    on conflict (id) do nothing;
    if not found then
      perform picture_queue._raise_busy('another call starts the same generation at the same time');
    end if;
    perform picture_queue._reserve(v_id, p_user, v_model.model_id, v_cost, p_adds_to_project => false);
    v_costs := v_costs || v_cost;
    v_jobs := v_jobs || v_job;
  end loop;
  v_path := null;
  if jsonb_path_exists(picture_queue._enqueue(to_jsonb(v_jobs)), '$[*] ? (@.outcome != "created")') then
    perform picture_queue._raise_busy('another call starts the same generation at the same time');
  end if;
  v_account := picture_queue._lock_project();
  if v_account is not null then
    v_budget := (select to_jsonb(b) from picture_queue.budget b where b.key = 'project');
    for v_item in
      select c.path, (c.cost ->> 'amount_usd')::numeric as amount, c.cost ->> 'price_unit' as unit
      from unnest(v_paths, v_costs) with ordinality as c (path, cost, n)
      order by c.n
    loop
      v_path := v_item.path;
      perform picture_queue._check_amounts(v_account, v_budget, v_item.amount, v_item.unit);
      v_account := v_account || jsonb_build_object('day_usd', (v_account ->> 'day_usd')::numeric + v_item.amount,
        'month_usd', (v_account ->> 'month_usd')::numeric + v_item.amount);
    end loop;
    perform picture_queue._add_to_account('project', (select sum((c ->> 'amount_usd')::numeric) from unnest(v_costs) as c), 0, 0);
  end if;
  return v_warnings;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;

-- Returns the answer for a generation that a concurrent call with the same generation_id or idempotency_key has started
-- in the meantime; null: there is none. Such a call of the same user holds the account of the user until it ends.
create function picture_queue._started_meanwhile(p_user uuid, p_options jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_id uuid;
begin
  if p_user is null or coalesce(p_options ->> 'generation_id', p_options ->> 'idempotency_key') is null then
    return null;
  end if;
  perform picture_queue._check_isolation();
  perform picture_queue._lock_account(p_user);
  v_id := picture_queue._generation_id(p_options, p_user);
  perform picture_queue._check_deleted(v_id, p_user, p_options);
  return (
    select picture_queue._started_generation(g.id, g.job_id, g.status, g.batch_id, g.batch_position)
    from public.generations g where g.id = v_id and g.user_id = p_user);
end
$$;

-- Starts one generation that uses pictures of unfinished generations, which its job waits for.
create function picture_queue._start_dependent(
  p_user uuid, p_generation_id uuid, p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_started jsonb := picture_queue._started_meanwhile(p_user, p_options);
  v_warnings jsonb;
begin
  if v_started is not null then
    return v_started;
  end if;
  v_warnings := picture_queue._start_requests(p_user, null, jsonb_build_array(jsonb_build_object('prompt', p_prompt,
    'model_id', p_model_id, 'input', p_input, 'kind', p_options -> 'kind')),
    p_options || jsonb_build_object('generation_id', p_generation_id), false);
  return (
    select picture_queue._started_generation(g.id, g.job_id, g.status, null, null)
    from public.generations g where g.id = p_generation_id)
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
end
$$;

-- Starts a generation and the steps after it (options.then).
create function picture_queue._start_chain(
  p_user uuid, p_generation_id uuid, p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch uuid := gen_random_uuid();
  v_started jsonb;
  v_warnings jsonb;
begin
  perform picture_queue._check_steps('options.then', p_options -> 'then');
  if (p_options ->> 'reuse')::boolean then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'options.reuse is true, which is not possible with options.then',
      'start the chain with generation:<id> of the earlier picture as an input');
  end if;
  v_started := picture_queue._started_meanwhile(p_user, p_options);
  if v_started is not null then
    return v_started;
  end if;
  insert into picture_queue.batch (id, user_id, created_at) values (v_batch, p_user, picture_queue._now());
  v_warnings := picture_queue._start_requests(p_user, v_batch, jsonb_build_array(jsonb_build_object('prompt', p_prompt,
    'model_id', p_model_id, 'input', p_input, 'kind', p_options -> 'kind', 'then', p_options -> 'then')),
    p_options || jsonb_build_object('generation_id', p_generation_id), false);
  return (
    select picture_queue._started_generation(g.id, g.job_id, g.status, v_batch, 0)
    from public.generations g where g.id = p_generation_id)
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
end
$$;

-- Starts a batch of generations in one transaction, all or none. A call that repeats options.batch_id returns the
-- existing generations.
create function picture_queue.start_generations(p_requests jsonb, p_options jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_user uuid := picture_queue._generation_user(p_options, '{
    "batch_id": ["uuid"],
    "scheduled_for": ["time"],
    "user_id": ["uuid"],
    "priority": ["integer", -1000000000, 1000000000]
  }');
  v_batch uuid := coalesce((p_options ->> 'batch_id')::uuid, gen_random_uuid());
  v_owner uuid;
  v_exists boolean;
  v_warnings jsonb := '[]'::jsonb;
begin
  -- Existing generations are searched first, since the row of the batch may have been pruned. The insert below waits
  -- for a concurrent call with the same id.
  select g.user_id, true into v_owner, v_exists from public.generations g where g.batch_id = v_batch limit 1;
  if v_exists is null then
    perform picture_queue._check_requests(p_requests);
    insert into picture_queue.batch (id, user_id, created_at) values (v_batch, v_user, picture_queue._now())
    on conflict (id) do nothing;
    if found then
      v_warnings := picture_queue._start_requests(v_user, v_batch, p_requests, p_options, true);
      v_owner := v_user;
      v_exists := true;
    else
      select g.user_id, true into v_owner, v_exists from public.generations g where g.batch_id = v_batch limit 1;
    end if;
  end if;
  if v_exists and v_owner is not distinct from v_user and not exists (
    select from public.generations g where g.batch_id = v_batch and not g.deleted)
  then
    perform picture_queue._raise_error('PQ_CONFLICT',
      format('options.batch_id is %s, of a batch whose generations were deleted', v_batch), 'use a new uuid for each batch');
  elsif v_exists is null or v_owner is distinct from v_user then
    perform picture_queue._raise_error('PQ_CONFLICT', format('options.batch_id is %s', v_batch), 'use a new uuid for each batch');
  end if;
  return jsonb_build_object('batch_id', v_batch, 'generations', (
    select coalesce(jsonb_agg(
      picture_queue._started_generation(g.id, g.job_id, g.status, g.batch_id, g.batch_position) - 'batch_id'
      order by g.batch_position), '[]')
    from public.generations g where g.batch_id = v_batch and g.batch_step = 0))
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;

create function public.start_generations(requests jsonb, options jsonb default '{}') returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
  select picture_queue.start_generations(coalesce(requests, 'null'), coalesce(options, '{}'))
$$;
comment on function public.start_generations is
  'Starts up to 100 generations at once, all or none; returns at once, with batch_id and the ids of each.';
