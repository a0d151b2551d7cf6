-- Retries, and changes of many jobs at once.

-- Returns the dependencies of these jobs that prevent a retry: their parent failed or was cancelled, and
-- on_parent_failure is not 'run'.
create function picture_queue._failed_parents(p_children uuid[])
returns table (child_id uuid, parent_id uuid, status text)
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return query
  select d.child_id, d.parent_id, p.status
  from (
    select f.* from picture_queue.failed_dependency f where f.child_id = any (p_children)
    union all
    -- Links that no follow-up has resolved yet.
    select o.* from picture_queue.dependency o where o.child_id = any (p_children)
  ) d
  cross join lateral (select j.status from public.job_queue j where j.id = d.parent_id offset 0) p
  where d.on_parent_failure <> 'run' and p.status in ('failed', 'cancelled')
  order by d.child_id, d.parent_id;
end
$$;

-- Makes retried jobs wait again for the parents that have not finished. A parent may finish in a transaction that does
-- not see the restored link, so follow-ups check these children again, like new children.
create function picture_queue._restore_dependencies(p_children uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  with removed as (
    delete from picture_queue.failed_dependency f where f.child_id = any (p_children)
    returning f.child_id, f.parent_id, f.on_parent_failure
  ),
  restored as (
    insert into picture_queue.dependency (child_id, parent_id, on_parent_failure)
    select r.child_id, r.parent_id, r.on_parent_failure
    from removed r
    cross join lateral (select j.finished_at from public.job_queue j where j.id = r.parent_id offset 0) p
    where p.finished_at is null
    on conflict do nothing
    returning child_id
  )
  insert into picture_queue.follow_up (kind, subject)
  select distinct 'child', r.child_id from restored r;
  perform picture_queue._transition((
    select array_agg(picture_queue._change(d.child_id, 'wait'))
    from (select distinct o.child_id from picture_queue.dependency o where o.child_id = any (p_children)) d));
end
$$;

-- Retries jobs that the caller has locked. Of several jobs with the same unique key it retries only the newest, and
-- none if the key belongs to another job now. A job whose parents have not finished waits for them again; a job whose
-- parent is still failed or cancelled is not retried. Returns the number of retried jobs.
create function picture_queue._retry_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_excluded uuid[] := array(select distinct f.child_id from picture_queue._failed_parents(p_ids) f);
  v_changes picture_queue.change[];
  v_changed_jobs picture_queue.changed_job[];
begin
  select array_agg(picture_queue._change(p.id, 'retry')) into v_changes
  from (
    select j.id, case when 'pending' = any (j.unique_states) then j.unique_key end as unique_key,
      row_number() over (
        partition by j.unique_key, 'pending' = any (j.unique_states) order by j.seq desc) as nth
    from public.job_queue j where j.id = any (p_ids) and j.id <> all (v_excluded)
  ) p
  where p.unique_key is null or p.nth = 1 and not exists (
    select from public.job_queue o
    where o.unique_key = p.unique_key and o.status = any (o.unique_states) and o.id <> p.id);
  v_changed_jobs := picture_queue._transition(v_changes);
  perform picture_queue._renumber_jobs(p_ids);
  perform picture_queue._restore_dependencies(array(select m.id from unnest(v_changed_jobs) m));
  perform picture_queue._wake_workers(array(select distinct m.queue from unnest(v_changed_jobs) m), 'enqueue');
  return coalesce(cardinality(v_changed_jobs), 0);
exception when unique_violation then
  perform picture_queue._raise_error('PQ_CONFLICT', 'a job with one of the unique keys was enqueued just now', 'repeat the call');
  return null;
end
$$;

-- Returns the jobs of this list that one call may retry: all but generations beyond the first p_max_generations. Each
-- generation reserves its cost, and if the project has a budget, every start waits for its account until the call has
-- ended. So generations come last.
create function picture_queue._choose_retries(p_ids uuid[], p_max_generations integer) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return array(
    select c.id
    from (
      select u.id, j.is_generation, row_number() over (partition by j.is_generation order by u.n) as place
      from unnest(p_ids) with ordinality as u (id, n)
      cross join lateral (
        select o.generation_id is not null as is_generation from public.job_queue o where o.id = u.id offset 0) j
    ) c
    where not c.is_generation or c.place <= p_max_generations
    order by c.is_generation, c.place);
end
$$;

-- Returns the SQL condition for jobs that an action can change now. Without it, thousands of jobs that cannot change
-- would hide the others from a call that takes the first 10,000. Scalar subqueries keep the plan of the filter: each
-- searches an index once for each job.
create function picture_queue._changeable_condition(p_action text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case p_action
    when 'retry' then ' and (
      select true from picture_queue.failed_dependency d
      cross join lateral (select p.status from public.job_queue p where p.id = d.parent_id offset 0) p
      where d.child_id = j.id and d.on_parent_failure <> ''run'' and p.status in (''failed'', ''cancelled'') limit 1) is null
      and (j.unique_key is null or ''pending'' <> all (j.unique_states) or (
        select true from public.job_queue o
        where o.unique_key = j.unique_key and o.status = any (o.unique_states) and o.id <> j.id limit 1) is null)'
    when 'discard' then ' and (select true from picture_queue.dependency d where d.parent_id = j.id limit 1) is null'
    else ' and j.cancel_requested_at is null' end
$$;

-- Locks and returns up to p_limit jobs that meet one of the conditions and the further condition p_and; skips locked
-- jobs, and the jobs p_except. Each of the conditions has its own query: with one query for all states, Postgres 15 may
-- read all jobs of a queue.
create function picture_queue._lock_matching(
  p_conditions text[], p_and text, p_order text, p_limit integer, p_except uuid[])
returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_condition text;
  v_found uuid[];
  v_ids uuid[] := '{}'::uuid[];
begin
  foreach v_condition in array p_conditions loop
    if cardinality(v_ids) < p_limit then
      execute format('select array(select j.id from public.job_queue j where %s %s %s %s limit %s for update skip locked)',
        v_condition, p_and, case when p_except <> '{}' then 'and j.id <> all ($1)' end, p_order, p_limit - cardinality(v_ids))
      into v_found using p_except;
      v_ids := v_ids || v_found;
    end if;
  end loop;
  return v_ids;
end
$$;

-- Does a step (retry, cancel, discard or purge) for up to p_limit of the p_matched jobs that meet one of the
-- conditions. Jobs for which the step failed before come last. A retry goes on with the children of the jobs that it
-- has retried. Returns the number of changed jobs, and whether jobs are left that another call may change. A caller may
-- repeat the call until more is false: each call changes a job, or records the failure of one that had not failed
-- before, or raises PQ_BUSY, or has spent two seconds on jobs for which the step fails.
create function picture_queue._change_matching(
  p_step text, p_conditions text[], p_matched bigint, p_limit integer, p_order text,
  out changed integer, out more boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_changeable text := picture_queue._changeable_condition(p_step);
  v_has_failed text := format(
    '(select true from picture_queue.failed_step f where f.kind = %L and f.subject = j.id::text)', p_step);
  v_any_failed boolean := exists (select from picture_queue.failed_step f where f.kind = p_step);
  v_new uuid[] := '{}'::uuid[];  -- jobs for which the step had not failed
  v_ids uuid[];
  v_tried uuid[] := '{}'::uuid[];
  v_generations integer := 0;
  v_changed integer;
  v_condition text;
  v_is_left boolean;
begin
  changed := 0;
  more := false;
  for v_round in 1 .. 20 loop
    v_ids := picture_queue._lock_matching(p_conditions,
      v_changeable || case when v_any_failed then format(' and %s is null', v_has_failed) else '' end, p_order,
      p_limit - cardinality(v_tried), v_tried);
    if v_round = 1 and v_ids = '{}' and not v_any_failed then
      -- All jobs may be locked. Wait for one of them within lock_timeout, since most transactions are short.
      begin
        foreach v_condition in array p_conditions loop
          execute format('select true from public.job_queue j where %s %s %s limit 1 for update', v_condition, v_changeable, p_order)
          into v_is_left;
          exit when v_is_left;
        end loop;
      exception when lock_not_available or deadlock_detected then
        perform picture_queue._raise_busy('the matching jobs are locked by other transactions');
      end;
      v_ids := picture_queue._lock_matching(p_conditions, v_changeable, p_order, p_limit, '{}');
    end if;
    v_new := v_new || v_ids;
    if v_any_failed and v_round = 1 then
      v_ids := v_ids || picture_queue._lock_matching(p_conditions, format('%s and %s', v_changeable, v_has_failed), p_order,
        p_limit - cardinality(v_ids), '{}');
    end if;
    if p_step = 'retry' then
      v_ids := picture_queue._choose_retries(v_ids, 500 - v_generations);
      v_generations := v_generations + (
        select count(*) from public.job_queue j where j.id = any (v_ids) and j.generation_id is not null);
    end if;
    v_changed := picture_queue._run_isolated(p_step, v_ids::text[], 1000);
    v_tried := v_tried || v_ids;
    changed := changed + v_changed;
    exit when p_step <> 'retry' or v_changed = 0 or cardinality(v_tried) >= p_limit
      or not exists (select from picture_queue.failed_dependency) or picture_queue._is_out_of_time();
  end loop;

  if changed = p_matched then
    return;
  end if;
  foreach v_condition in array p_conditions loop
    execute format('select exists (select from public.job_queue j where %s %s and (%s is null or $1 and j.id <> all ($2)))',
      v_condition, v_changeable, v_has_failed)
    into v_is_left using changed > 0, v_tried;
    more := more or v_is_left;
  end loop;
  if more and changed = 0 and not picture_queue._is_out_of_time() and not exists (
    select from picture_queue.failed_step f where f.kind = p_step and f.subject = any (v_new::text[]))
  then
    perform picture_queue._raise_busy('the matching jobs are locked by other transactions, or wait for maintenance');
  end if;
end
$$;

-- Retries, cancels or discards the jobs of a filter: up to 10,000 in a call, or filter.limit. retry applies to failed
-- jobs, and to cancelled jobs if the filter has that status; cancel to pending and processing jobs; discard to
-- finished jobs. Locked jobs are skipped; if all are locked, PQ_BUSY. A call retries up to 500 generations. The answer
-- has matched (counted up to 100,000), changed, and more: whether jobs are left that another call may change. With
-- preview the call only counts. An empty filter is refused, since it would select every job.
create function public.change_jobs(
  action text, filter jsonb, preview boolean default false, request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_limit_rule jsonb := jsonb '{"limit": ["integer", 1, 10000]}';
  v_where text := picture_queue._jobs_where(filter, v_limit_rule);
  v_limit integer := coalesce((filter ->> 'limit')::integer, 10000);
  v_states text[] := case action
    when 'retry' then case when filter ->> 'status' is null then array['failed'] else array['failed', 'cancelled'] end
    when 'cancel' then array['pending', 'processing', 'parked']
    when 'discard' then array['completed', 'failed', 'cancelled'] end;
  v_conditions text[];
  v_condition text;
  v_count bigint;
  v_matched bigint := 0;
  v_changed integer := 0;
  v_more boolean;
  v_answer jsonb := picture_queue._find_answer('change_jobs', request_id::text);
begin
  perform picture_queue._check_isolation();
  if v_answer is not null then
    return v_answer;
  end if;
  perform picture_queue._raise_problem(case
    when v_states is null then format('action is %s', left(quote_nullable(action), 100))
    when v_where = 'true' then 'filter selects every job'
  end, 'an action is retry, cancel or discard; all failed jobs are {"status": "failed"}');
  if action = 'discard' and not coalesce(preview, false) then
    perform picture_queue._check_references();
  end if;
  v_conditions := array(
    select v_where || ' and ' || case s.state
      when 'parked' then picture_queue._filter_condition('hold', s.state)
      when 'processing' then 'j.status = ''processing'' and j.hold is null'
      else picture_queue._filter_condition('status', s.state) end
    from unnest(v_states) with ordinality as s (state, n) order by s.n);
  foreach v_condition in array v_conditions loop
    execute format('select count(*) from (select from public.job_queue j where %s limit %s) m', v_condition, 100000 - v_matched)
    into v_count;
    v_matched := v_matched + v_count;
  end loop;
  v_more := v_matched > v_limit;
  if v_matched > 0 and not coalesce(preview, false) then
    select c.changed, c.more into v_changed, v_more
    from picture_queue._change_matching(action, v_conditions, v_matched, v_limit, '') c;
  end if;
  return picture_queue._store_answer('change_jobs', request_id::text, jsonb_build_object(
    'matched', v_matched, 'changed', v_changed, 'more', v_more));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.change_jobs is 'Retries, cancels or discards the jobs of a filter; preview only counts.';
