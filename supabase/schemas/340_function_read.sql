-- Reads, as the caller: row level security decides what there is.
create function public.get_job(job_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  v_job jsonb;
begin
  select to_jsonb(j) into v_job from public.job_queue j where j.id = get_job.job_id;
  if v_job is null then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', job_id));
  end if;
  return v_job;
end
$$;
comment on function public.get_job is 'One job of the caller''s.';

-- filter: any of those of _jobs_where, limit (100; 1 to 1000), before_seq (of the last row of a page).
create function public.list_jobs(filter jsonb default '{}') returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  v_where text := picture_queue._jobs_where(filter, '{limit,before_seq}');
  v_limit bigint := coalesce((filter ->> 'limit')::bigint, 100);
  v_jobs jsonb;
begin
  if v_limit not between 1 and 1000 then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('filter.limit is %s, not 1 to 1000', v_limit),
      'before_seq, the seq of the last row, asks for the next page');
  end if;
  if filter ->> 'before_seq' is not null then
    v_where := v_where || format(' and j.seq < %L', filter ->> 'before_seq');
  end if;
  execute format($sql$
    select coalesce(jsonb_agg(to_jsonb(p) order by p.seq desc), '[]')
    from (select * from public.job_queue j where %s order by j.seq desc limit %s) p $sql$, v_where, v_limit)
  into v_jobs;
  return v_jobs;
end
$$;
comment on function public.list_jobs is 'Jobs of the caller''s, newest first.';

create function public.get_generation(generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation jsonb;
begin
  select to_jsonb(g) || jsonb_build_object('images', coalesce(
      (select jsonb_agg(to_jsonb(i) order by i.n) from public.images i where i.generation_id = g.id), '[]'))
  into v_generation
  from public.generations g where g.id = get_generation.generation_id;
  if v_generation is null then
    perform picture_queue._refuse('PQ_UNKNOWN_GENERATION', format('generation_id is %s', generation_id));
  end if;
  return v_generation;
end
$$;
comment on function public.get_generation is 'One generation of the caller''s with its images.';

-- filter: status, limit (100; 1 to 1000), before (created_at of the last row of a page).
create function public.list_generations(filter jsonb default '{}') returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit bigint;
  v_generations jsonb;
begin
  perform picture_queue._check_filter(filter, '{status,limit,before}');
  v_limit := coalesce((filter ->> 'limit')::bigint, 100);
  if v_limit not between 1 and 1000 then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('filter.limit is %s, not 1 to 1000', v_limit),
      'before, the created_at of the last row, asks for the next page');
  end if;
  select coalesce(jsonb_agg(to_jsonb(g) || jsonb_build_object('images', coalesce(
      (select jsonb_agg(to_jsonb(i) order by i.n) from public.images i where i.generation_id = g.id), '[]'))
    order by g.created_at desc, g.id), '[]')
  into v_generations
  from (
    select * from public.generations
    where (filter ->> 'status' is null or status = filter ->> 'status')
      and created_at < coalesce((filter ->> 'before')::timestamptz, 'infinity')
    order by created_at desc, id
    limit v_limit
  ) g;
  return v_generations;
end
$$;
comment on function public.list_generations is 'Generations of the caller''s with their images, newest first.';
