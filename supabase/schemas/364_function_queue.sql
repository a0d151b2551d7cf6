-- Queues: their settings, pausing, draining, purging.

-- Makes a queue if it is not there and changes its settings; null is the default again.
create function public.set_queue(queue text, changes jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  changes := coalesce(changes, '{}');
  perform picture_queue._check_changes(changes, array['events', 'max_attempts', 'timeout_seconds', 'lease_seconds',
    'backoff_policy', 'backoff_seconds', 'backoff_cap_seconds', 'backoff_jitter', 'fair_share', 'aging_seconds',
    'breaker_failures', 'breaker_seconds', 'draining']);
  if coalesce(queue, '') !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('queue is %s', quote_nullable(queue)),
      'names are letters, digits and _ . -');
  end if;
  insert into picture_queue.queue (name) values (queue) on conflict do nothing;
  perform picture_queue._change_row('picture_queue.queue', 'name', queue, changes);
  return picture_queue._queue(queue);
end
$$;
comment on function public.set_queue is 'Makes a queue or changes its settings.';

-- One queue with how many jobs it has in each state.
create function picture_queue._queue(p_queue text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_queue jsonb := (
    select to_jsonb(q) - 'paused_until' || jsonb_build_object(
      'paused', coalesce(q.paused_until > picture_queue._now(), false),
      'resume_at', case when q.paused_until > picture_queue._now() then nullif(q.paused_until, 'infinity') end,
      'pause_reason', case when q.paused_until > picture_queue._now() then q.pause_reason end,
      'jobs', (
        select coalesce(jsonb_object_agg(coalesce(d.hold, d.status), d.n), '{}')
        from (
          select c.status, c.hold, sum(c.n) as n
          from (select * from picture_queue.depth union all select queue, status, hold, n from picture_queue.depth_change) c
          where c.queue = q.name and c.status in ('pending', 'processing')
          group by c.status, c.hold having sum(c.n) <> 0
        ) d))
    from picture_queue.queue q where q.name = p_queue);
begin
  if v_queue is null then
    perform picture_queue._refuse('PQ_UNKNOWN_QUEUE', format('queue is %s', left(quote_nullable(p_queue), 100)),
      'list_queues() has those there are');
  end if;
  return v_queue;
end
$$;

create function public.list_queues() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select coalesce(jsonb_agg(picture_queue._queue(q.name) order by q.name), '[]') from picture_queue.queue q $$;
comment on function public.list_queues is 'The queues, their settings, and how many jobs each has.';

-- Nothing more is claimed from the queue until resume_at, or until it is resumed; what runs goes on.
create function public.pause_queue(queue text, resume_at timestamptz default null, reason text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._queue(queue);
  if resume_at <= picture_queue._now() then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('resume_at is %s, which is past', resume_at));
  end if;
  update picture_queue.queue q
  set paused_until = coalesce(resume_at, 'infinity'), pause_reason = left(pause_queue.reason, 500)
  where q.name = pause_queue.queue;
  return picture_queue._queue(queue);
end
$$;
comment on function public.pause_queue is 'Stops claims from a queue.';

-- Ends a pause, and draining.
create function public.resume_queue(queue text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._queue(queue);
  update picture_queue.queue q set paused_until = null, pause_reason = null, draining = false
  where q.name = resume_queue.queue;
  delete from picture_queue.breaker b where b.queue = resume_queue.queue;
  perform picture_queue._wake(array[queue], 'enqueue');
  return picture_queue._queue(queue);
end
$$;
comment on function public.resume_queue is 'Ends the pause or the draining of a queue.';

-- Lets a queue run dry: what is there is run, nothing new is taken.
create function public.drain_queue(queue text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._queue(queue);
  update picture_queue.queue q set draining = true where q.name = drain_queue.queue;
  return picture_queue._queue(queue);
end
$$;
comment on function public.drain_queue is 'Refuses new jobs for a queue, and runs what is there.';

-- Cancels what is pending in a queue, the oldest 10,000 jobs a call; preview only counts.
create function public.purge_queue(queue text, preview boolean default false) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_matched bigint;
  v_ids uuid[] := '{}';
  v_moved integer;
  v_changed integer := 0;
begin
  v_matched := (
    select coalesce(sum(j.n::bigint), 0) from jsonb_each_text(picture_queue._queue(queue) -> 'jobs') as j (state, n)
    where j.state in ('pending', 'scheduled', 'blocked', 'waiting'));
  if not coalesce(preview, false) then
    v_ids := array(
      select j.id from public.job_queue j
      where j.queue = purge_queue.queue and j.status = 'pending'
      order by j.seq limit 10000 for update skip locked);
  end if;
  -- A thousand at a time, as change_jobs does.
  for v_i in 1..cardinality(v_ids) by 1000 loop
    select count(*) into v_moved from unnest(picture_queue._transition((
      select array_agg(picture_queue._change(i, 'cancel', 'The queue was purged.')) from unnest(v_ids[v_i:v_i + 999]) i)));
    v_changed := v_changed + v_moved;
  end loop;
  return jsonb_build_object('matched', v_matched, 'changed', v_changed, 'more', cardinality(v_ids) = 10000);
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
  return null;
end
$$;
comment on function public.purge_queue is 'Cancels what is pending in a queue.';
