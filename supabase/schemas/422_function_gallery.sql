-- The gallery: search, favourites, reuse of equal pictures, and the deletion of generations with their files.

-- Returns the rules for the filter of list_generations, in the format of _check_fields.
create function picture_queue._generation_filter() returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select '{
    "status": ["choice", "pending", "processing", "completed", "failed", "cancelled"],
    "model_id": ["text", 200],
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "favourite": ["boolean"],
    "user_id": ["uuid"],
    "search": ["text", 1000],
    "limit": ["integer", 1, 1000],
    "before": ["moment"],
    "before_id": ["uuid"]
  }'::jsonb
$$;

-- Returns the ids of the generations that match the filter, the newest first; filter.search is required. For a user the
-- function searches the user's own generations. For a service key it searches the generations of filter.user_id, or
-- all. The function runs with the privileges of the owner of the tables: with row level security, Postgres would check
-- the owner of each row before it may use the index of words.
--
-- The search has two steps. The first step reads the newest rows; if the words are frequent, these contain a full page
-- of matches. Otherwise few rows have the words, and the second step finds them in the index of words. The function
-- chooses, because the planner has no statistics of prompts. The first step reads at most half a megabyte of stored
-- prompts, since to_tsvector takes a millisecond for a kilobyte.
create function picture_queue.search_generations(p_filter jsonb) returns uuid[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_custom_plan set seq_page_cost = 100
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_owner uuid := case when v_is_service then (p_filter ->> 'user_id')::uuid else picture_queue._caller_id() end;
  v_words tsquery := plainto_tsquery('simple'::regconfig, left(p_filter ->> 'search', 1000));
  v_limit bigint := coalesce((p_filter ->> 'limit')::bigint, 100);
  v_before timestamptz := coalesce((p_filter ->> 'before')::timestamptz, 'infinity');
  v_before_id uuid := coalesce((p_filter ->> 'before_id')::uuid, '00000000-0000-0000-0000-000000000000');
  v_ids uuid[];
begin
  if v_owner is null and not v_is_service then
    return '{}'::uuid[];
  elsif coalesce(numnode(v_words), 0) = 0 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('filter.search is %s, which has no word', to_jsonb(left(p_filter ->> 'search', 100))),
      'words consist of letters and digits');
  elsif numnode(v_words) > 63 then  -- each word is a node, and each "and" between two words
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('filter.search has %s words, the limit is 32', (numnode(v_words) + 1) / 2), 'search for fewer words');
  end if;
  v_ids := array(
    select n.id
    from (
      select g.*, sum(pg_column_size(g.prompt)) over (order by g.created_at desc, g.id desc) as prompt_bytes
      from public.generations g
      where (v_owner is null or g.user_id = v_owner) and not g.deleted
        and (g.created_at, g.id) < (v_before, v_before_id)
      order by g.created_at desc, g.id desc limit greatest(v_limit * 2, 500)) n
    where n.prompt_bytes <= 500000 and to_tsvector('simple'::regconfig, left(n.prompt, 20000)) @@ v_words
      and (p_filter ->> 'status' is null or n.status = p_filter ->> 'status')
      and (p_filter ->> 'model_id' is null or n.model_id = p_filter ->> 'model_id')
      and (p_filter ->> 'kind' is null or n.kind = p_filter ->> 'kind')
      and (p_filter ->> 'favourite' is null or n.favourite = (p_filter ->> 'favourite')::boolean)
    order by n.created_at desc, n.id desc limit v_limit);
  if cardinality(v_ids) = v_limit then
    return v_ids;
  end if;
  if v_owner is not null then
    v_words := v_words && quote_literal(v_owner)::tsquery;
  end if;
  return array(
    with matching as materialized (
      select g.id, g.created_at from public.generations g
      where (to_tsvector('simple'::regconfig, left(g.prompt, 20000)) || coalesce(g.user_id::text, '')::tsvector) @@ v_words
        and (v_owner is null or g.user_id is not distinct from v_owner) and not g.deleted
        and (p_filter ->> 'status' is null or g.status = p_filter ->> 'status')
        and (p_filter ->> 'model_id' is null or g.model_id = p_filter ->> 'model_id')
        and (p_filter ->> 'kind' is null or g.kind = p_filter ->> 'kind')
        and (p_filter ->> 'favourite' is null or g.favourite = (p_filter ->> 'favourite')::boolean)
        and (g.created_at, g.id) < (v_before, v_before_id)
    )
    select m.id from matching m order by m.created_at desc, m.id desc limit v_limit);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy('another transaction has locked a table that this call reads');
  return null;
end
$$;

-- If options.reuse is true, returns the answer of start_generation for an equal generation that has finished; null if
-- there is none. Equal generations have the same owner, model, version of the model, prompt and input (with the seed).
-- The index generations_equal has a hash of these values. The other conditions are written so that the planner uses no
-- other index.
create function picture_queue._find_reusable(
  p_options jsonb, p_user uuid, p_model_id text, p_version text, p_prompt text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  if (p_options ->> 'reuse')::boolean is not true then
    return null;
  end if;
  return (
    with equal as materialized (
      select g.id, g.job_id, g.status, g.finished_at from public.generations g
      where md5(coalesce(g.user_id::text, '') || ' ' || g.model_id || ' ' || coalesce(g.model_version, '') || ' '
          || g.input::text || ' ' || g.prompt)
        = md5(coalesce(p_user::text, '') || ' ' || p_model_id || ' ' || coalesce(p_version, '') || ' '
          || p_input::text || ' ' || p_prompt)
        and g.user_id is not distinct from p_user and g.model_version is not distinct from p_version
        and (g.model_id, g.prompt, g.input) = (p_model_id, p_prompt, p_input)
        and g.status = 'completed' and not g.deleted and g.missing_images = '[]'
        and exists (select from public.images i where i.generation_id = g.id)
    )
    select jsonb_build_object('generation_id', e.id, 'job_id', e.job_id, 'status', e.status, 'reused', true)
    from equal e order by e.finished_at desc limit 1);
end
$$;

-- Marks or unmarks a generation of the caller as a favourite.
create function picture_queue.set_favourite(p_generation_id uuid, p_favourite boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_is_favourite boolean;
begin
  perform picture_queue._check_isolation();
  select g.favourite into v_is_favourite from public.generations g
  where g.id = p_generation_id and (picture_queue._is_service() or g.user_id = picture_queue._caller_id())
    and not g.deleted
  for update;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_GENERATION', format('generation_id is %s', p_generation_id));
  end if;
  update public.generations g set favourite = p_favourite where g.id = p_generation_id and v_is_favourite <> p_favourite;
exception when others then
  perform picture_queue._translate_error(
    sqlstate, sqlerrm, format('generation %s is locked by another transaction', p_generation_id));
  raise;
end
$$;

create function public.set_favourite(generation_id uuid, favourite boolean default true) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue.set_favourite(generation_id, coalesce(favourite, true));
  return public.get_generation(generation_id);
end
$$;
comment on function public.set_favourite is 'Marks a generation of the caller as a favourite, or unmarks it.';

-- Enqueues jobs that delete the files of deleted generations, each job for 100 generations. A generation is skipped if
-- its earlier job has not finished. A failed job is retried for about a day; maintenance then enqueues another. Returns
-- the number of generations.
create function picture_queue._enqueue_deletions(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[] := array(
    select d.generation_id from picture_queue.deleted_generation d
    where d.generation_id = any (p_ids) and d.remove_at is null
    order by d.generation_id for update skip locked);
  v_due uuid[] := array(
    select d.generation_id from picture_queue.deleted_generation d
    where d.generation_id = any (v_ids) and not exists (
      select from public.job_queue j where j.id = d.job_id and j.finished_at is null)
    order by d.generation_id);
  v_job jsonb;
begin
  update picture_queue.deleted_generation d set enqueue_at = picture_queue._now() + interval '1 day'
  where d.generation_id = any (v_ids);
  while v_due <> '{}' loop
    v_job := picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
      'job_type', 'delete-pictures', 'payload', jsonb_build_object('generation_ids', v_due[:100]), 'max_attempts', 30,
      'options', '{"backoff": {"policy": "exponential", "base_seconds": 5, "cap_seconds": 3600}}'::jsonb)), true) -> 0;
    update picture_queue.deleted_generation d set job_id = (v_job ->> 'job_id')::uuid
    where d.generation_id = any (v_due[:100]);
    v_due := v_due[101:];
  end loop;
  return cardinality(v_ids);
end
$$;

-- Marks generations as deleted, with their images, and enqueues the deletion of their files in the same transaction.
-- Generations are skipped that are locked or already deleted, or whose job has not finished. A generation that has not
-- ended and whose job does not exist is cancelled, so that its reservation is refunded. Returns the number of
-- generations.
create function picture_queue._delete_generations(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[] := array(
    select g.id from public.generations g
    where g.id = any (p_ids) and not g.deleted and (g.status in ('completed', 'failed', 'cancelled')
      or not exists (select from public.job_queue j where j.id = g.job_id))
    order by g.id for update skip locked);
  v_without_job uuid[];
begin
  with cancelled as (
    update public.generations g
    set status = 'cancelled', finished_at = picture_queue._now(), updated_at = picture_queue._now()
    where g.id = any (v_ids) and g.status in ('pending', 'processing')
    returning g.id
  )
  select array_agg(c.id) into v_without_job from cancelled c;
  if v_without_job is not null then
    perform picture_queue._settle_ended(v_without_job);
  end if;
  update public.generations g set deleted = true where g.id = any (v_ids);
  update public.images i set deleted = true where i.generation_id = any (v_ids);
  insert into picture_queue.deleted_generation (generation_id, deleted_at, enqueue_at)
  select d.id, picture_queue._now(), picture_queue._now() from unnest(v_ids) as d (id);
  perform picture_queue._enqueue_deletions(v_ids);
  return cardinality(v_ids);
end
$$;

-- Deletes a generation of the caller. The rows are hidden at once; a worker deletes the files, and maintenance then
-- deletes the rows. A generation whose job has not finished is refused. A call with the request id of an earlier call
-- returns the answer of that call, even if the row no longer exists.
create function picture_queue.delete_generation(p_generation_id uuid, p_request_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user uuid := picture_queue._caller_id();
  v_request text := concat_ws('/', coalesce(v_user::text, 'service'), p_generation_id || '/' || p_request_id);
  v_answer jsonb := jsonb_build_object('generation_id', p_generation_id, 'deleted', true);
  v_generation record;
begin
  perform picture_queue._check_isolation();
  -- Users may call this function, and their session may have set this parameter to true.
  perform set_config('picture_queue.is_worker', 'false', true);  -- for _check_deferred_constraints
  select g.id, g.job_id, g.status, g.deleted into v_generation from public.generations g
  where g.id = p_generation_id and (v_is_service or g.user_id = v_user) for update;
  if v_generation.deleted or exists (
    select from picture_queue.answer a where a.call = 'delete_generation' and a.id = v_request)
  then
    return v_answer;
  elsif v_generation.id is null then
    perform picture_queue._raise_error('PQ_UNKNOWN_GENERATION', format('generation_id is %s', p_generation_id));
  elsif picture_queue._delete_generations(array[p_generation_id]) = 0 then
    perform picture_queue._raise_error('PQ_RUNNING_JOB', format('generation %s is %s', p_generation_id, v_generation.status),
      'cancel_generation() first, or wait until it has finished');
  end if;
  perform picture_queue._check_deferred_constraints();
  insert into picture_queue.answer (call, id, answer, at)
  select 'delete_generation', v_request, v_answer, picture_queue._now() where p_request_id is not null
  on conflict do nothing;
  return v_answer;
exception when others then
  perform picture_queue._translate_error(
    sqlstate, sqlerrm, format('generation %s is locked by another transaction', p_generation_id));
  raise;
end
$$;

create function public.delete_generation(generation_id uuid, request_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.delete_generation(generation_id, request_id) $$;
comment on function public.delete_generation is 'Deletes a finished generation of the caller with its pictures.';

-- For the worker: returns the generations with these ids that are deleted and whose files still exist, each with the
-- folder of its files and the paths of its images.
create function public.list_deleted_generations(generation_ids uuid[]) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(case when generation_ids is null or cardinality(generation_ids) > 1000
    then 'generation_ids is not a list of up to 1000 uuids' end, 'pass fewer ids');
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'generation_id', g.id, 'folder', coalesce(g.user_id::text, 'shared') || '/' || g.id,
      'paths', array(select i.path from public.images i where i.generation_id = g.id order by i.n)) order by g.id), '[]')
    from picture_queue.deleted_generation d
    join public.generations g on g.id = d.generation_id
    where d.generation_id = any (generation_ids) and d.remove_at is null and g.deleted);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_deleted_generations is 'Deleted generations whose files still exist.';

-- For the worker: records that the files of deleted generations are deleted. Returns the number of generations.
-- Maintenance deletes the rows of the generations when their predictions are two hours old. Until then begin_prediction
-- returns these predictions, so that no worker mistakes them for the lost prediction of another generation.
create function public.record_deleted_files(generation_ids uuid[]) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_recorded integer;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(case when generation_ids is null or cardinality(generation_ids) > 1000
    then 'generation_ids is not a list of up to 1000 uuids' end, 'pass fewer ids');
  update picture_queue.deleted_generation d
  set remove_at = greatest(picture_queue._now(), (
    select max(p.created_at) + interval '2 hours' from picture_queue.prediction p where p.generation_id = d.generation_id))
  where d.generation_id = any (array(
    select o.generation_id from picture_queue.deleted_generation o
    where o.generation_id = any (generation_ids) and o.remove_at is null order by o.generation_id for update));
  get diagnostics v_recorded = row_count;
  return jsonb_build_object('recorded', v_recorded);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.record_deleted_files is 'Records that the files of deleted generations are deleted.';

-- Deletes the rows of generations whose files are deleted. Returns the number of generations.
create function picture_queue._remove_generations(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows integer;
begin
  delete from public.generations g
  where g.id = any (array(
    select o.id from public.generations o
    where o.id = any (p_ids) and o.deleted order by o.id for update skip locked));
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- Marks generations that are older than keep_generations_days as deleted, enqueues jobs again for files that were not
-- deleted, and deletes the rows of generations whose files were deleted, up to p_limit of each. Returns the numbers of
-- generations.
create function picture_queue._prune_generations(p_limit integer) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_days integer := (select s.keep_generations_days from picture_queue.setting s);
begin
  return jsonb_build_object(
    'deleted_generations', picture_queue._run_isolated('delete_generation', array(
      select g.id::text from public.generations g
      where v_days is not null and not g.deleted and g.created_at < v_now - make_interval(days => v_days)
        and g.status in ('completed', 'failed', 'cancelled')
        and g.id::text not in (select picture_queue._failed_subjects('delete_generation'))
      order by g.created_at, g.id limit p_limit), p_limit),
    'enqueued_deletions', picture_queue._run_isolated('delete_files', array(
      select d.generation_id::text from picture_queue.deleted_generation d
      where d.remove_at is null and d.enqueue_at <= v_now
        and d.generation_id::text not in (select picture_queue._failed_subjects('delete_files'))
      order by d.enqueue_at limit p_limit), p_limit),
    'removed_generations', picture_queue._run_isolated('remove_generation', array(
      select d.generation_id::text from picture_queue.deleted_generation d
      where d.remove_at <= v_now
        and d.generation_id::text not in (select picture_queue._failed_subjects('remove_generation'))
      order by d.remove_at limit p_limit), p_limit));
end
$$;
