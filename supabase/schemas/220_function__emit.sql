-- Sends an event for each of these jobs, on the topic of the owner, or on the topic of the job if the job has no
-- owner. The event holds the visible state of the job without its result.
create function picture_queue._emit(p_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_events picture_queue.event[];
begin
  select array_agg(row(
      coalesce('pq:user:' || j.user_id, 'pq:job:' || j.id),
      'job',
      jsonb_build_object(
        'job_id', j.id, 'job_type', j.job_type, 'queue', j.queue, 'status', j.status, 'hold', j.hold,
        'progress', j.progress, 'message', j.message, 'attempt', j.attempt, 'version', j.version,
        'at', j.updated_at)
      || case when j.generation_id is null then '{}' else jsonb_build_object('generation_id', j.generation_id) end
      || case when j.error is null then '{}' else jsonb_build_object('error', j.error) end
    )::picture_queue.event order by j.seq)
  into v_events
  from public.job_queue j
  left join picture_queue.queue q on q.name = j.queue
  where j.id = any (p_ids) and coalesce(q.events, 'progress') <> 'none';
  if v_events is not null then
    perform picture_queue._broadcast(v_events);
  end if;
end
$$;

-- Wakes the workers of these queues, with one message for each queue. The reason 'enqueue' stands for all ways by
-- which jobs become claimable; it sends the message only if a worker of the queue is idle, with a call in the last
-- minute. Workers that use the API receive it over Realtime, workers with a database connection by NOTIFY.
create function picture_queue._wake_workers(p_queues text[], p_reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_since timestamptz := picture_queue._now() - interval '1 minute';
  v_events picture_queue.event[];
begin
  select array_agg(row(
      'pq:queue:' || name, 'wake', jsonb_build_object('queue', name, 'reason', p_reason)
    )::picture_queue.event)
  into v_events
  from (select distinct unnest(p_queues)) as q (name)
  where p_reason <> 'enqueue' or (
    select true from picture_queue.worker w
    where w.idle and q.name = any (w.queues) and w.seen_at > v_since
    order by w.seen_at desc limit 1);
  if v_events is not null then
    perform picture_queue._broadcast(v_events);
    perform pg_catalog.pg_notify('picture_queue', e.payload::text) from unnest(v_events) e;
  end if;
end
$$;
