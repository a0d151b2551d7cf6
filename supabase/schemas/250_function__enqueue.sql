-- Writes jobs and answers, in the order asked, the id of each and what became of it: created; existing
-- (same id, idempotency key or unique key); replaced or debounced. All or none. One job is announced;
-- of many, only the queues' workers hear. p_internal: our own follow-ups, which a queue that drains
-- still takes.
create function picture_queue._enqueue(p_jobs jsonb, p_internal boolean default false) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_jobs picture_queue.new_job[] := picture_queue._check_jobs(p_jobs);
  v_rest picture_queue.new_job[] := v_jobs;
  v_plain boolean := not exists (
    select from unnest(v_jobs) n where n.rank is null or n.depends_on <> '{}' or n.batch_id is not null);
  v_made uuid[];
  v_found jsonb := '{}'::jsonb;  -- place in the call: id and outcome of the job that was there
  v_queues text[];
begin
  if v_jobs is null then
    return '[]'::jsonb;
  elsif not v_plain then
    -- A repeated call finds its jobs, whatever has become of their queue, their parents and their batch.
    v_found := picture_queue._find_existing(v_jobs, '{}');
    v_jobs := picture_queue._place_jobs(v_jobs, v_found, p_internal);
    v_rest := array(select n from unnest(v_jobs) n where not v_found ? n.i::text);
  end if;

  -- The job that kept out a unique one may be gone when we look for it: then that one is tried again.
  for v_round in 1..5 loop
    v_made := v_made || picture_queue._insert_jobs(v_rest);
    exit when cardinality(v_made) = cardinality(v_jobs);
    v_found := v_found || picture_queue._resolve_duplicates(v_rest, v_made);
    v_rest := array(
      select n from unnest(v_rest) n
      where not v_found ? n.i::text and not exists (select from unnest(v_made) as m (id) where m.id = n.job_id));
    exit when v_rest = '{}';
    if v_round = 5 then
      perform picture_queue._refuse_busy('a job with the same unique key comes and goes');
    end if;
  end loop;

  if cardinality(v_jobs) = 1 and v_made <> '{}' then
    perform picture_queue._emit(v_made);
  end if;
  if not v_plain then
    update picture_queue.batch b set total = b.total + c.n
    from (
      select n.batch_id, count(*) as n from unnest(v_jobs) n
      where n.batch_id is not null and not v_found ? n.i::text group by n.batch_id
    ) c
    where b.id = c.batch_id;
    if exists (select from unnest(v_jobs) n where n.hold = 'waiting' and not v_found ? n.i::text) then
      perform picture_queue._link_parents(v_jobs, v_found);
    end if;
  end if;
  v_queues := array(select distinct n.queue from unnest(v_jobs) n where n.hold is null and not v_found ? n.i::text);
  if v_queues <> '{}' then
    perform picture_queue._wake(v_queues, 'enqueue');
  end if;
  if v_found = '{}' and cardinality(v_rest) = cardinality(v_jobs) then
    -- All were made in the first round, so in the order asked. Rows as JSON take half the time
    -- of as many objects built of their parts.
    return to_jsonb(array(select m from (select u.id as job_id, 'created' as outcome from unnest(v_made) as u (id)) m));
  end if;
  return (
    select jsonb_agg(coalesce(v_found -> n.i::text, jsonb_build_object('job_id', n.job_id, 'outcome', 'created')))
    from unnest(v_jobs) n);
end
$$;

-- Checks the queues, parents and batches of new jobs, makes the queues that are not there, and gives each job
-- its place in line. Jobs that were found (p_found) need none of it.
create function picture_queue._place_jobs(p_jobs picture_queue.new_job[], p_found jsonb, p_internal boolean)
returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_new picture_queue.new_job[] := array(select n from unnest(p_jobs) n where not p_found ? n.i::text);
  v_jobs picture_queue.new_job[] := array(
    select case when p_found ? n.i::text then jsonb_populate_record(n, '{"depends_on": null, "batch_id": null}')
      else n end
    from unnest(p_jobs) n);
  v_names text[] := array(select distinct n.queue from unnest(v_new) n order by n.queue);
  v_draining text := (select min(q.name) from picture_queue.queue q where q.name = any (v_names) and q.draining);
  v_unknown text[] := array(
    select n from unnest(v_names) n where not exists (select from picture_queue.queue q where q.name = n));
begin
  if v_draining is not null and not p_internal then
    perform picture_queue._refuse('PQ_QUEUE_DRAINING', format('queue is %s', v_draining),
      'resume_queue() ends draining');
  elsif v_unknown <> '{}' and not p_internal and (select s.unknown_queue = 'refuse' from picture_queue.setting s) then
    perform picture_queue._refuse('PQ_UNKNOWN_QUEUE', format('queue is %s', v_unknown[1]),
      'set_queue() makes a queue; list_queues() has those there are');
  end if;
  insert into picture_queue.queue (name) select n from unnest(v_unknown) n on conflict do nothing;
  -- Jobs before batches, as whoever ends a job.
  v_jobs := picture_queue._assign_order(picture_queue._look_at_parents(v_jobs));
  perform picture_queue._check_batches(v_new);
  return v_jobs;
end
$$;

-- Equal for jobs of one type and owner with equal arguments: those named, or all.
create function picture_queue._unique_key(p_job_type text, p_user_id uuid, p_payload jsonb, p_by text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_arguments jsonb := coalesce((select jsonb_object_agg(k, p_payload -> k) from unnest(p_by) k), p_payload, '{}');
begin
  if v_arguments::text ~ '[.][0-9]*0([^0-9]|$)' then
    v_arguments := picture_queue._trim_numbers(v_arguments);
  end if;
  return p_job_type || ':' || md5(coalesce(p_user_id::text, '') || v_arguments::text);
end
$$;

-- The value with its numbers written in one way: 1.0 and 1.00 are 1, to jsonb too.
create function picture_queue._trim_numbers(p_value jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return case jsonb_typeof(p_value)
    when 'number' then to_jsonb(trim_scale((p_value #>> '{}')::numeric))
    when 'array' then coalesce((
      select jsonb_agg(picture_queue._trim_numbers(e.value) order by e.i)
      from jsonb_array_elements(p_value) with ordinality as e (value, i)), '[]')
    when 'object' then coalesce((
      select jsonb_object_agg(e.key, picture_queue._trim_numbers(e.value)) from jsonb_each(p_value) e), '{}')
    else p_value
  end;
end
$$;

-- The order of new jobs within their queues: rank and turn. A turn is the time at which a job is due, so that one
-- enqueued for later goes behind those enqueued before it is due. Aging turns priority into a head start in seconds;
-- fair share gives each tenant its turns (see _last_turn).
create function picture_queue._assign_order(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_jobs picture_queue.new_job[];
begin
  with placed as (
    select n.*, q.aging_seconds, case when q.aging_seconds is null then -n.priority else 0 end as new_rank,
      case when q.fair_share then coalesce(n.tenant, n.user_id::text, '') end as new_tenant
    from unnest(p_jobs) n
    left join picture_queue.queue q on q.name = n.queue
  ),
  numbered as (
    select p.*, row_number() over (partition by p.queue, p.new_tenant, p.new_rank, p.hold order by p.i) as nth
    from placed p
  ),
  lines as (
    select l.queue, l.new_tenant, l.new_rank, 1 / coalesce(w.weight, 1) as step,
      picture_queue._last_turn(l.queue, l.new_tenant, l.new_rank, '{}') as last_turn
    from (select distinct p.queue, p.new_tenant, p.new_rank from placed p
      where p.new_tenant is not null and p.hold is null) l
    left join picture_queue.tenant w on w.name = l.new_tenant
  )
  select array_agg(row(
    p.i, p.job_id, p.job_type, p.queue, p.payload, p.priority, p.scheduled_for, p.max_attempts, p.user_id,
    p.generation_id, p.idempotency_key, p.timeout_seconds, p.backoff, p.expires_at, p.tags, p.metadata, p.limit_keys,
    p.batch_id, p.depends_on, p.on_parent_failure, p.unique_key, p.unique_states, p.unique_until, p.on_conflict,
    p.hold, p.new_tenant, p.new_rank,
    case when p.new_tenant is null
        then extract(epoch from greatest(p.scheduled_for, v_now))
          - coalesce(p.priority::double precision * p.aging_seconds, 0)
      when l.step is not null then l.last_turn + l.step * p.nth
      else 0 end)::picture_queue.new_job order by p.i)
  into v_jobs
  from numbered p
  left join lines l on l.queue = p.queue and l.new_tenant = p.new_tenant and l.new_rank = p.new_rank and p.hold is null;
  return v_jobs;
end
$$;

-- Writes the rows and the counts; returns the ids of those that no other job kept out.
create function picture_queue._insert_jobs(p_jobs picture_queue.new_job[]) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_made uuid[];
  v_due timestamptz;
begin
  with made as (
    insert into public.job_queue (id, queue, job_type, payload, priority, hold, max_attempts, timeout_seconds, backoff,
      scheduled_for, expires_at, tags, metadata, rank, turn, tenant, limit_keys, unique_key, unique_states,
      unique_until, batch_id, user_id, generation_id, idempotency_key, created_at, updated_at)
    select n.job_id, n.queue, n.job_type, n.payload, n.priority, n.hold, n.max_attempts, n.timeout_seconds, n.backoff,
      n.scheduled_for, n.expires_at, n.tags, n.metadata, n.rank, n.turn, n.tenant, n.limit_keys, n.unique_key,
      n.unique_states, n.unique_until, n.batch_id, n.user_id, n.generation_id, n.idempotency_key, v_now, v_now
    from unnest(p_jobs) n
    on conflict do nothing
    returning id, queue, hold, scheduled_for
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select m.queue, 'pending', m.hold, count(*), v_now from made m group by m.queue, m.hold
  )
  select array_agg(m.id), min(m.scheduled_for) filter (where m.hold = 'scheduled') into v_made, v_due from made m;
  if v_due < v_now + interval '2 seconds' then
    perform picture_queue._plan_maintenance(v_due);
  end if;
  return v_made;
end
$$;
