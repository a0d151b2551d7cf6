-- Checks the options of a generation and returns its owner; null: it belongs to no user.
create function picture_queue._generation_user(p_options jsonb) returns uuid
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid;
begin
  perform picture_queue._check_fields('options.', p_options, '{
    "scheduled_for": ["time"],
    "idempotency_key": ["text", 255],
    "generation_id": ["uuid"],
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "reuse": ["boolean"],
    "user_id": ["uuid"],
    "priority": ["integer", -1000000000, 1000000000]
  }');
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

-- Returns the id of the generation that a call starts: that of options.generation_id, or of the user's generation with
-- options.idempotency_key, or a new one.
create function picture_queue._generation_id(p_options jsonb, p_user uuid) returns uuid
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce((p_options ->> 'generation_id')::uuid, (
    select j.generation_id from public.job_queue j
    where j.idempotency_key = p_options ->> 'idempotency_key' and j.user_id = p_user and j.generation_id is not null
    union all
    select j.generation_id from public.job_queue j
    where p_user is null and j.idempotency_key = p_options ->> 'idempotency_key' and j.user_id is null
      and j.generation_id is not null
    limit 1), gen_random_uuid())
$$;

-- Checks prompt and input against the model and the operator's rules, then writes the generation and its job in one
-- transaction. A call that repeats options.generation_id or options.idempotency_key returns the existing generation.
-- With options.reuse it returns an equal finished generation if there is one, and starts none.
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
  v_input jsonb;
  v_operator_files text[];
  v_warnings jsonb;
  v_version text;
  v_reusable jsonb;
  v_job jsonb;
  v_job_row record;
begin
  v_user := picture_queue._generation_user(p_options);
  v_generation_id := picture_queue._generation_id(p_options, v_user);
  select g.* into v_existing from public.generations g where g.id = v_generation_id;
  if v_existing.user_id is not distinct from v_user and v_existing.id is not null then
    -- Answer from the generation, since its job may have been pruned.
    return jsonb_build_object('generation_id', v_existing.id, 'job_id', v_existing.job_id, 'status', v_existing.status);
  end if;
  v_model := picture_queue._resolve_model(p_model_id, p_options ->> 'kind');
  v_input := picture_queue._apply_input_rules(v_model.model_id, (
    select a.plan from picture_queue.account a where a.key = 'user:' || v_user), p_input);
  v_warnings := picture_queue._check_input(v_model.model_id, p_prompt, v_input);
  perform picture_queue._check_file_owner(p_input, v_user);  -- an operator's default may be a file of the operator
  v_operator_files := picture_queue._operator_files(p_input, v_input);
  if v_existing.id is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', format('options.generation_id is %s', v_generation_id),
      'use a new uuid for each generation');
  end if;
  v_version := (select m.version from picture_queue.model m where m.model_id = v_model.model_id);
  v_reusable := picture_queue._find_reusable(
    p_options, v_user, v_model.model_id, v_version, coalesce(p_prompt, ''), v_input);
  if v_reusable is not null then
    return v_reusable;
  end if;

  v_cost := picture_queue._check_spending(v_user, v_model.model_id, v_input, v_generation_id,
    picture_queue._generation_job_type(v_model.kind, v_model.provider), p_options ->> 'idempotency_key');
  -- The id of the job is a hash of the generation's id, so a repeated call finds the same job.
  v_job := picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
    'job_id', md5('picture_queue job of generation ' || v_generation_id)::uuid,
    'job_type', picture_queue._generation_job_type(v_model.kind, v_model.provider), 'generation_id', v_generation_id,
    'payload', jsonb_build_object('generation_id', v_generation_id) || case
      when cardinality(v_operator_files) > 0 then jsonb_build_object('operator_files', v_operator_files) else '{}' end,
    'user_id', v_user, 'priority', p_options -> 'priority',
    'scheduled_for', p_options -> 'scheduled_for',
    'idempotency_key', p_options -> 'idempotency_key',
    -- An outage of the provider pauses its key, and with it the jobs of all its types.
    'options', jsonb_build_object('limit_keys',
      array['provider:' || v_model.provider, 'model:' || left(v_model.model_id, 190)])))) -> 0;
  select * into v_job_row from public.job_queue where id = (v_job ->> 'job_id')::uuid;
  if v_job ->> 'outcome' = 'created' then
    insert into public.generations
      (id, user_id, job_id, kind, model_id, model_version, prompt, input, status, created_at, updated_at)
    values (v_job_row.generation_id, v_user, v_job_row.id, v_model.kind, v_model.model_id, v_version,
      coalesce(p_prompt, ''), v_input, v_job_row.status, v_job_row.created_at, v_job_row.created_at);
    perform picture_queue._reserve(v_job_row.generation_id, v_user, v_model.model_id, v_cost);
  end if;
  return jsonb_build_object(
    'generation_id', v_job_row.generation_id, 'job_id', v_job_row.id, 'status', v_job_row.status)
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
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
