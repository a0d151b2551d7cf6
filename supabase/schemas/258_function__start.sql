-- Starts jobs under a lease, and answers them as their worker gets them: what is null or nought is left out
-- where most jobs have nothing else. It makes the edge 'claim' as _move makes the others, but picks, starts and
-- answers in one statement: of a claim by an idle worker each statement counts.
--
-- p_ids: the jobs, locked by the caller; p_slots: the limit keys they run under, by id. Without p_slots they
-- are those of a repeated claim, which run already. Without both, up to p_max_jobs of what can be claimed first,
-- as _candidates has it for one line. p_drawn: the order of p_ids is that of the answer.
create function picture_queue._start(
  p_worker text, p_lease_id uuid, p_lease_seconds real, p_legacy boolean, p_queues text[], p_job_types text[],
  p_max_jobs integer, p_heads jsonb, p_ids uuid[], p_slots jsonb, p_drawn boolean)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass);
  v_made record;
begin
  with chosen as materialized (
    select p.id
    from unnest(p_queues) as w (name)
    cross join lateral (
      select coalesce((p_heads -> w.name ->> 0)::integer, -2147483648) as rank,
        coalesce((p_heads -> w.name ->> 1)::double precision, '-infinity') as turn,
        coalesce((p_heads -> w.name ->> 2)::bigint, 0) as seq
    ) h
    cross join lateral (
      select j.id, j.rank, j.turn, j.seq
      from public.job_queue j
      where j.queue = w.name and j.status = 'pending' and j.hold is null
        and (j.rank, j.turn, j.seq) >= (h.rank, h.turn, h.seq)
        and (p_job_types is null or j.job_type = any (p_job_types))
        and (j.expires_at is null or j.expires_at > v_now)
      order by j.rank, j.turn, j.seq limit p_max_jobs
      for update skip locked
    ) p
    order by p.rank, p.turn, p.seq limit p_max_jobs
  ),
  started as (
    update public.job_queue j set
      status = 'processing',
      attempt = j.attempt + 1,
      lease_id = p_lease_id,
      (lease_seconds, lease_expires_at) = (
        select l.seconds, v_now + make_interval(secs => l.seconds)
        from (
          select case when p_legacy then p_lease_seconds else coalesce(
            (select t.lease_seconds from picture_queue.job_type t where t.name = j.job_type),
            (select q.lease_seconds from picture_queue.queue q where q.name = j.queue), p_lease_seconds) end as seconds
          offset 0
        ) l),
      lease_is_legacy = p_legacy,
      slots = case when p_slots is not null then
        (select array_agg(k) from jsonb_array_elements_text(p_slots -> j.id::text) k) end,
      blocked_on = null,
      -- Uniqueness that does not cover running jobs ends when the job starts.
      unique_states = case when not 'processing' = any (j.unique_states) then '{}' else j.unique_states end,
      worker = p_worker,
      started_at = v_now,
      version = j.version + 1,
      updated_at = v_now
    where j.id = any (coalesce(p_ids, array(select c.id from chosen c)))
      and j.lease_id is distinct from p_lease_id
    returning j.*
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select s.queue, e.status, null, e.sign * count(*), v_now
    from started s
    cross join (values ('pending', -1), ('processing', 1)) as e (status, sign)
    group by s.queue, e.status, e.sign
  ),
  held as (
    select * from started
    union all
    select * from public.job_queue j
    where p_ids is not null and p_slots is null
      and j.id = any (p_ids) and j.status = 'processing' and j.hold is null and j.lease_id = p_lease_id
  )
  select array(select s.id from started s) as ids,
    exists (select from started s where s.generation_id is not null or s.version > 50) as are_special,
    to_jsonb(array(
      select
        case when num_nonnulls(j.user_id, j.generation_id, j.batch_id, j.tags, j.event, j.message,
            j.cancel_requested_at, j.scheduled_for) = 0 and j.priority = 0 and j.progress = 0 and j.metadata = '{}'
          then b.base
          else b.base || jsonb_build_object(
            'priority', j.priority, 'progress', j.progress, 'user_id', j.user_id, 'generation_id', j.generation_id, 'batch_id', j.batch_id,
            'tags', coalesce(to_jsonb(j.tags), '[]'), 'metadata', j.metadata, 'event', j.event, 'message', j.message,
            'cancel_requested_at', j.cancel_requested_at, 'scheduled_for', j.scheduled_for) end
      from held j
      left join picture_queue.job_type t on t.name = j.job_type
      left join picture_queue.queue q on q.name = j.queue
      cross join lateral (
        select jsonb_build_object(
          'id', j.id, 'queue', j.queue, 'job_type', j.job_type, 'payload', j.payload, 'attempt', j.attempt,
          'max_attempts', j.max_attempts, 'created_at', j.created_at, 'version', j.version, 'lease_id', j.lease_id,
          'lease_seconds', j.lease_seconds, 'timeout_seconds', coalesce(
            j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, (select s.timeout_seconds from picture_queue.setting s))
        ) as base
        offset 0) b
      order by case when p_drawn then array_position(p_ids, j.id) end, j.rank, j.turn, j.seq)) as jobs
  into v_made;

  if v_made.ids = '{}' then
    return v_made.jobs;
  end if;
  if v_made.are_special then
    perform picture_queue._bound_history(v_made.ids), picture_queue._mirror_generations(v_made.ids);
  end if;
  if exists (select from picture_queue.queue q where q.name = any (p_queues) and q.events <> 'none') then
    perform picture_queue._emit(v_made.ids);
  end if;
  perform picture_queue._remember_heads(p_worker, v_read, p_max_jobs, p_heads, v_made.ids);
  return v_made.jobs;
end
$$;

-- Where many entries of the index had to be passed over (jobs claimed while an old snapshot keeps them from
-- being cleaned up, or of types the worker cannot run) the heads of the lines are remembered, and for a
-- moment the next claims of this worker begin there. What comes before the head meanwhile, a retry or a
-- higher priority, is seen when the moment is over: at most 5 seconds, 1.5 for a million.
-- p_read: entries read before the claim; p_ids: what it found.
create function picture_queue._remember_heads(
  p_worker text, p_read bigint, p_limit integer, p_heads jsonb, p_ids uuid[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass) - p_read;
begin
  if v_read <= p_limit + 20000 then
    return;
  end if;
  update picture_queue.worker w set
    heads = coalesce(w.heads, '{}') || (
      select jsonb_object_agg(h.queue, jsonb_build_array(h.rank, h.turn, h.seq))
      from (
        select distinct on (j.queue) j.queue, j.rank, j.turn, j.seq from public.job_queue j
        where j.id = any (p_ids) order by j.queue, j.rank, j.turn, j.seq
      ) h),
    heads_until = case when p_heads is not null then w.heads_until
      else picture_queue._now() + make_interval(secs => least(v_read * 0.0000015, 5)) end
  where w.name = p_worker and p_ids <> '{}';
end
$$;
