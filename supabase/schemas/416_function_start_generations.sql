-- Starts of chains and batches of generations. _start_requests does the work.

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
