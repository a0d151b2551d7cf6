-- Follow-ups: work for other jobs that follows from a change of jobs. Each kind has a step that takes the ids of
-- follow-ups (for kind batch: the ids of batches), does a bounded part of the work, never waits for a locked row, and
-- deletes the follow-ups that are done.

-- Records the follow-ups of changes: the children of finished parents, the counts of batches (p_batches: batch_id,
-- from and to of each change). Processes the first 20 at once, so that chains and batches continue without delay, and
-- wakes maintenance for the others, among them batches that another transaction has locked. If p_does_follow_ups is
-- false, it only records them: the caller or the next round of maintenance processes them.
create function picture_queue._record_follow_ups(
  p_changed_jobs picture_queue.changed_job[], p_batches jsonb, p_does_follow_ups boolean)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_ids bigint[];
begin
  with recorded as (
    insert into picture_queue.follow_up (kind, subject, data)
    select 'parent', m.id, null::jsonb
    from unnest(p_changed_jobs) m
    where m.status in ('completed', 'failed', 'cancelled')
      and (select true from picture_queue.dependency d where d.parent_id = m.id limit 1)
    union all
    select 'batch', e.batch_id, jsonb_build_object('completed', e.completed, 'failed', e.failed, 'cancelled', e.cancelled)
    from (
      select b.batch_id, count(*) filter (where b."to" = 'completed') as completed,
        count(*) filter (where b."to" = 'failed') - count(*) filter (where b."from" = 'failed') as failed,
        count(*) filter (where b."to" = 'cancelled') - count(*) filter (where b."from" = 'cancelled') as cancelled
      from jsonb_to_recordset(p_batches) as b (batch_id uuid, "from" text, "to" text)
      group by b.batch_id
    ) e
    where (e.completed, e.failed, e.cancelled) <> (0, 0, 0)
    returning id
  )
  select array_agg(n.id) into v_ids from recorded n;
  if v_ids is null or not p_does_follow_ups then
    return;
  end if;
  perform picture_queue._run_isolated(k.kind, k.ids, 100)
  from (
    select f.kind, array_agg(case f.kind when 'batch' then f.subject::text else f.id::text end order by f.id) as ids
    from picture_queue.follow_up f
    where f.id = any (v_ids[:20]) and (f.kind <> 'batch'
      or (select true from picture_queue.batch b where b.id = f.subject for update skip locked))
    group by f.kind
  ) k;
  if exists (select from picture_queue.follow_up f where f.id = any (v_ids)) then
    perform picture_queue._wake_maintenance(picture_queue._now());
  end if;
end
$$;

-- Resolves up to p_limit dependents: the children of finished parents, and, if a child ends because its parent failed,
-- the children of that child, and so on.
create function picture_queue._resolve_parents(p_ids bigint[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_ids bigint[] := p_ids;
  v_locked_ids bigint[];
  v_parents uuid[];
  v_children text[];
  v_resolved integer;
  v_limit_left integer := p_limit;
begin
  while v_ids <> '{}' and v_limit_left > 0 loop
    select array_agg(f.id), array_agg(f.subject) into v_locked_ids, v_parents
    from (
      select f.id, f.subject from picture_queue.follow_up f
      where f.id = any (v_ids) and f.kind = 'parent' order by f.id for update skip locked
    ) f;
    v_children := array(
      select d.child_id::text
      from unnest(v_parents) p (id)
      cross join lateral (
        select d.child_id from picture_queue.dependency d
        join public.job_queue c on c.id = d.child_id
        where d.parent_id = p.id and d.child_id::text not in (select picture_queue._failed_subjects('resolve'))
        limit v_limit_left for update of c skip locked) d
      limit v_limit_left);
    v_resolved := picture_queue._run_isolated('resolve', v_children, v_limit_left);
    v_limit_left := v_limit_left - greatest(cardinality(v_children), 1);
    -- If a parent was retried in the meantime, its children keep waiting.
    delete from picture_queue.follow_up f
    where f.id = any (v_locked_ids) and (
      not exists (select from picture_queue.dependency d where d.parent_id = f.subject)
      or exists (select from public.job_queue j where j.id = f.subject and j.finished_at is null));
    -- The remaining children are locked, or their change failed: try again in 0.2 seconds.
    if v_resolved = 0 or v_limit_left > 0 then
      update picture_queue.follow_up f set due_at = picture_queue._now() + interval '0.2 seconds'
      where f.id = any (v_locked_ids);
    end if;
    -- Continue with the follow-ups of the children that ended. New follow-ups have the default due_at, -infinity.
    v_ids := array(
      select f.id from picture_queue.follow_up f
      where f.kind = 'parent' and f.subject = any (v_children::uuid[]) and f.due_at = '-infinity');
  end loop;
  return p_limit - v_limit_left;
end
$$;

-- Deletes the links of these children to finished parents. A child without other links becomes claimable. A child
-- whose parent failed or was cancelled ends too, unless its on_parent_failure is 'run'. Links to parents that failed or
-- were cancelled are kept in failed_dependency, for a retry of the child. Locked children are skipped.
-- The rows of children are locked before their links are searched. Without the locks, if two parents finish at once,
-- each transaction would see the link to the other parent, and the child would wait forever. p_does_follow_ups is
-- passed to _transition: whether to process the follow-ups of children that end. It is false for _resolve_parents,
-- which processes them itself, and for callers that leave them to the next round of maintenance. Returns the number of
-- children that were not locked.
create function picture_queue._resolve_dependents(p_children uuid[], p_does_follow_ups boolean default false)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_children uuid[] := array(
    select j.id from public.job_queue j where j.id = any (p_children) order by j.id for update skip locked);
  v_endings jsonb;  -- for each child that ends with a parent: the action and the reason
  v_changes picture_queue.change[];
  v_changed_jobs picture_queue.changed_job[];
begin
  with resolved as (
    delete from picture_queue.dependency d
    where d.ctid = any (array(
      select d.ctid from picture_queue.dependency d
      left join public.job_queue p on p.id = d.parent_id
      where d.child_id = any (v_children) and (p.id is null or p.finished_at is not null)))
    returning d.child_id, d.parent_id, d.on_parent_failure
  ),
  failed as (
    select s.child_id, s.parent_id, s.on_parent_failure, p.status
    from resolved s
    -- With `offset 0` the plan finds the parent by its id, even if the planner expects few failed jobs.
    cross join lateral (select p.status from public.job_queue p where p.id = s.parent_id offset 0) p
    where p.status in ('failed', 'cancelled')
  ),
  kept as (
    insert into picture_queue.failed_dependency (child_id, parent_id, on_parent_failure)
    select f.child_id, f.parent_id, f.on_parent_failure from failed f
    on conflict do nothing
  )
  -- A JSON object, since a join would compare each pair of thousands of children. If several parents of a child
  -- failed, the reason names the parent with the lowest id: of equal keys an object has the last, hence the descending
  -- order.
  select coalesce(jsonb_object_agg(f.child_id, jsonb_build_array(
    case f.on_parent_failure when 'cancel' then 'cancel' else 'abandon' end,
    format('Job %s, which it depends on, was %s.', f.parent_id, f.status)) order by f.parent_id desc), '{}')
  into v_endings
  from failed f
  where f.on_parent_failure <> 'run';

  select array_agg(picture_queue._change(
    c.id,
    coalesce(v_endings #>> array[c.id::text, '0'],
      case when c.scheduled_for > picture_queue._now() then 'await' else 'ready' end),
    v_endings #>> array[c.id::text, '1']))
  into v_changes
  from public.job_queue c
  where c.id = any (v_children) and c.hold = 'waiting'
    and (v_endings ? c.id::text or not exists (select from picture_queue.dependency d where d.child_id = c.id));
  v_changed_jobs := picture_queue._transition(v_changes, p_does_follow_ups);
  perform picture_queue._wake_workers(
    array(select distinct m.queue from unnest(v_changed_jobs) m where m.status = 'pending' and m.hold is null), 'enqueue');
  return cardinality(v_children);
end
$$;

-- Resolves new children whose parents finished while the children were enqueued: an enqueue does not lock parents, and
-- a transaction that finishes a parent before the enqueue commits does not see the child. The step checks a child
-- again, at growing intervals, until all transactions that were in progress at the first check have ended. Every later
-- transaction sees the child.
create function picture_queue._resolve_new_dependents(p_ids bigint[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_locked_ids bigint[];
  v_children text[];
  v_snapshot pg_snapshot := pg_catalog.pg_current_snapshot();
begin
  select array_agg(f.id), array_agg(f.subject::text) into v_locked_ids, v_children
  from (
    select f.id, f.subject from picture_queue.follow_up f
    where f.id = any (p_ids) and f.kind = 'child' order by f.id for update skip locked
  ) f;
  perform picture_queue._run_isolated('resolve', v_children, cardinality(v_children));
  delete from picture_queue.follow_up f
  where f.id = any (v_locked_ids) and (
    (f.data ->> 'before')::xid8 <= pg_catalog.pg_snapshot_xmin(v_snapshot) and not exists (
      -- If such a link is left, the child is locked, or its change failed.
      select from picture_queue.dependency d
      left join public.job_queue p on p.id = d.parent_id
      where d.child_id = f.subject and (p.id is null or p.finished_at is not null))
    or not exists (select from picture_queue.dependency d where d.child_id = f.subject));
  update picture_queue.follow_up f
  set data = jsonb_build_object('before', coalesce(f.data ->> 'before', pg_catalog.pg_snapshot_xmax(v_snapshot)::text),
      'checks', coalesce((f.data ->> 'checks')::integer, 0) + 1),
    due_at = picture_queue._now() + make_interval(secs => 0.1 * 2 ^ least(coalesce((f.data ->> 'checks')::integer, 0), 9))
  where f.id = any (v_locked_ids);
  return coalesce(cardinality(v_locked_ids), 0);
end
$$;

-- Adds the recorded changes to the counts of these batches, sets or clears their finished_at, and enqueues callbacks.
-- A batch that another transaction has locked, for example to add jobs to it, is skipped; many follow-ups of a locked
-- batch may accumulate, so they are merged into one.
create function picture_queue._count_batches(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_locked uuid[] := array(
    select b.id from picture_queue.batch b where b.id = any (p_ids) order by b.id for update skip locked);
  v_finished text[];
begin
  with taken as (
    delete from picture_queue.follow_up f
    where f.id = any (array(
      select o.id from picture_queue.follow_up o where o.subject = any (p_ids) and o.kind = 'batch' for update skip locked))
    returning f.subject, f.data
  ),
  sums as (
    select b.id, coalesce(sum((t.data ->> 'completed')::integer), 0) as completed,
      coalesce(sum((t.data ->> 'failed')::integer), 0) as failed,
      coalesce(sum((t.data ->> 'cancelled')::integer), 0) as cancelled
    from picture_queue.batch b
    left join taken t on t.subject = b.id
    where b.id = any (p_ids)
    group by b.id
  ),
  postponed as (
    insert into picture_queue.follow_up (kind, subject, data, due_at)
    select 'batch', s.id, jsonb_build_object('completed', s.completed, 'failed', s.failed, 'cancelled', s.cancelled),
      picture_queue._now() + interval '0.2 seconds'
    from sums s where s.id <> all (v_locked) and (s.completed, s.failed, s.cancelled) <> (0, 0, 0)
  ),
  counted as (
    update picture_queue.batch b set completed = b.completed + s.completed, failed = b.failed + s.failed,
      cancelled = b.cancelled + s.cancelled,
      finished_at = case when b.completed + s.completed + b.failed + s.failed + b.cancelled + s.cancelled = b.total
        then coalesce(b.finished_at, picture_queue._now()) end
    from sums s where b.id = any (v_locked) and b.id = s.id
    returning b.id, b.finished_at, b.callback, b.callback_job_id
  )
  select array_agg(c.id::text) into v_finished
  from counted c
  where c.finished_at is not null and c.callback is not null and c.callback_job_id is null;
  perform picture_queue._run_isolated('callback', v_finished, 20);
  return cardinality(p_ids);
end
$$;

-- Enqueues the callback of each of these finished batches once. If a callback is refused, the error is written to the
-- batch, and the callback is not tried again. In a session of a user (cancel_job), the session itself may cause any
-- error, for example by its max_stack_depth. So there the step fails instead, and maintenance tries it again.
create function picture_queue._enqueue_callbacks(p_ids uuid[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch picture_queue.batch;
  v_job jsonb;
  v_error text;
  v_detail text;
  v_enqueued integer := 0;
begin
  for v_batch in
    select b.* from picture_queue.batch b
    where b.id = any (p_ids) and b.finished_at is not null and b.callback is not null and b.callback_job_id is null
      and b.callback_error is null
    order by b.id limit p_limit for update skip locked
  loop
    v_job := null;
    v_error := null;
    begin
      v_job := picture_queue._enqueue(jsonb_build_array(v_batch.callback || jsonb_build_object('payload',
        coalesce(nullif(v_batch.callback -> 'payload', 'null'), '{}') || jsonb_build_object(
          'batch_id', v_batch.id, 'total', v_batch.total, 'completed', v_batch.completed,
          'failed', v_batch.failed, 'cancelled', v_batch.cancelled))), true) -> 0;
    exception when others then
      -- 54: a limit of the session or of the server, such as the stack depth
      if picture_queue._is_transient(sqlstate) or left(sqlstate, 2) = '54'
        or current_setting('picture_queue.is_worker', true) = 'false'
      then
        raise;
      end if;
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := left(concat_ws(': ', sqlerrm, nullif(v_detail, '')), 1000);
    end;
    update picture_queue.batch b
    set callback_job_id = (v_job ->> 'job_id')::uuid, callback_error = v_error
    where b.id = v_batch.id;
    v_enqueued := v_enqueued + 1;
  end loop;
  return v_enqueued;
end
$$;
