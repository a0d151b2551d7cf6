-- What follows for the children of jobs that have just finished: the changes to make, or null. A
-- child whose last parent completed becomes ready; one whose parent failed or was cancelled ends too,
-- unless it was to run all the same. The children are locked before they are counted, so two parents
-- that finish at once cannot each wait for the other.
create function picture_queue._settle_children(p_moved picture_queue.moved[]) returns picture_queue.change[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_children uuid[];
  v_broken jsonb;  -- child: what it does then, and why
  v_changes picture_queue.change[];
begin
  select array_agg(distinct d.child_id) into v_children
  from unnest(p_moved) m
  join picture_queue.dependency d on d.parent_id = m.id
  where m.status in ('completed', 'failed', 'cancelled');
  if v_children is null then
    return null;
  end if;
  perform from public.job_queue where id = any (v_children) order by id for update;

  with settled as (
    delete from picture_queue.dependency d
    using unnest(p_moved) m
    where d.parent_id = m.id and m.status in ('completed', 'failed', 'cancelled')
    returning d.child_id, d.on_parent_failure, m.id as parent_id, m.status
  )
  -- By name rather than by a join, which for thousands of children would look at each pair.
  select coalesce(jsonb_object_agg(s.child_id, jsonb_build_array(
    case s.on_parent_failure when 'cancel' then 'cancel' else 'abandon' end,
    format('Job %s, which it depends on, was %s.', s.parent_id, s.status)) order by s.parent_id desc), '{}')
  into v_broken
  from settled s
  where s.status <> 'completed' and s.on_parent_failure <> 'run';

  select array_agg(picture_queue._change(
    c.id,
    coalesce(v_broken #>> array[c.id::text, '0'], case when c.scheduled_for > picture_queue._now() then 'await' else 'ready' end),
    v_broken #>> array[c.id::text, '1']))
  into v_changes
  from public.job_queue c
  where c.id = any (v_children) and c.hold = 'waiting'
    and (v_broken ? c.id::text or not exists (select from picture_queue.dependency d where d.child_id = c.id));

  -- A child that has ended waits for nobody.
  delete from picture_queue.dependency d where d.child_id = any (array(
    select c.job_id from unnest(v_changes) c where c.action in ('cancel', 'abandon')));
  if exists (select from unnest(v_changes) c where c.action = 'ready') then
    perform picture_queue._wake(
      (select array_agg(distinct j.queue) from public.job_queue j
        join unnest(v_changes) c on c.job_id = j.id where c.action = 'ready'), 'enqueue');
  end if;
  return v_changes;
end
$$;

-- Keeps the counts of batches (p_ends: batch_id, from, to of each change) and enqueues the callback
-- of those that are complete. Batches are locked in the order of their ids.
create function picture_queue._count_batches(p_ends jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch picture_queue.batch;
begin
  for v_batch in
    select b.* from picture_queue.batch b
    where b.id in (select (e.item ->> 'batch_id')::uuid from jsonb_array_elements(p_ends) as e (item)
      where e.item ->> 'to' in ('completed', 'failed', 'cancelled')
        or e.item ->> 'from' in ('failed', 'cancelled'))
    order by b.id for update
  loop
    update picture_queue.batch b set
      completed = b.completed + d.completed,
      failed = b.failed + d.failed,
      cancelled = b.cancelled + d.cancelled
    from (
      select
        count(*) filter (where e.item ->> 'to' = 'completed') as completed,
        count(*) filter (where e.item ->> 'to' = 'failed') - count(*) filter (where e.item ->> 'from' = 'failed') as failed,
        count(*) filter (where e.item ->> 'to' = 'cancelled')
          - count(*) filter (where e.item ->> 'from' = 'cancelled') as cancelled
      from jsonb_array_elements(p_ends) as e (item)
      where (e.item ->> 'batch_id')::uuid = v_batch.id
    ) d
    where b.id = v_batch.id
    returning b.* into v_batch;
    perform picture_queue._finish_batch(v_batch);
  end loop;
end
$$;

-- Notes whether a batch is finished; when it is, its callback job is enqueued, once. One that is refused is
-- noted: the job that ended last has ended all the same.
create function picture_queue._finish_batch(p_batch picture_queue.batch) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_finished boolean := p_batch.completed + p_batch.failed + p_batch.cancelled = p_batch.total;
  v_job jsonb;
  v_state text;
  v_error text;
  v_detail text;
begin
  if v_finished = (p_batch.finished_at is not null) then
    return;
  end if;
  update picture_queue.batch b
  set finished_at = case when v_finished then picture_queue._now() end
  where b.id = p_batch.id;
  if v_finished and p_batch.callback is not null and p_batch.callback_job_id is null then
    begin
      v_job := picture_queue._enqueue(jsonb_build_array(p_batch.callback || jsonb_build_object('payload',
        coalesce(nullif(p_batch.callback -> 'payload', 'null'), '{}') || jsonb_build_object(
          'batch_id', p_batch.id, 'total', p_batch.total, 'completed', p_batch.completed,
          'failed', p_batch.failed, 'cancelled', p_batch.cancelled))), true) -> 0;
    exception when others then
      get stacked diagnostics v_state = returned_sqlstate, v_error = message_text, v_detail = pg_exception_detail;
      if v_state not like 'PT4%' then
        raise;
      end if;
    end;
    update picture_queue.batch b
    set callback_job_id = (v_job ->> 'job_id')::uuid, 
      callback_error = nullif(concat_ws(': ', v_error, nullif(v_detail, '')), '')
    where b.id = p_batch.id;
  end if;
end
$$;
