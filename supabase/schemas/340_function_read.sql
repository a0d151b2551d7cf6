-- The functions in this file run with the rights of the caller: row level security decides which rows the caller sees.
create function public.get_job(job_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._require((select to_jsonb(j) from public.job_queue j where j.id = get_job.job_id),
    'PQ_UNKNOWN_JOB', format('job_id is %s', get_job.job_id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.get_job is 'A job of the caller.';

-- Lists jobs, newest first. filter: the keys of _jobs_where; limit (1 to 1000, default 100); before_seq (the seq of
-- the last row of the previous page). A page ends after limit rows, or with the row that makes it larger than 8 MiB.
--
-- The query is written so that the planner's choice of an index does not depend on statistics:
-- - If the filter has an owner, a batch or ids, it reads the index of that column. `offset 0` keeps the planner from
--   using an index of the other conditions.
-- - If the filter has a finishing time or a hold, the planner chooses its partial index.
-- - Otherwise it reads jobs by queue and status, newest first, in ranges of seq. The index job_queue_listed has all
--   jobs except running and parked ones, for which there are other indexes. Each range is four times as long as the
--   range before, so that rare jobs are found in few steps. The first range has no upper bound unless the filter has
--   before_seq, since a running job may be newer than all other jobs.
create function public.list_jobs(filter jsonb default '{}') returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set seq_page_cost = 100
as $$
declare
  v_where text := picture_queue._jobs_where(
    filter, '{"limit": ["integer", 1, 1000], "before_seq": ["integer", 0, 999999999999999999]}');
  v_limit bigint := coalesce((filter ->> 'limit')::bigint, 100);
  v_upper_seq bigint := coalesce((filter ->> 'before_seq')::bigint, 9223372036854775807);
  v_lower_seq bigint := 0;
  v_seq_span bigint := v_limit * 4;  -- the length of the next range of seq
  v_owner text := filter ->> 'user_id';
  v_listed_filter jsonb := coalesce(nullif(filter, 'null'), '{}') - '{status,limit,before_seq}'::text[];
  v_range_where text := ' and j.seq >= $1 and j.seq < $2 order by j.seq desc limit $3';
  v_listed_where text;
  v_queues text[];
  v_from_clause text;
  v_job jsonb;
  v_jobs jsonb[] := '{}'::jsonb[];
  v_bytes bigint := 0;
begin
  -- If our policy is the only one for reads, users see only their own jobs, so read the index by owner. A project may
  -- have added policies that show users more jobs.
  if row_security_active('public.job_queue') and 1 = (
    select count(*) from pg_catalog.pg_policy p where p.polrelid = 'public.job_queue'::regclass and p.polcmd in ('r', '*'))
  then
    v_owner := coalesce(auth.uid(), '00000000-0000-0000-0000-000000000000');
  end if;
  if coalesce(filter ->> 'job_ids', filter ->> 'batch_id', v_owner) is not null then
    v_from_clause := format('(select * from public.job_queue o where o.%s and o.seq < $2 order by o.seq desc offset 0) j where %s',
      case when filter ->> 'job_ids' is not null
          then format('id = any (%L)', array(select jsonb_array_elements_text(filter -> 'job_ids')))
        when filter ->> 'batch_id' is not null then format('batch_id = %L', filter ->> 'batch_id')
        else format('user_id = %L', v_owner) end, v_where);
  elsif coalesce(filter ->> 'finished_before', filter ->> 'finished_after', nullif(filter ->> 'hold', 'waiting')) is not null then
    v_from_clause := format('public.job_queue j where j.seq < $2 and %s', v_where);
  else
    v_listed_where := picture_queue._jobs_where(v_listed_filter - 'queue') || v_range_where;
    v_where := picture_queue._jobs_where(v_listed_filter) || v_range_where;
    select format('(%s) j', string_agg(case when s.hold is null
        then format('select l.* from unnest($4) q (name) cross join lateral (select * from public.job_queue j '
          'where j.queue = q.name and j.status = %L and %s) l', s.status, v_listed_where)
        else format('(select * from public.job_queue j where j.status = %L and %s and %s)', s.status, s.hold, v_where) end,
      ' union all ')) into v_from_clause
    from (values ('pending', null), ('completed', null), ('failed', null), ('cancelled', null),
      ('processing', 'j.hold is null'), ('processing', 'j.hold = ''parked''')) as s (status, hold)
    where s.status = coalesce(filter ->> 'status', case when filter ->> 'hold' = 'waiting' then 'pending' end, s.status);
    with recursive queues (name) as (
      select coalesce(filter ->> 'queue', (select min(j.queue) from public.job_queue j where j.status <> 'processing'))
      union all
      select (select min(j.queue) from public.job_queue j where j.status <> 'processing' and j.queue > q.name)
      from queues q where filter ->> 'queue' is null and q.name is not null
    )
    select array_agg(q.name), max(greatest(
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'pending'),
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'completed'),
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'failed'),
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'cancelled')))
    into v_queues, v_lower_seq
    from queues q where q.name is not null;
    v_lower_seq := greatest(least(v_upper_seq, coalesce(v_lower_seq, 0) + 1) - v_seq_span, 0);
  end if;
  loop
    for v_job in execute format('select to_jsonb(j) from (select j.* from %s order by j.seq desc limit $3) j', v_from_clause)
      using v_lower_seq, v_upper_seq, v_limit - cardinality(v_jobs), v_queues
    loop
      v_jobs := v_jobs || v_job;
      v_bytes := v_bytes + pg_column_size(v_job);
      exit when v_bytes > 8388608;  -- 8 MiB
    end loop;
    exit when v_lower_seq = 0 or cardinality(v_jobs) = v_limit or v_bytes > 8388608;
    v_upper_seq := v_lower_seq;
    v_seq_span := v_seq_span * 4;
    v_lower_seq := greatest(v_upper_seq - v_seq_span, 0);
  end loop;
  return to_jsonb(v_jobs);
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.list_jobs is 'Jobs of the caller, newest first.';

-- Returns a generation with its images. Users may execute this function, since it runs with the rights of the caller.
create function picture_queue._with_images(p_generation public.generations) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$
  select to_jsonb(p_generation) || jsonb_build_object('images', coalesce(
    (select jsonb_agg(to_jsonb(i) order by i.n) from public.images i where i.generation_id = p_generation.id), '[]'))
$$;

create function public.get_generation(generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._require((
    select picture_queue._with_images(g) from public.generations g
    where g.id = get_generation.generation_id and not g.deleted),
    'PQ_UNKNOWN_GENERATION', format('generation_id is %s', get_generation.generation_id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.get_generation is 'A generation of the caller with its images.';

-- Lists generations, newest first. filter: status, model_id, kind, favourite (true or false), user_id; search (words
-- that the prompt has, in any order, ignoring case); limit (1 to 1000, default 100); before and before_id (created_at
-- and id of the last row of the previous page; the id separates rows with the same time). A page ends after limit rows,
-- or with the row that makes it larger than 8 MiB.
--
-- With custom plans the planner sees which conditions the filter has, so that it can use the index of the favourites.
create function public.list_generations(filter jsonb default '{}') returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_custom_plan
as $$
declare
  v_generation jsonb;
  v_generations jsonb[] := '{}'::jsonb[];
  v_bytes bigint := 0;
  v_matching_ids uuid[];
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'), picture_queue._generation_filter());
  if filter ->> 'before' is null and filter ->> 'before_id' is not null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('filter.before_id is %s without filter.before', filter ->> 'before_id'),
      'pass created_at and id of the last generation of the previous page');
  elsif filter ->> 'search' is not null then
    v_matching_ids := picture_queue.search_generations(filter);
  end if;
  for v_generation in
    select picture_queue._with_images(g) from public.generations g
    where not g.deleted
      and (filter ->> 'search' is null or g.id = any (v_matching_ids))
      and (filter ->> 'status' is null or g.status = filter ->> 'status')
      and (filter ->> 'model_id' is null or g.model_id = filter ->> 'model_id')
      and (filter ->> 'kind' is null or g.kind = filter ->> 'kind')
      and (filter ->> 'favourite' is null or g.favourite = (filter ->> 'favourite')::boolean)
      and (filter ->> 'user_id' is null or g.user_id = (filter ->> 'user_id')::uuid)
      and (g.created_at, g.id) < (coalesce((filter ->> 'before')::timestamptz, 'infinity'),
        coalesce((filter ->> 'before_id')::uuid, '00000000-0000-0000-0000-000000000000'))
    order by g.created_at desc, g.id desc limit coalesce((filter ->> 'limit')::bigint, 100)
  loop
    v_generations := v_generations || v_generation;
    v_bytes := v_bytes + pg_column_size(v_generation);
    exit when v_bytes > 8388608;  -- 8 MiB
  end loop;
  return to_jsonb(v_generations);
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.list_generations is 'Generations of the caller with their images, newest first.';
