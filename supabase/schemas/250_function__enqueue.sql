-- Returns only the first of the jobs that share an id or a key. The next round of _enqueue treats the others as
-- duplicates of the first.
create function picture_queue._first_of_duplicates(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select f.n
    from (
      select n, n.i, row_number() over (partition by n.job_id order by n.i) as nth_id,
        row_number() over (
          partition by n.idempotency_key, n.job_type, n.user_id, case when n.idempotency_key is null then n.i end
          order by n.i) as nth_key,
        row_number() over (partition by coalesce(n.unique_key, n.i::text) order by n.i) as nth_unique
      from unnest(p_jobs) n
    ) f
    where greatest(f.nth_id, f.nth_key, f.nth_unique) = 1 order by f.i);
end
$$;

-- Enqueues jobs, all or none. Returns the id and the outcome of each, in the order of the call: created; existing (a
-- job with the same id, idempotency key or unique key exists); replaced or debounced. For a single job it sends an
-- event; for many it only wakes the workers of their queues. p_is_callback: the jobs are callbacks of batches. A
-- draining queue accepts them, and an unknown queue is created for them, whatever the setting unknown_queue.
create function picture_queue._enqueue(p_jobs jsonb, p_is_callback boolean default false) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_jobs picture_queue.new_job[];
  v_remaining picture_queue.new_job[];  -- jobs that are neither inserted nor found yet
  v_to_insert picture_queue.new_job[];  -- jobs to insert in this round; usually all remaining jobs
  v_is_plain boolean;  -- _read_jobs describes this and the next variable
  v_is_keyed boolean;
  v_existing jsonb := '{}'::jsonb;  -- by position in the call: id and outcome of the existing job
  v_has_duplicates boolean;
  v_remaining_before integer;
  v_failures integer := 0;
  v_table text;
  v_index text;
begin
  select c.jobs, c.is_plain, c.is_keyed into v_jobs, v_is_plain, v_is_keyed from picture_queue._check_jobs(p_jobs) c;
  if v_jobs is null then
    return '[]'::jsonb;
  elsif not v_is_plain then
    -- A repeated call returns its jobs, whatever the state of their queue, their parents and their batch.
    if v_is_keyed then
      v_existing := picture_queue._find_existing(v_jobs);
    end if;
    v_jobs := picture_queue._prepare_jobs(v_jobs, v_existing, p_is_callback);
  end if;
  v_remaining := case when v_existing = '{}' then v_jobs
    else array(select n from unnest(v_jobs) n where not v_existing ? n.i::text) end;
  if not v_is_keyed then
    -- No existing job can conflict, so do not use a subtransaction: a trigger of the project may enqueue 100,000 jobs
    -- one by one, and each subtransaction takes a transaction id.
    perform picture_queue._insert_jobs(v_remaining);
    v_remaining := '{}';
  end if;
  v_to_insert := v_remaining;
  v_has_duplicates := cardinality(v_remaining) > 1 and picture_queue._any_exist(v_remaining);
  while v_remaining <> '{}' loop
    if v_has_duplicates then
      -- The existing job may lose the unique key before it is read here. Then try to insert the new job again.
      v_remaining_before := cardinality(v_remaining);
      v_existing := v_existing || picture_queue._resolve_duplicates(v_remaining);
      v_remaining := array(select n from unnest(v_remaining) n where not v_existing ? n.i::text);
      v_failures := case when cardinality(v_remaining) < v_remaining_before then 0 else v_failures + 1 end;
      if v_failures > 5 then
        perform picture_queue._check_isolation();  -- a fixed snapshot never shows the duplicate
        perform picture_queue._raise_busy('other transactions create and end jobs with the same id or key');
      end if;
      v_to_insert := picture_queue._first_of_duplicates(v_remaining);
    end if;
    begin  -- not `on conflict`, which would make each enqueue a tenth slower
      perform picture_queue._insert_jobs(v_to_insert);
      v_remaining := array(select n from unnest(v_remaining) n where n.i not in (select o.i from unnest(v_to_insert) o));
      v_failures := 0;
    exception when unique_violation then
      get stacked diagnostics v_table = table_name, v_index = constraint_name;
      if v_table <> 'job_queue' or v_index not in ('job_queue_pkey', 'job_queue_idempotency', 'job_queue_unique') then
        raise;  -- a trigger or an index of the project caused it
      end if;
    end;
    v_has_duplicates := true;
  end loop;
  if cardinality(v_jobs) = 1 and v_existing = '{}' then
    perform picture_queue._emit(array[v_jobs[1].job_id]);
  end if;
  if not v_is_plain then
    update picture_queue.batch b set total = b.total + c.n
    from (
      select n.batch_id, count(*) as n from unnest(v_jobs) n
      where n.batch_id is not null and not v_existing ? n.i::text group by n.batch_id
    ) c
    where b.id = c.batch_id;
    if exists (select from unnest(v_jobs) n where n.hold = 'waiting' and not v_existing ? n.i::text) then
      perform picture_queue._link_parents(v_jobs, v_existing);
    end if;
  end if;
  if v_existing = '{}' then
    -- A conversion of rows takes half the time of jsonb_build_object.
    return to_jsonb(array(select m from (select n.job_id, 'created' as outcome from unnest(v_jobs) n) m));
  end if;
  return (
    select jsonb_agg(coalesce(v_existing -> n.i::text, jsonb_build_object('job_id', n.job_id, 'outcome', 'created')))
    from unnest(v_jobs) n);
end
$$;

-- Checks the queues, parents and batches of new jobs, creates missing queues, and gives each job its place in the
-- order of claims. Returns the jobs with rank, turn and hold. Jobs that exist already (p_existing) are not checked.
create function picture_queue._prepare_jobs(p_jobs picture_queue.new_job[], p_existing jsonb, p_is_callback boolean)
returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_new_jobs picture_queue.new_job[] := array(select n from unnest(p_jobs) n where not p_existing ? n.i::text);
  v_jobs picture_queue.new_job[] := array(
    select case when p_existing ? n.i::text then jsonb_populate_record(n, '{"depends_on": null, "batch_id": null}')
      else n end
    from unnest(p_jobs) n);
  v_queue_names text[] := array(select distinct n.queue from unnest(v_new_jobs) n order by n.queue);
  v_draining text := (select min(q.name) from picture_queue.queue q where q.name = any (v_queue_names) and q.draining);
  v_unknown text[] := array(
    select n from unnest(v_queue_names) n where not exists (select from picture_queue.queue q where q.name = n));
  v_batches uuid[] := array(select distinct n.batch_id from unnest(v_new_jobs) n where n.batch_id is not null);
  v_refused_batch record;
begin
  if v_draining is not null and not p_is_callback then
    perform picture_queue._raise_error('PQ_QUEUE_DRAINING', format('queue is %s', v_draining),
      'resume_queue() ends draining');
  elsif v_unknown <> '{}' and not p_is_callback and (select s.unknown_queue = 'refuse' from picture_queue.setting s) then
    perform picture_queue._raise_error('PQ_UNKNOWN_QUEUE', format('queue is %s', v_unknown[1]),
      'set_queue() creates a queue; list_queues() shows the existing queues');
  elsif v_unknown <> '{}' then
    begin
      insert into picture_queue.queue (name) select n from unnest(v_unknown) n on conflict do nothing;
    exception when lock_not_available or deadlock_detected or serialization_failure then
      perform picture_queue._translate_error(sqlstate, sqlerrm, 'another transaction is creating the same queue');
    end;
  end if;
  v_jobs := picture_queue._assign_order(picture_queue._check_parents(v_jobs));
  -- Lock the batches until the transaction ends. A finished batch accepts no jobs.
  if v_batches <> '{}' then
    perform from picture_queue.batch b where b.id = any (v_batches) order by b.id for update;
    select i.id, b.id is null as is_unknown into v_refused_batch
    from unnest(v_batches) as i (id)
    left join picture_queue.batch b on b.id = i.id
    where b.id is null or b.finished_at is not null
    order by i.id limit 1;
    if v_refused_batch.is_unknown then
      perform picture_queue._raise_error('PQ_UNKNOWN_BATCH', format('batch_id is %s', v_refused_batch.id));
    elsif found then
      perform picture_queue._raise_error('PQ_CONFLICT', format('batch %s has finished', v_refused_batch.id), 'start a new batch');
    end if;
  end if;
  return v_jobs;
end
$$;

-- Returns the unique key of a job: jobs with the same type, the same owner, and the same values of these keys of the
-- payload (null: of all keys) have the same unique key.
create function picture_queue._unique_key(p_job_type text, p_user_id uuid, p_payload jsonb, p_by text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_values jsonb := coalesce((select jsonb_object_agg(k, p_payload -> k) from unnest(p_by) k), p_payload, '{}');
begin
  if v_values::text ~ '[.][0-9]*0([^0-9]|$)' then
    v_values := picture_queue._trim_numbers(v_values);
  end if;
  return p_job_type || ':' || md5(coalesce(p_user_id::text, '') || v_values::text);
end
$$;

-- Returns the value without trailing zeros in its numbers: 1.0 and 1.00 become 1, since they are equal as jsonb, but
-- not as text.
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

-- Sets the rank and turn of new jobs, their place in the order of claims. The turn is the time at which a job is due,
-- so that a job scheduled for later comes after the jobs that are enqueued before that time. With aging, each point of
-- priority makes the turn earlier by aging_seconds. With fair share, the turn comes after the last turn of the tenant
-- (_last_turn).
create function picture_queue._assign_order(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return array(
    with placed as (
      select n.*, q.aging_seconds, case when q.aging_seconds is null then -n.priority else 0 end as new_rank,
        case when q.fair_share then coalesce(n.tenant, n.user_id::text, '') end as new_tenant
      from unnest(p_jobs) n
      left join picture_queue.queue q on q.name = n.queue
    ),
    tenants as (
      select l.queue, l.new_tenant, l.new_rank, 1 / coalesce(w.weight, 1) as step,
        picture_queue._last_turn(l.queue, l.new_tenant, l.new_rank, '{}') as last_turn
      from (select distinct p.queue, p.new_tenant, p.new_rank from placed p
        where p.new_tenant is not null and p.hold is null) l
      left join picture_queue.tenant w on w.name = l.new_tenant
    )
    -- Build a row instead of using jsonb_populate_record: jsonb would round the turn to the extra_float_digits of the
    -- caller.
    select row(p.i, p.job_id, p.job_type, p.queue, p.payload, p.priority, p.scheduled_for, p.max_attempts, p.user_id,
      p.generation_id, p.idempotency_key, p.timeout_seconds, p.backoff, p.expires_at, p.tags, p.metadata, p.limit_keys,
      p.batch_id, p.depends_on, p.on_parent_failure, p.unique_key, p.unique_states, p.unique_until, p.on_conflict, p.hold,
      coalesce(p.new_tenant, p.tenant), p.new_rank, case
      when p.new_tenant is null
        then extract(epoch from greatest(p.scheduled_for, v_now)) - coalesce(p.priority::double precision * p.aging_seconds, 0)
      when l.step is not null then l.last_turn
        + l.step * row_number() over (partition by p.queue, p.new_tenant, p.new_rank, p.hold order by p.i)
      else 0 end)::picture_queue.new_job
    from placed p
    left join tenants l
      on l.queue = p.queue and l.new_tenant = p.new_tenant and l.new_rank = p.new_rank and p.hold is null
    order by p.i);
end
$$;

-- Inserts the jobs, writes the counts, and wakes workers.
create function picture_queue._insert_jobs(p_jobs picture_queue.new_job[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_queues text[];
  v_due timestamptz;
  v_written bigint;
begin
  with inserted as (
    insert into public.job_queue (id, queue, job_type, payload, priority, hold, max_attempts, timeout_seconds, backoff,
      scheduled_for, expires_at, tags, metadata, rank, turn, tenant, limit_keys, unique_key, unique_states,
      unique_until, batch_id, user_id, generation_id, idempotency_key, created_at, updated_at)
    select n.job_id, n.queue, n.job_type, n.payload, n.priority, n.hold, n.max_attempts, n.timeout_seconds, n.backoff,
      n.scheduled_for, n.expires_at, n.tags, n.metadata, n.rank, n.turn, n.tenant, n.limit_keys, n.unique_key,
      n.unique_states, n.unique_until, n.batch_id, n.user_id, n.generation_id, n.idempotency_key, v_now, v_now
    from unnest(p_jobs) n
    returning queue, hold, scheduled_for
  ),
  total as (
    select m.queue, m.hold, count(*) as n, min(m.scheduled_for) as due from inserted m group by m.queue, m.hold
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select t.queue, 'pending', t.hold, t.n, v_now from total t
  )
  select array_agg(t.queue) filter (where t.hold is null), min(t.due) filter (where t.hold = 'scheduled'), sum(t.n)
  into v_queues, v_due, v_written from total t;
  if coalesce(v_written, 0) <> cardinality(p_jobs) then
    raise exception 'a trigger on public.job_queue prevented the insert of a job';
  end if;
  if v_due < v_now + interval '2 seconds' then  -- the next round begins within two seconds anyway
    perform picture_queue._wake_maintenance(v_due);
  end if;
  if v_queues is not null then
    perform picture_queue._wake_workers(v_queues, 'enqueue');
  end if;
end
$$;
