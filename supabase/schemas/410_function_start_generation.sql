-- Checks the options of a generation and returns its owner; null: the generation belongs to no user. The default of
-- p_rules has the options of start_generation. _check_steps validates options.then.
create function picture_queue._generation_user(p_options jsonb, p_rules jsonb default '{
    "scheduled_for": ["time"],
    "idempotency_key": ["text", 255],
    "generation_id": ["uuid"],
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "reuse": ["boolean"],
    "then": ["object"],
    "user_id": ["uuid"],
    "priority": ["integer", -1000000000, 1000000000]
  }')
returns uuid
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid;
begin
  perform picture_queue._check_fields('options.',
    case when p_options ? 'then' then p_options || '{"then": null}' else p_options end, p_rules);
  if picture_queue._is_service() then
    return (p_options ->> 'user_id')::uuid;
  end if;
  v_user := picture_queue._caller_id();
  if v_user is null then
    perform picture_queue._raise_error('PQ_NOT_AUTHENTICATED', 'the token names no user');
  elsif p_options ?| array['user_id', 'priority'] then
    perform picture_queue._raise_error('PQ_NOT_ALLOWED', 'options.user_id and options.priority need a service key',
      'omit them: the generation belongs to the caller');
  end if;
  return v_user;
end
$$;

-- Returns the id of the generation that a call starts or repeats: options.generation_id if the user has this
-- generation, or the id of the user's generation with options.idempotency_key, or options.generation_id, or a new id.
create function picture_queue._generation_id(p_options jsonb, p_user uuid) returns uuid
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select g.id from public.generations g
    where g.id = (p_options ->> 'generation_id')::uuid and g.user_id is not distinct from p_user), (
    select j.generation_id from public.job_queue j
    where j.idempotency_key = p_options ->> 'idempotency_key' and j.user_id = p_user and j.generation_id is not null
    union all
    select j.generation_id from public.job_queue j
    where p_user is null and j.idempotency_key = p_options ->> 'idempotency_key' and j.user_id is null
      and j.generation_id is not null
    limit 1), (p_options ->> 'generation_id')::uuid, gen_random_uuid())
$$;

-- Checks the model, prompt and input of a request against the catalogue and the operator's rules. Returns the model,
-- the input to send, warnings, the jobs whose pictures the generation uses, so that it has to wait for them, and the
-- inputs whose files the rules have added.
-- p_picture: the picture of the previous step of a chain, for the input that takes a picture.
create function picture_queue._check_generation(
  p_user uuid, p_prompt text, p_model_id text, p_kind text, p_input jsonb, p_picture text default null,
  out model_id text, out kind text, out provider text, out version text, out input jsonb, out warnings jsonb,
  out depends_on uuid[], out operator_files text[])
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule jsonb;
  v_requested jsonb;
begin
  select r.model_id, r.kind, r.provider into model_id, kind, provider
  from picture_queue._resolve_model(p_model_id, p_kind) r;
  input := p_input;
  if p_picture is not null and jsonb_typeof(p_input) = 'object' then
    v_rule := (select picture_queue._picture_input(m.inputs) from picture_queue.model m
      where m.model_id = _check_generation.model_id);
    if v_rule is null then
      perform picture_queue._raise_error('PQ_INVALID_INPUT', format('model_id is %L, which takes no picture', model_id),
        'choose a model with an input of format uri; list_models() shows the inputs of each model');
    elsif p_input ? (v_rule ->> 'name') then
      perform picture_queue._raise_error('PQ_INVALID_INPUT',
        format('input.%s is given, but it gets the picture of the previous step', v_rule ->> 'name'), 'omit it');
    end if;
    input := input || jsonb_build_object(v_rule ->> 'name',
      case when v_rule ->> 'type' = 'array' then jsonb_build_array(p_picture) else to_jsonb(p_picture) end);
  end if;
  v_requested := input;
  input := picture_queue._apply_input_rules(model_id, (
    select a.plan from picture_queue.account a where a.key = 'user:' || p_user), input);
  warnings := picture_queue._check_input(model_id, p_prompt, input);
  perform picture_queue._check_file_owner(p_input, p_user);  -- an operator's default may be a file of the operator
  operator_files := picture_queue._operator_files(v_requested, input);
  depends_on := picture_queue._referenced_jobs(p_input, p_user);
  version := (select m.version from picture_queue.model m where m.model_id = _check_generation.model_id);
end
$$;

-- Returns the job of a generation in the format of _enqueue. The id of the job is a hash of the generation's id, so a
-- repeated call finds the same job. p_operator_files: see _operator_files. p_job_options: further options of the job.
create function picture_queue._generation_job(
  p_generation_id uuid, p_user uuid, p_kind text, p_provider text, p_model_id text, p_options jsonb,
  p_operator_files text[], p_job_options jsonb default '{}')
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'job_id', md5('picture_queue job of generation ' || p_generation_id)::uuid,
    'job_type', picture_queue._generation_job_type(p_kind, p_provider), 'generation_id', p_generation_id,
    'payload', jsonb_build_object('generation_id', p_generation_id) || case
      when cardinality(p_operator_files) > 0 then jsonb_build_object('operator_files', p_operator_files) else '{}' end,
    'user_id', p_user, 'priority', p_options -> 'priority',
    'scheduled_for', p_options -> 'scheduled_for',
    'idempotency_key', p_options -> 'idempotency_key',
    -- During an outage of the provider, a worker pauses this limit key, and so the jobs of all job types of the
    -- provider.
    'options', p_job_options || jsonb_build_object('limit_keys',
      array['provider:' || p_provider, 'model:' || left(p_model_id, 190)]));
end
$$;

-- Returns the answer of start_generation for an existing generation, with the steps of its chain.
create function picture_queue._started_generation(
  p_id uuid, p_job_id uuid, p_status text, p_batch_id uuid, p_position integer)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_started jsonb := jsonb_build_object('generation_id', p_id, 'job_id', p_job_id, 'status', p_status);
  v_steps jsonb := (
    select jsonb_agg(jsonb_build_object('generation_id', g.id, 'job_id', g.job_id, 'status', g.status)
      order by g.batch_step)
    from public.generations g
    where g.batch_id = p_batch_id and g.batch_position = p_position and g.batch_step > 0);
begin
  return v_started || case when p_batch_id is null then '{}' else jsonb_build_object('batch_id', p_batch_id) end
    || case when v_steps is null then '{}' else jsonb_build_object('steps', v_steps) end;
end
$$;

-- Refuses a start that repeats the id or the idempotency key of a deleted generation: get_generation does not find such
-- a generation, and it gets no pictures. If its row was removed too, its job shows that there was a generation. One
-- statement searches for both, since a concurrent call may commit both.
create function picture_queue._check_deleted(p_generation_id uuid, p_user uuid, p_options jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  if not p_options ?| '{generation_id,idempotency_key}' or not exists (
    select from public.generations g
    where g.id = p_generation_id and g.user_id is not distinct from p_user and g.deleted
    union all
    select from public.job_queue j
    where j.id = md5('picture_queue job of generation ' || p_generation_id)::uuid and j.user_id is not distinct from p_user
      and not exists (select from public.generations g where g.id = p_generation_id))
  then
    return;
  end if;
  perform picture_queue._raise_error('PQ_CONFLICT', case
    when (p_options ->> 'generation_id')::uuid is distinct from p_generation_id
    then format('options.idempotency_key is %L, of generation %s, which was deleted',
      left(p_options ->> 'idempotency_key', 255), p_generation_id)
    else format('options.generation_id is %s, of a generation that was deleted', p_generation_id) end,
    'pass a new generation_id or idempotency_key to start another generation');
end
$$;

-- Checks prompt and input against the model and the operator's rules, then writes the generation and its job in one
-- transaction. A call that repeats options.generation_id or options.idempotency_key returns the existing generation.
-- With options.reuse the function returns an equal finished generation if there is one, and starts none. With
-- options.then the generation is the first of a chain.
create function picture_queue.start_generation(p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_user uuid;
  v_generation_id uuid;
  v_cost jsonb;
  v_existing record;
  v_model record;
  v_reusable jsonb;
  v_job jsonb;
  v_job_row record;
begin
  v_user := picture_queue._generation_user(p_options);
  v_generation_id := picture_queue._generation_id(p_options, v_user);
  perform picture_queue._check_deleted(v_generation_id, v_user, p_options);
  select g.* into v_existing from public.generations g where g.id = v_generation_id;
  if v_existing.user_id is not distinct from v_user and v_existing.id is not null then
    -- Answer from the generation, since its job may have been pruned.
    return picture_queue._started_generation(
      v_existing.id, v_existing.job_id, v_existing.status, v_existing.batch_id, v_existing.batch_position);
  elsif v_existing.id is null and coalesce(p_options -> 'then', 'null') not in ('null', '[]') then
    return picture_queue._start_chain(v_user, v_generation_id, p_prompt, p_model_id, p_input, p_options);
  end if;
  v_model := picture_queue._check_generation(v_user, p_prompt, p_model_id, p_options ->> 'kind', p_input);
  if v_existing.id is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', format('options.generation_id is %s', v_generation_id),
      'use a new uuid for each generation');
  end if;
  v_reusable := picture_queue._find_reusable(
    p_options, v_user, v_model.model_id, v_model.version, coalesce(p_prompt, ''), v_model.input);
  if v_reusable is not null then
    return v_reusable;
  elsif v_model.depends_on <> '{}' then
    return picture_queue._start_dependent(v_user, v_generation_id, p_prompt, p_model_id, p_input, p_options);
  end if;

  v_cost := picture_queue._check_spending(v_user, v_model.model_id, v_model.input, v_generation_id,
    picture_queue._generation_job_type(v_model.kind, v_model.provider), p_options ->> 'idempotency_key');
  v_job := picture_queue._enqueue(jsonb_build_array(picture_queue._generation_job(v_generation_id, v_user,
    v_model.kind, v_model.provider, v_model.model_id, p_options, v_model.operator_files))) -> 0;
  select * into v_job_row from public.job_queue where id = (v_job ->> 'job_id')::uuid;
  if v_job ->> 'outcome' = 'created' then
    insert into public.generations
      (id, user_id, job_id, kind, model_id, model_version, prompt, input, status, created_at, updated_at)
    values (v_job_row.generation_id, v_user, v_job_row.id, v_model.kind, v_model.model_id,
      v_model.version, coalesce(p_prompt, ''), v_model.input, v_job_row.status, v_job_row.created_at, v_job_row.created_at);
    perform picture_queue._reserve(v_job_row.generation_id, v_user, v_model.model_id, v_cost);
  end if;
  return jsonb_build_object(
    'generation_id', v_job_row.generation_id, 'job_id', v_job_row.id, 'status', v_job_row.status)
    || case when v_model.warnings = '[]' then '{}' else jsonb_build_object('warnings', v_model.warnings) end;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;

create function public.start_generation(
  prompt text, model_id text default null, input jsonb default '{}', options jsonb default '{}')
returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
  select picture_queue.start_generation(prompt, model_id, coalesce(input, '{}'), coalesce(options, '{}'))
$$;
comment on function public.start_generation is 'Starts a generation; returns at once, with generation_id and job_id.';
