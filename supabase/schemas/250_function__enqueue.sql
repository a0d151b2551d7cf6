-- Writes jobs and answers, in the order asked, the id of each and what became of it: created; existing
-- (same id, idempotency key or unique key); replaced or debounced. All or none. One job is announced;
-- of many, only the queues' workers hear. p_internal: our own follow-ups, which a queue that drains
-- still takes.
create function picture_queue._enqueue(p_jobs jsonb, p_internal boolean default false) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_jobs picture_queue.new_job[];
  v_rest picture_queue.new_job[];
  v_made public.job_queue[];
  v_all public.job_queue[];
  v_answer jsonb := picture_queue._enqueue_plain(p_jobs);
begin
  if v_answer is not null then
    return v_answer;
  end if;
  v_answer := '{}'::jsonb;
  perform picture_queue._check_jobs(p_jobs);
  v_jobs := picture_queue._new_jobs(p_jobs);
  if v_jobs is null then
    return '[]'::jsonb;
  end if;
  perform picture_queue._ensure_queues(v_jobs, p_internal);
  -- Jobs before batches, as whoever ends a job.
  v_jobs := picture_queue._line_up(picture_queue._look_at_parents(v_jobs));
  perform picture_queue._check_batches(v_jobs);

  -- What is in the way of a unique job may be gone when we look for it: then it is tried again.
  v_rest := v_jobs;
  for v_round in 1..5 loop
    v_made := picture_queue._insert_jobs(v_rest, cardinality(v_jobs) = 1);
    v_all := v_all || v_made;
    exit when cardinality(v_all) = cardinality(v_jobs);
    v_answer := v_answer || picture_queue._meet_existing(v_rest, v_made);
    exit when (select count(*) from jsonb_object_keys(v_answer)) + coalesce(cardinality(v_all), 0) = cardinality(v_jobs);
    v_rest := array(select n from unnest(v_jobs) n
      where not v_answer ? n.i::text and not exists (select from unnest(v_all) m where m.id = n.job_id));
    if v_round = 5 then
      perform picture_queue._refuse('PQ_BUSY', 'a job with the same unique key comes and goes', 'repeat the call');
    end if;
  end loop;

  if exists (select from unnest(v_all) m where m.hold = 'waiting') then
    perform picture_queue._tie_to_parents(v_jobs, v_answer);
  end if;
  perform picture_queue._wake(
    (select array_agg(distinct m.queue) from unnest(v_all) m where m.hold is null), 'enqueue');
  return (
    select jsonb_agg(coalesce(v_answer -> n.i::text,
      jsonb_build_object('job_id', n.job_id, 'outcome', 'created')) order by n.i)
    from unnest(v_jobs) n);
end
$$;

-- _enqueue for the common case, in one statement: jobs without options, plainly right, for queues that are
-- there and serve first come first. Returns null, and has done nothing, where that is not so.
create function picture_queue._enqueue_plain(p_jobs jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_count integer := case when jsonb_typeof(p_jobs) = 'array' then jsonb_array_length(p_jobs) end;
  v_done record;
  v_answer jsonb;
begin
  if exists (
    select from jsonb_array_elements(case when v_count > 0 then p_jobs else '[0]' end) e
    where case when jsonb_typeof(e) = 'object'
      then e - '{job_type,payload,queue,job_id,user_id,priority}'::text[] <> '{}' else true end)
  then
    return null;
  end if;
  with item as materialized (
    select coalesce(e.job_id, gen_random_uuid()) as id, e.job_type, q.name as queue, coalesce(e.payload, '{}') as payload,
      coalesce(e.priority, 0) as priority, e.user_id, coalesce(t.max_attempts, q.max_attempts, s.max_attempts) as max_attempts,
      q.events <> 'none' as is_announced, e.i
    from rows from (jsonb_to_recordset(p_jobs) as (
        job_id uuid, job_type text, queue text, payload jsonb, priority integer, user_id uuid))
      with ordinality as e (job_id, job_type, queue, payload, priority, user_id, i)
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = e.job_type
    join picture_queue.queue q on q.name = coalesce(e.queue, t.queue, 'default')
    where (t.name is not null or e.job_type ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$' and length(e.job_type) <= 128)
      and not (q.draining or q.fair_share) and q.aging_seconds is null
      -- As text the payload is at most six times as long.
      and coalesce(jsonb_typeof(e.payload) = 'object' and pg_column_size(e.payload) * 6 <= s.max_payload_bytes, true)
      and coalesce(e.priority between -1000000000 and 1000000000, true)
  ),
  made as (
    insert into public.job_queue (id, queue, job_type, payload, priority, rank, max_attempts, user_id, created_at, updated_at)
    select i.id, i.queue, i.job_type, i.payload, i.priority, -i.priority, i.max_attempts, i.user_id, v_now, v_now
    from item i
    where (select count(*) from item) = v_count
    order by i.i
    on conflict (id) do nothing
    returning id, queue
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select m.queue, 'pending', null, count(*), v_now from made m group by m.queue
  )
  select (select array_agg(i.id order by i.i) from item i) as ids, (select bool_or(i.is_announced) from item i) as announced,
    array_agg(m.id) as made, array_agg(distinct m.queue) as queues
  into v_done
  from made m;

  if cardinality(v_done.ids) is distinct from v_count then
    return null;
  elsif cardinality(v_done.made) = v_count then
    select jsonb_agg(jsonb_build_object('job_id', u.id, 'outcome', 'created') order by u.i) into v_answer
    from unnest(v_done.ids) with ordinality as u (id, i);
  else
    v_answer := picture_queue._meet_same(p_jobs, v_done.ids, coalesce(v_done.made, '{}'));
  end if;
  if v_count = 1 and v_done.announced and v_done.made is not null then
    perform picture_queue._emit(v_done.made);
  end if;
  if exists (
    select from picture_queue.worker w
    where w.idle and w.queues && v_done.queues and w.seen_at > v_now - interval '1 minute')
  then
    perform picture_queue._wake(v_done.queues, 'enqueue');
  end if;
  return v_answer;
end
$$;

-- The answer of _enqueue_plain where jobs of these ids were there already: the same ones, or it refuses.
create function picture_queue._meet_same(p_jobs jsonb, p_ids uuid[], p_made uuid[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_answer jsonb;
  v_other uuid;
begin
  select jsonb_agg(jsonb_build_object(
      'job_id', u.id, 'outcome', case when u.nth = 1 and u.id = any (p_made) then 'created' else 'existing' end) order by u.i),
    (array_agg(u.id) filter (where (j.job_type, j.user_id) is distinct from (e.job_type, e.user_id)))[1]
  into v_answer, v_other
  from (
    select n.id, n.i, row_number() over (partition by n.id order by n.i) as nth
    from unnest(p_ids) with ordinality as n (id, i)
  ) u
  join rows from (jsonb_to_recordset(p_jobs) as (job_type text, user_id uuid))
    with ordinality as e (job_type, user_id, i) on e.i = u.i
  join public.job_queue j on j.id = u.id
  where j.id = any (p_ids);
  if v_other is not null then
    perform picture_queue._refuse('PQ_CONFLICT', format('job_id %s is another job', v_other), 'make a new uuid for each job');
  end if;
  return v_answer;
end
$$;

-- Equal for jobs of one type and owner with equal arguments: those named, or all.
create function picture_queue._unique_key(p_job_type text, p_user_id uuid, p_payload jsonb, p_by text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select p_job_type || ':' || md5(coalesce(p_user_id::text, '') || coalesce(
    (select jsonb_object_agg(k, p_payload -> k) from unnest(p_by) k), p_payload, '{}')::text)
$$;

-- The items of an enqueue with their types and defaults.
create function picture_queue._new_jobs(p_jobs jsonb) returns picture_queue.new_job[]
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select array_agg(row(
    e.i, coalesce(e.job_id, gen_random_uuid()), e.job_type, coalesce(e.queue, t.queue, 'default'),
    coalesce(nullif(e.payload, 'null'), '{}'), coalesce(e.priority, 0),
    coalesce(e.scheduled_for, s.now + make_interval(secs => o.delay_seconds)),
    e.max_attempts, e.user_id, e.generation_id, e.idempotency_key, o.timeout_seconds, nullif(o.backoff, 'null'),
    coalesce(o.expires_at, s.now + make_interval(secs => o.expires_in_seconds)), o.tags,
    coalesce(nullif(o.metadata, 'null'), '{}'), o.limit_keys, o.batch_id, o.depends_on,
    coalesce(o.on_parent_failure, 'cancel'),
    case when u.states is not null then picture_queue._unique_key(e.job_type, e.user_id, e.payload, u.by) end,
    u.states, s.now + make_interval(secs => u.period_seconds), coalesce(u.on_conflict, 'ignore'),
    null, o.tenant, null, null)::picture_queue.new_job order by e.i)
  from rows from (jsonb_to_recordset(p_jobs) as (job_id uuid, job_type text, queue text, payload jsonb,
    priority integer, scheduled_for timestamptz, max_attempts integer, user_id uuid, generation_id uuid,
    idempotency_key text, options jsonb))
    with ordinality as e (job_id, job_type, queue, payload, priority, scheduled_for, max_attempts, user_id,
      generation_id, idempotency_key, options, i)
  cross join (select picture_queue._now() as now offset 0) s
  left join picture_queue.job_type t on t.name = e.job_type
  left join lateral jsonb_to_record(nullif(e.options, 'null')) as o (delay_seconds real, timeout_seconds real,
    expires_at timestamptz, expires_in_seconds real, backoff jsonb, tags text[], metadata jsonb, tenant text,
    limit_keys text[], depends_on uuid[], on_parent_failure text, batch_id uuid, "unique" jsonb)
    on e.options is not null and e.options <> '{}'
  left join lateral (
    select r.by, r.period_seconds, coalesce(r.states, '{pending,processing}') as states, r.on_conflict
    from jsonb_to_record(nullif(o."unique", 'null')) as r (by text[], period_seconds real, states text[], on_conflict text)
  ) u on o."unique" <> 'null'
$$;

-- Makes the queues that are not there, or refuses them (setting unknown_queue), and refuses new jobs
-- for a queue that drains.
create function picture_queue._ensure_queues(p_jobs picture_queue.new_job[], p_internal boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_names text[] := array(select distinct n.queue from unnest(p_jobs) n order by n.queue);
  v_draining text := (select min(q.name) from picture_queue.queue q where q.name = any (v_names) and q.draining);
  v_unknown text[] := array(
    select n from unnest(v_names) n where not exists (select from picture_queue.queue q where q.name = n));
begin
  if v_draining is not null and not p_internal then
    perform picture_queue._refuse('PQ_QUEUE_DRAINING', format('queue is %s', v_draining), 'resume_queue() ends draining');
  elsif v_unknown = '{}' then
    return;
  elsif not p_internal and (select s.unknown_queue = 'refuse' from picture_queue.setting s) then
    perform picture_queue._refuse('PQ_UNKNOWN_QUEUE', format('queue is %s', v_unknown[1]),
      'set_queue() makes a queue; list_queues() has those there are');
  end if;
  insert into picture_queue.queue (name) select n from unnest(v_unknown) n on conflict do nothing;
end
$$;

-- The place of each new job in its line: rank, turn, and whether it waits for its time. Aging makes of
-- priority a head start in seconds; fair share gives each tenant its turns (see _last_turn).
create function picture_queue._line_up(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_jobs picture_queue.new_job[];
begin
  with placed as (
    select n.*, q.fair_share, q.aging_seconds,
      case when n.hold is not null then n.hold when n.scheduled_for > v_now then 'scheduled' end as new_hold,
      case when q.aging_seconds is null then -n.priority else 0 end as new_rank,
      case when q.fair_share then coalesce(n.tenant, n.user_id::text, '') end as new_tenant
    from unnest(p_jobs) n
    left join picture_queue.queue q on q.name = n.queue
  ),
  numbered as (
    select p.*, row_number() over (partition by p.queue, p.new_tenant, p.new_rank, p.new_hold order by p.i) as nth
    from placed p
  ),
  lines as (
    select l.queue, l.new_tenant, l.new_rank, 1 / coalesce(w.weight, 1) as step,
      picture_queue._last_turn(l.queue, l.new_tenant, l.new_rank, '{}') as last_turn
    from (select distinct p.queue, p.new_tenant, p.new_rank from placed p
      where p.new_tenant is not null and p.new_hold is null) l
    left join picture_queue.tenant w on w.name = l.new_tenant
  )
  select array_agg(row(
    p.i, p.job_id, p.job_type, p.queue, p.payload, p.priority, p.scheduled_for, p.max_attempts, p.user_id,
    p.generation_id, p.idempotency_key, p.timeout_seconds, p.backoff, p.expires_at, p.tags, p.metadata, p.limit_keys,
    p.batch_id, p.depends_on, p.on_parent_failure, p.unique_key, p.unique_states, p.unique_until, p.on_conflict,
    p.new_hold, p.new_tenant, p.new_rank,
    case when p.aging_seconds is not null
        then extract(epoch from greatest(p.scheduled_for, v_now)) - p.priority::double precision * p.aging_seconds
      when l.step is not null then l.last_turn + l.step * p.nth
      else 0 end)::picture_queue.new_job order by p.i)
  into v_jobs
  from numbered p
  left join lines l on l.queue = p.queue and l.new_tenant = p.new_tenant and l.new_rank = p.new_rank
    and p.new_hold is null;
  return v_jobs;
end
$$;

-- Writes the rows and the counts, and announces them if asked to; what something is in the way of is left
-- out of what is returned.
create function picture_queue._insert_jobs(p_jobs picture_queue.new_job[], p_announce boolean)
returns public.job_queue[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_made public.job_queue[];
begin
  with made as (
    insert into public.job_queue (id, queue, job_type, payload, priority, hold, max_attempts, timeout_seconds, backoff,
      scheduled_for, expires_at, tags, metadata, rank, turn, tenant, limit_keys, unique_key, unique_states,
      unique_until, batch_id, user_id, generation_id, idempotency_key, created_at, updated_at)
    select n.job_id, n.queue, n.job_type, n.payload, n.priority, n.hold,
      coalesce(n.max_attempts, t.max_attempts, q.max_attempts,
        (select s.max_attempts from picture_queue.setting s)), n.timeout_seconds, n.backoff,
      n.scheduled_for, n.expires_at, n.tags, n.metadata, n.rank, n.turn, n.tenant, n.limit_keys, n.unique_key,
      n.unique_states, n.unique_until, n.batch_id, n.user_id, n.generation_id, n.idempotency_key, v_now, v_now
    from unnest(p_jobs) n
    left join picture_queue.job_type t on t.name = n.job_type
    left join picture_queue.queue q on q.name = n.queue
    order by n.i
    on conflict do nothing
    returning job_queue as job
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select (m.job).queue, 'pending', (m.job).hold, count(*), v_now from made m group by (m.job).queue, (m.job).hold
  )
  select array_agg(m.job) into v_made from made m;
  if p_announce then
    perform picture_queue._emit(array(select m.id from unnest(v_made) m));
  end if;

  if exists (select from unnest(p_jobs) n where n.batch_id is not null) then
    update picture_queue.batch b set total = b.total + c.n
    from (select m.batch_id, count(*) as n from unnest(v_made) m where m.batch_id is not null group by 1) c
    where b.id = c.batch_id;
  end if;
  return v_made;
end
$$;
