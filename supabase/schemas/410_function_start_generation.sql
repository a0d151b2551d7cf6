-- Returns the job type of the generations of a provider. Each provider has its own types, since a worker claims only
-- the types that it has a handler for. So a worker without the provider never claims the job.
create function picture_queue._generation_job_type(p_provider text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select 'generate-image' || case when p_provider <> 'replicate' then ':' || p_provider else '' end $$;

-- Checks prompt and input against the model, then writes the generation and its job in one transaction. A call that
-- repeats options.generation_id or options.idempotency_key returns the existing generation. With options.reuse it
-- returns an equal finished generation if there is one, and starts none.
create function picture_queue.start_generation(p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user uuid := case when not v_is_service then picture_queue._caller_id() end;
  v_model record;
  v_generation_id uuid;
  v_existing record;
  v_reusable jsonb;
  v_job jsonb;
  v_job_row record;
begin
  perform picture_queue._check_fields('options.', p_options, '{
    "scheduled_for": ["time"],
    "idempotency_key": ["text", 255],
    "generation_id": ["uuid"],
    "reuse": ["boolean"],
    "user_id": ["uuid"],
    "priority": ["integer", -1000000000, 1000000000]
  }');
  if v_is_service then
    v_user := (p_options ->> 'user_id')::uuid;
  elsif v_user is null then
    perform picture_queue._raise_error('PQ_NOT_AUTHENTICATED', 'the token names no user');
  elsif p_options ?| array['user_id', 'priority'] then
    perform picture_queue._raise_error('PQ_NOT_ALLOWED', 'options.user_id and options.priority need a service key',
      'omit them: the generation belongs to the caller');
  end if;
  v_generation_id := coalesce((p_options ->> 'generation_id')::uuid, (
    select j.generation_id from public.job_queue j
    where j.idempotency_key = p_options ->> 'idempotency_key' and j.generation_id is not null and j.user_id = v_user
    union all
    select j.generation_id from public.job_queue j
    where v_user is null and j.idempotency_key = p_options ->> 'idempotency_key' and j.generation_id is not null
      and j.user_id is null
    limit 1), gen_random_uuid());
  select g.* into v_existing from public.generations g where g.id = v_generation_id;
  if v_existing.user_id is not distinct from v_user and v_existing.id is not null then
    -- Answer from the generation, since its job may have been pruned.
    return jsonb_build_object('generation_id', v_existing.id, 'job_id', v_existing.job_id, 'status', v_existing.status);
  end if;
  select m.model_id, m.provider, m.version into v_model from picture_queue.model m
  where m.enabled and m.model_id = coalesce(p_model_id, (select default_model from picture_queue.setting));
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('model_id is %s', left(quote_nullable(p_model_id), 200)));
  end if;
  perform picture_queue._check_input(v_model.model_id, p_prompt, p_input);
  if v_existing.id is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', format('options.generation_id is %s', v_generation_id),
      'use a new uuid for each generation');
  end if;
  v_reusable := picture_queue._find_reusable(
    p_options, v_user, v_model.model_id, v_model.version, coalesce(p_prompt, ''), p_input);
  if v_reusable is not null then
    return v_reusable;
  end if;

  -- The id of the job is a hash of the generation's id, so a repeated call finds the same job.
  v_job := picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
    'job_id', md5('picture_queue job of generation ' || v_generation_id)::uuid,
    'job_type', picture_queue._generation_job_type(v_model.provider), 'generation_id', v_generation_id,
    'payload', jsonb_build_object('generation_id', v_generation_id),
    'user_id', v_user, 'priority', p_options -> 'priority',
    'scheduled_for', p_options -> 'scheduled_for',
    'idempotency_key', p_options -> 'idempotency_key',
    -- An outage of the provider pauses its key, and with it the jobs of all its types.
    'options', jsonb_build_object('limit_keys', array['provider:' || v_model.provider])))) -> 0;
  select * into v_job_row from public.job_queue where id = (v_job ->> 'job_id')::uuid;
  if v_job ->> 'outcome' = 'created' then
    insert into public.generations
      (id, user_id, job_id, model_id, model_version, prompt, input, status, created_at, updated_at)
    values (v_job_row.generation_id, v_user, v_job_row.id, v_model.model_id, v_model.version, coalesce(p_prompt, ''), p_input,
      v_job_row.status, v_job_row.created_at, v_job_row.created_at);
  end if;
  return jsonb_build_object(
    'generation_id', v_job_row.generation_id, 'job_id', v_job_row.id, 'status', v_job_row.status);
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
