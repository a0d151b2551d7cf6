-- Dead letters: the reasons of failures, and changes of many jobs at once.

-- Returns the reason of an error: its text without the parts that differ from one failure to the next (quoted text, ids
-- and numbers).
create function picture_queue._reason(p_error text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    left(p_error, 2000),
    '"[^"]*"|`[^`]*`|(?<![[:alnum:]])''[^'']*''(?![[:alnum:]])', '"…"', 'g'),
    '[[:<:]][0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[[:>:]]', 'ID', 'gi'),
    '[[:<:]](?=[[:alpha:]]*[0-9])[0-9a-z]{12,}[[:>:]]|[[:<:]]0x[0-9a-f]+[[:>:]]', 'ID', 'gi'),
    '[0-9]+([.,][0-9]+)*', 'N', 'g'), 500)
$$;

-- Counts the newest 10,000 failed jobs of a filter by reason, the most frequent first. If the filter names another
-- status, it counts the jobs in that status that have an error, such as jobs that wait for a retry.
create function public.failure_reasons(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_where text := picture_queue._jobs_where(case when filter ->> 'status' is not null then filter
    else coalesce(nullif(filter, 'null'), '{}') || '{"status": "failed"}' end);
  v_reasons jsonb;
begin
  execute format($sql$
    with failed as materialized (
      select j.id, coalesce(j.error, '') as error, j.job_type, coalesce(j.finished_at, j.updated_at) as failed_at
      from public.job_queue j
      where %s and (j.status = 'failed' or j.error is not null) order by j.finished_at desc limit 10000
    ),
    -- Compute the reason once for each text, since many texts are equal.
    reasons as materialized (
      select d.error, picture_queue._reason(d.error) as reason from (select distinct f.error from failed f) d
    )
    select coalesce(jsonb_agg(jsonb_build_object('reason', g.reason, 'count', g.n, 'job_types', g.job_types,
      'first_at', g.first_at, 'last_at', g.last_at, 'example_job_id', g.example) order by g.n desc, g.last_at desc), '[]')
    from (
      select r.reason, count(*) as n, array_agg(distinct f.job_type order by f.job_type) as job_types,
        min(f.failed_at) as first_at, max(f.failed_at) as last_at, (array_agg(f.id order by f.failed_at desc))[1] as example
      from failed f join reasons r on r.error = f.error
      group by r.reason order by n desc, last_at desc limit 100
    ) g $sql$, v_where)
  into v_reasons;
  return v_reasons;
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.failure_reasons is 'Counts failed jobs by reason.';

-- Deletes finished jobs with their history and log, and subtracts them from the counts. The caller has locked the
-- jobs. Batches keep their counts. A job is kept while it has children that are not resolved yet, since these need its
-- status. Returns the number of deleted jobs.
create function picture_queue._discard_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_discarded integer;
begin
  perform picture_queue._check_references();
  with deleted as (
    delete from public.job_queue j where j.id = any (p_ids) and j.finished_at is not null
      and not exists (select from picture_queue.dependency d where d.parent_id = j.id)
    returning j.queue, j.status
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select d.queue, d.status, null, -count(*), picture_queue._now() from deleted d group by d.queue, d.status
  )
  select count(*) into v_discarded from deleted;
  return v_discarded;
end
$$;

-- Cancels locked jobs, as cancel_job cancels one: a pending job ends, a running job is asked to stop, a parked job is
-- claimed once more. A pending job with a prediction in progress, for example after a snooze, is claimed once more
-- too, since its handler must cancel the prediction. p_reason: the error of the jobs that end. Returns the number of
-- jobs.
create function picture_queue._cancel_jobs(p_ids uuid[], p_reason text default null) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changes picture_queue.change[];
  v_queues text[];
begin
  with requested as (
    update public.job_queue j set cancel_requested_at = picture_queue._now() where j.id = any (p_ids)
    returning j.id, j.queue, j.status, j.hold, j.generation_id
  )
  select array_agg(picture_queue._change(a.id, a.action, case a.action when 'cancel' then p_reason end))
      filter (where a.action is not null),
    array_agg(distinct a.queue) filter (where a.status = 'processing')
  into v_changes, v_queues
  from (
    select r.id, r.queue, r.status, case
      when r.hold = 'parked' then 'wake'
      when r.status = 'processing' then null
      when r.generation_id is null or not picture_queue._has_live_prediction(r.generation_id) then 'cancel'
      when r.hold = 'scheduled' then 'promote' end as action
    from requested r
  ) a;
  perform picture_queue._transition(v_changes);
  perform picture_queue._wake_workers(v_queues, 'cancel');
  return cardinality(p_ids);
end
$$;

-- Retries locked jobs. Of several jobs with the same unique key it retries only the newest, and none if the key
-- belongs to another job now. A job whose parents have not finished waits for them again. Returns the number of
-- retried jobs.
create function picture_queue._retry_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changes picture_queue.change[];
  v_queues text[];
  v_changed integer;
begin
  select array_agg(picture_queue._change(p.id, 'retry')) into v_changes
  from (
    select j.id, case when 'pending' = any (j.unique_states) then j.unique_key end as unique_key,
      row_number() over (
        partition by j.unique_key, 'pending' = any (j.unique_states) order by j.seq desc) as nth
    from public.job_queue j where j.id = any (p_ids)
  ) p
  where p.unique_key is null or p.nth = 1 and not exists (
    select from public.job_queue o
    where o.unique_key = p.unique_key and o.status = any (o.unique_states) and o.id <> p.id);
  select array_agg(distinct t.queue), count(*) into v_queues, v_changed from unnest(picture_queue._transition(v_changes)) t;
  perform picture_queue._renumber_jobs(p_ids);
  perform picture_queue._transition((
    select array_agg(picture_queue._change(d.child_id, 'wait'))
    from (select distinct child_id from picture_queue.dependency where child_id = any (p_ids)) d));
  perform picture_queue._wake_workers(v_queues, 'enqueue');
  return v_changed;
exception when unique_violation then
  perform picture_queue._raise_error('PQ_CONFLICT', 'a job with one of the unique keys was enqueued just now', 'repeat the call');
  return null;
end
$$;

-- Returns the jobs of this list that one call may retry: all but generations beyond the first 500. Each generation
-- reserves its cost, and if the project has a budget, every start waits for its account until the call has ended. So
-- generations come last, and those whose retry has just failed come after the others.
create function picture_queue._choose_retries(p_ids uuid[]) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return array(
    select c.id
    from (
      select u.id, j.is_generation, row_number() over (
        partition by j.is_generation
        order by u.id::text in (select f.subject from picture_queue.failed_step f where f.kind = 'retry'), u.n) as place
      from unnest(p_ids) with ordinality as u (id, n)
      cross join lateral (
        select o.generation_id is not null as is_generation from public.job_queue o where o.id = u.id offset 0) j
    ) c
    where not c.is_generation or c.place <= 500
    order by c.is_generation, c.place);
end
$$;

-- Retries, cancels or discards the jobs of a filter: up to 10,000 in a call, or filter.limit. retry applies to failed
-- jobs, and to cancelled jobs if the filter has that status; cancel to pending and processing jobs; discard to
-- finished jobs. Locked jobs are skipped. A call retries up to 500 generations (_choose_retries). The answer has
-- matched (counted up to 100,000), changed, and more: whether another call is needed, because jobs are left, or because
-- the time was used up after an error. With preview the call only counts. An empty filter is refused, since it would
-- select every job. Each state has its own query: with one query for all states, Postgres 15 may read all jobs of a
-- queue.
create function public.change_jobs(
  action text, filter jsonb, preview boolean default false, request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_limit_rule jsonb := jsonb '{"limit": ["integer", 1, 10000]}';
  v_where text := picture_queue._jobs_where(filter, v_limit_rule);
  v_limit bigint := coalesce((filter ->> 'limit')::bigint, 10000);
  v_states text[] := case action
    when 'retry' then case when filter ->> 'status' is null then array['failed'] else array['failed', 'cancelled'] end
    when 'cancel' then array['pending', 'processing', 'parked']
    when 'discard' then array['completed', 'failed', 'cancelled'] end;
  v_state text;
  v_state_count bigint;
  v_state_ids uuid[];
  v_matched bigint := 0;
  v_ids uuid[] := '{}'::uuid[];
  v_chosen_ids uuid[];
  v_changed integer;
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
  foreach v_state in array v_states loop
    v_where := picture_queue._jobs_where(filter, v_limit_rule) || ' and ' || case v_state
      when 'parked' then picture_queue._filter_condition('hold', v_state)
      when 'processing' then 'j.status = ''processing'' and j.hold is null'
      else picture_queue._filter_condition('status', v_state) end;
    execute format('select count(*) from (select from public.job_queue j where %s limit %s) m', v_where, 100000 - v_matched)
    into v_state_count;
    v_matched := v_matched + v_state_count;
    if v_state_count > 0 and not coalesce(preview, false) then
      execute format('select array(select j.id from public.job_queue j where %s %s limit %s for update skip locked)', v_where,
        case action when 'cancel' then 'and j.cancel_requested_at is null' end, v_limit - cardinality(v_ids))
      into v_state_ids;
      v_ids := v_ids || v_state_ids;
    end if;
  end loop;
  v_chosen_ids := case when action = 'retry' then picture_queue._choose_retries(v_ids) else v_ids end;
  v_changed := picture_queue._run_isolated(action, v_chosen_ids::text[], 1000);
  return picture_queue._store_answer('change_jobs', request_id::text, jsonb_build_object('matched', v_matched,
    'changed', v_changed, 'more', picture_queue._is_out_of_time() or cardinality(v_chosen_ids) < cardinality(v_ids)
      or v_matched > v_limit and (coalesce(preview, false) or cardinality(v_ids) = v_limit)));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.change_jobs is 'Retries, cancels or discards the jobs of a filter; preview only counts.';
