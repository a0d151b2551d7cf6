-- Returns a batch of generations (or a chain, which is a batch of one request): the counts, progress and status of the
-- batch, and its generations in the order of the call. Deleted generations are left out. The function runs with the
-- caller's privileges, so row level security decides which generations the caller sees.
-- progress: the mean of the generations; the progress of an ended generation counts as 100.
-- status: pending until the first generation has started; processing until the last has ended; then failed if any
-- failed, else cancelled if any was cancelled, else completed.
-- `offset 0` makes the planner look up each job by its id.
create function public.generation_batch(batch_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set seq_page_cost = 100
as $$
begin
  return picture_queue._require((
    select jsonb_build_object(
      'batch_id', generation_batch.batch_id, 'user_id', (array_agg(m.user_id))[1], 'total', count(*),
      'completed', count(*) filter (where m.status = 'completed'),
      'failed', count(*) filter (where m.status = 'failed'),
      'cancelled', count(*) filter (where m.status = 'cancelled'),
      'progress', floor(avg(case when m.ended then 100 else m.progress end))::integer,
      'status', case when bool_and(m.status = 'pending') then 'pending'
        when not bool_and(m.ended) then 'processing'
        when bool_or(m.status = 'failed') then 'failed'
        when bool_or(m.status = 'cancelled') then 'cancelled'
        else 'completed' end,
      'cost_usd', sum(m.cost_usd),
      'generations', jsonb_agg(jsonb_build_object('generation_id', m.id, 'job_id', m.job_id, 'kind', m.kind,
        'status', m.status, 'hold', m.hold, 'progress', m.progress, 'message', m.message, 'error', m.error,
        'position', m.batch_position, 'step', m.batch_step) order by m.batch_position, m.batch_step))
    from (
      select g.*, j.hold, j.message, coalesce(j.progress, case g.status when 'completed' then 100 else 0 end) as progress,
        g.status in ('completed', 'failed', 'cancelled') as ended
      from public.generations g
      left join lateral (
        select o.hold, o.message, o.progress from public.job_queue o where o.id = g.job_id offset 0) j on true
      where g.batch_id = generation_batch.batch_id and not g.deleted
    ) m
    having count(*) > 0),
    'PQ_UNKNOWN_BATCH', format('batch_id is %s', generation_batch.batch_id),
    'start_generations() returns the id of a batch; its generations were deleted, or belong to another user');
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.generation_batch is 'A batch of generations of the caller: its counts, progress and status.';

-- Cancels all generations of a batch of the caller that have not ended, each as cancel_job does. Returns the number of
-- generations of the batch in each state afterwards; cancel_requested is the number of generations that still run. The
-- call can be repeated.
create function picture_queue.cancel_generation_batch(p_batch_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' set seq_page_cost = 100
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user uuid := picture_queue._caller_id();
  v_jobs uuid[];
  v_open uuid[];
begin
  perform picture_queue._check_isolation();
  -- Users may call this function, and their session may have set this parameter to true.
  perform set_config('picture_queue.is_worker', 'false', true);  -- for _check_deferred_constraints and _enqueue_callbacks
  v_jobs := array(
    select g.job_id from public.generations g
    where g.batch_id = p_batch_id and not g.deleted and (v_is_service or g.user_id = v_user));
  if v_jobs = '{}' then
    perform picture_queue._raise_error('PQ_UNKNOWN_BATCH', format('batch_id is %s', p_batch_id),
      'start_generations() returns the id of a batch');
  end if;
  v_open := array(
    select j.id from public.job_queue j
    where j.id = any (v_jobs) and j.finished_at is null and j.cancel_requested_at is null
    order by j.id for update);
  if v_open <> '{}' then
    perform picture_queue._cancel_jobs(v_open);
    perform picture_queue._check_deferred_constraints();
  end if;
  return (
    select jsonb_build_object('batch_id', p_batch_id, 'total', count(*),
      'completed', count(*) filter (where g.status = 'completed'),
      'failed', count(*) filter (where g.status = 'failed'),
      'cancelled', count(*) filter (where g.status = 'cancelled'),
      'cancel_requested', count(*) filter (where g.status in ('pending', 'processing')))
    from public.generations g
    where g.batch_id = p_batch_id and not g.deleted and (v_is_service or g.user_id = v_user));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('batch %s is locked by another transaction', p_batch_id));
  raise;
end
$$;

create function public.cancel_generation_batch(batch_id uuid) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.cancel_generation_batch(batch_id) $$;
comment on function public.cancel_generation_batch is
  'Cancels the generations of a batch of the caller that have not ended.';
