-- What follows for the children of jobs that have just finished: the changes to make, or null. A
-- child whose last parent completed becomes ready; one whose parent failed or was cancelled ends too,
-- unless it was to run all the same. The children are locked before they are counted, so two parents
-- that finish at once cannot each wait for the other.
create function picture_queue._settle_children(p_moved picture_queue.moved[]) returns picture_queue.change[]
language plpgsql set search_path = '' set seq_page_cost = 100
as $$
declare
  v_children uuid[];
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
  ),
  broken as (
    select distinct on (s.child_id) s.child_id, s.on_parent_failure, s.parent_id, s.status
    from settled s
    where s.status <> 'completed' and s.on_parent_failure <> 'run'
    order by s.child_id, s.parent_id
  ),
  -- Of one statement all parts see the table as it was before: what settled deletes is still there.
  open_parents as (
    select d.child_id from picture_queue.dependency d
    where d.child_id = any (v_children) and not exists (
      select from settled s where s.child_id = d.child_id and s.parent_id = d.parent_id)
  )
  select array_agg(picture_queue._change(
      c.id,
      case when b.on_parent_failure = 'cancel' then 'cancel' when b.child_id is not null then 'abandon'
        when c.scheduled_for > picture_queue._now() then 'await' else 'ready' end,
      case when b.child_id is not null then format('Job %s, which it depends on, was %s.', b.parent_id, b.status) end))
  into v_changes
  from public.job_queue c
  left join broken b on b.child_id = c.id
  where c.id = any (v_children) and c.hold = 'waiting'
    and (b.child_id is not null or not exists (select from open_parents o where o.child_id = c.id));

  -- A child that has ended waits for nobody.
  delete from picture_queue.dependency d
  using unnest(v_changes) c
  where d.child_id = c.job_id and c.action in ('cancel', 'abandon');
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
language plpgsql set search_path = ''
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
language plpgsql set search_path = ''
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
