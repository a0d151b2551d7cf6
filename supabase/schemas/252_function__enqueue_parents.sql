-- Dependencies of new jobs. A job may depend on existing jobs, and on jobs before it in the same call. So dependencies
-- never form a cycle.

-- Refuses unknown parents, and marks the jobs that have to wait. Parents are not locked, since an enqueue in a long
-- transaction would delay their heartbeats and reports. So a parent may finish in the meantime;
-- _resolve_new_dependents handles this case.
create function picture_queue._check_parents(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_places jsonb;  -- for each job id: its first position in the call
  v_bad_parent record;
begin
  if not exists (select from unnest(p_jobs) n where n.depends_on <> '{}') then
    return p_jobs;
  end if;
  -- A JSON object, since a join would compare each pair of thousands of jobs.
  select jsonb_object_agg(n.job_id, n.i order by n.i desc) into v_places from unnest(p_jobs) n;
  select n.i, p.id, v_places ? p.id::text as is_later into v_bad_parent
  from unnest(p_jobs) n
  cross join unnest(n.depends_on) as p (id)
  where coalesce((v_places ->> p.id::text)::integer >= n.i, true)
    and not exists (select from public.job_queue j where j.id = p.id and j.id <> n.job_id)
  order by n.i limit 1;
  if v_bad_parent.is_later then
    perform picture_queue._raise_error('PQ_CYCLE',
      format('jobs[%s] depends on %s, which is not listed before it', v_bad_parent.i - 1, v_bad_parent.id),
      'list parents before their children');
  elsif found then
    perform picture_queue._raise_error('PQ_UNKNOWN_DEPENDENCY', format('jobs[%s]: depends_on has %s', v_bad_parent.i - 1, v_bad_parent.id),
      'a job can depend on existing jobs, and on jobs before it in the same call');
  end if;

  return array(
    select case when exists (
      select from unnest(n.depends_on) p (id)
      left join public.job_queue j on j.id = p.id
      where j.id is null or j.finished_at is null or (j.status <> 'completed' and n.on_parent_failure <> 'run'))
      then jsonb_populate_record(n, '{"hold": "waiting"}') else n end
    from unnest(p_jobs) n);
end
$$;

-- Links new jobs to their parents, and resolves the jobs that have a finished parent. If a parent in the call is a
-- duplicate of an existing job (p_existing), the existing job becomes the parent; it may have finished long ago.
create function picture_queue._link_parents(p_jobs picture_queue.new_job[], p_existing jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_existing_ids jsonb;  -- for each id in the call that is a duplicate: the id of the existing job
  v_new_ids jsonb;  -- the ids of new jobs, which no other transaction sees yet
  v_resolved uuid[];
begin
  select coalesce(jsonb_object_agg(n.job_id, o.id), '{}') into v_existing_ids
  from unnest(p_jobs) n
  cross join lateral (select p_existing -> n.i::text ->> 'job_id' as id) o
  where o.id <> n.job_id::text;
  select coalesce(jsonb_object_agg(n.job_id, true), '{}') into v_new_ids
  from unnest(p_jobs) n where not p_existing ? n.i::text;
  with linked as (
    insert into picture_queue.dependency (child_id, parent_id, on_parent_failure)
    select n.job_id, coalesce((v_existing_ids ->> d.id::text)::uuid, d.id), n.on_parent_failure
    from unnest(p_jobs) n
    cross join unnest(n.depends_on) as d (id)
    where n.hold = 'waiting' and not p_existing ? n.i::text
    on conflict do nothing
    returning child_id, parent_id
  ),
  link as materialized (
    select l.child_id, l.parent_id, p.finished_at is not null as is_finished
    from linked l
    left join public.job_queue p on p.id = l.parent_id
  ),
  recorded as (
    insert into picture_queue.follow_up (kind, subject)
    select distinct 'child', l.child_id from link l where not l.is_finished and not v_new_ids ? l.parent_id::text
  )
  select array_agg(distinct l.child_id) into v_resolved from link l where l.is_finished;
  if v_resolved is not null then
    perform picture_queue._resolve_dependents(v_resolved, true);
  end if;
end
$$;
