-- The validator of jobs and of the policies of job types. A job that it has accepted can be stored, and enqueued
-- later.

-- Returns the problem with the options of a job; null if there is none. It refuses a name in unique.by that is not a
-- key of the payload, such as a misspelt key, by which different jobs would be equal.
create function picture_queue._options_problem(p_options jsonb, p_payload jsonb, p_max_bytes integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_unique jsonb := p_options -> 'unique';
  v_by jsonb := nullif(v_unique -> 'by', 'null');
  v_states jsonb := nullif(v_unique -> 'states', 'null');
  v_payload jsonb := case jsonb_typeof(p_payload) when 'object' then p_payload else '{}' end;
  v_problem text := coalesce(
    picture_queue._fields_problem('options.', p_options, '{
      "delay_seconds": ["number", 0, 315360000],
      "timeout_seconds": ["number", 0.001, 31536000],
      "expires_at": ["time"],
      "expires_in_seconds": ["number", 0.001, 315360000],
      "backoff": ["object"],
      "tags": ["list", 20, 64],
      "metadata": ["object"],
      "tenant": ["text", 200],
      "limit_keys": ["list", 8, 200],
      "depends_on": ["uuids", 1000],
      "on_parent_failure": ["choice", "cancel", "fail", "run"],
      "batch_id": ["uuid"],
      "unique": ["object"]
    }'),
    picture_queue._fields_problem('options.backoff.', nullif(p_options -> 'backoff', 'null'), '{
      "policy": ["choice", "constant", "linear", "exponential"],
      "base_seconds": ["number", 0.001, 31536000],
      "cap_seconds": ["number", 0.001, 31536000],
      "jitter": ["number", 0, 1]
    }'),
    picture_queue._fields_problem('options.unique.', nullif(v_unique, 'null'), '{
      "by": ["list", 100, 1000],
      "period_seconds": ["number", 1, 31536000],
      "states": ["list", 5, 20],
      "on_conflict": ["choice", "ignore", "replace", "debounce"]
    }'),
    'options.metadata ' || picture_queue._json_problem(p_options -> 'metadata', p_max_bytes));
begin
  if v_problem is not null or not p_options ? 'unique' then
    return v_problem;
  end if;
  return case
    when v_by = '[]' then 'options.unique.by is []: name keys of the payload, or leave it out to compare all of it'
    when not v_payload ?& array(select jsonb_array_elements_text(v_by)) then (
      select format('options.unique.by has %s, which is not a key of the payload: name top-level keys%s',
        to_jsonb(left(k.name, 100)), case when v_payload ? k.top then format(', such as "%s"', left(k.top, 100)) end)
      from (select b.name, split_part(b.name, '.', 1) from jsonb_array_elements_text(v_by) as b (name)) as k (name, top)
      where not v_payload ? k.name limit 1)
    when not (v_states ? 'pending' and v_states <@ '["pending", "processing", "completed", "failed", "cancelled"]')
      then format('options.unique.states is %s: states are pending (always), processing, completed, failed, cancelled',
        v_states)
    -- A job that is not unique while it runs cannot be unique again afterwards, since an equal job may have been
    -- enqueued.
    when not v_states ? 'processing' and v_states ?| '{completed,failed,cancelled}'
      then format('options.unique.states is %s: to include a finished state, include processing', v_states)
  end;
end
$$;

-- Returns the jobs that a caller describes as JSON, with types and defaults. Refuses the first invalid job with an
-- error that names its position, the field and the value. p_name: the argument that describes the job (null: jobs).
-- p_first: the position of the first job in the call, if p_jobs is a part of the call.
create function picture_queue._check_jobs(
  p_jobs jsonb, p_name text default null, p_first integer default null,
  out jobs picture_queue.new_job[], out is_plain boolean, out is_keyed boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := case when jsonb_typeof(p_jobs) = 'array' then jsonb_array_length(p_jobs) end;
  v_bad integer;
  v_error text;
  v_job jsonb;
  v_limit integer;
begin
  if v_count is null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'jobs is not a list', 'pass a JSON array of objects');
  elsif v_count > 100000 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('jobs has %s entries, at most 100000 are possible', v_count), 'enqueue them with several calls');
  end if;
  begin
    select n.jobs, n.is_plain, n.is_keyed, n.bad into jobs, is_plain, is_keyed, v_bad from picture_queue._read_jobs(p_jobs) n;
    if v_bad is null then
      return;
    end if;
  exception when data_exception or program_limit_exceeded then  -- program_limit_exceeded: such as an array in an array
    v_error := sqlerrm;
    v_bad := 1;
  end;
  if v_error is not null and v_count > 1 then
    -- A value has the wrong type, but the error does not name the job: check each half.
    for v_half in 0..1 loop
      perform picture_queue._check_jobs(
        jsonb_path_query_array(p_jobs, '$[$from to $to]', jsonb_build_object(
          'from', v_half * (v_count / 2), 'to', case v_half when 0 then v_count / 2 else v_count end - 1)),
        p_name, coalesce(p_first, 0) + v_half * (v_count / 2));
    end loop;
  end if;
  v_job := p_jobs -> v_bad - 1;
  v_limit := (select s.max_payload_bytes from picture_queue.setting s);
  perform picture_queue._raise_problem(
    coalesce(p_name || ': ', case when v_count > 1 or p_first is not null
      then format('jobs[%s]: ', coalesce(p_first, 0) + v_bad - 1) end, '')
    || coalesce(
      case when jsonb_typeof(v_job) <> 'object' then 'a job must be an object'
        when not v_job ? 'job_type' then 'job_type is missing'
        when v_job -> 'job_type' = 'null' then 'job_type is null' end,
      picture_queue._fields_problem('', v_job, '{
        "job_type": ["name", 128, "_.:-"],
        "payload": ["object"],
        "priority": ["integer", -1000000000, 1000000000],
        "queue": ["name", 63, "_.-"],
        "scheduled_for": ["time"],
        "max_attempts": ["integer", 1, 1000],
        "user_id": ["uuid"],
        "idempotency_key": ["text", 255],
        "job_id": ["uuid"],
        "generation_id": ["uuid"],
        "options": ["object"]
      }'),
      picture_queue._options_problem(nullif(v_job -> 'options', 'null'), v_job -> 'payload', v_limit),
      'payload ' || picture_queue._json_problem(v_job -> 'payload', v_limit),
      case when v_job ->> 'scheduled_for' is not null and v_job #>> '{options,delay_seconds}' is not null
        then 'scheduled_for and options.delay_seconds are both given' end,
      (select format('the policy of job type %s names queue %s: name the queue of the job, or register the type again',
          t.name, to_jsonb(t.queue))
        from picture_queue.job_type t where t.name = v_job ->> 'job_type' and v_job ->> 'queue' is null and t.queue is not null),
      v_error, 'a value is not acceptable'));
end
$$;

-- Returns the jobs that a caller describes as JSON, with types and defaults. A job of a first-in, first-out queue gets
-- its rank and turn here, other jobs in _assign_order. is_plain: all jobs have a rank, and none has parents or a
-- batch. is_keyed: some have an id, an idempotency key or uniqueness from the caller. bad: the position of the first
-- invalid job. Only nested loops are allowed, since other joins would change the order of the call. For speed, fields
-- are read by `->>`, not by jsonb_to_recordset, and no regular expression has a count such as {0,127}.
create function picture_queue._read_jobs(
  p_jobs jsonb, out jobs picture_queue.new_job[], out is_plain boolean, out is_keyed boolean, out bad integer)
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_hashjoin = off set enable_mergejoin = off set enable_memoize = off
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_max_attempts integer;
  v_max_bytes integer;
  -- Most calls have jobs of one type, whose name is checked once.
  v_type text := substring(p_jobs #>> '{0,job_type}' from '^[A-Za-z0-9][A-Za-z0-9_.:-]*$');
begin
  select s.max_attempts, s.max_payload_bytes into v_max_attempts, v_max_bytes from picture_queue.setting s;
  -- e: the fields from the caller; t: the job type; q: the queue; o: the options; r: derived values.
  select array_agg(row(
      e.i, coalesce(e.job_id, gen_random_uuid()), e.job_type, coalesce(e.queue, t.queue, 'default'),
      coalesce(e.payload, '{}'), coalesce(e.priority, 0), r.run_at,
      coalesce(e.max_attempts, t.max_attempts, q.max_attempts, v_max_attempts), e.user_id, e.generation_id,
      e.idempotency_key, o.timeout_seconds, nullif(o.backoff, 'null'),
      coalesce(o.expires_at, v_now + make_interval(secs => o.expires_in_seconds)), o.tags,
      coalesce(nullif(o.metadata, 'null'), '{}'), o.limit_keys, o.batch_id, o.depends_on,
      coalesce(o.on_parent_failure, 'cancel'),
      case when o.states is not null then picture_queue._unique_key(e.job_type, e.user_id, e.payload, o.by) end,
      o.states, v_now + make_interval(secs => o.period_seconds), coalesce(o.on_conflict, 'ignore'),
      case when r.run_at > v_now then 'scheduled' end, o.tenant,
      case when r.has_rank then -coalesce(e.priority, 0) end, date_part('epoch', greatest(r.run_at, v_now))
    )::picture_queue.new_job),
    bool_and(r.has_rank and num_nulls(o.depends_on, o.batch_id) = 2),
    bool_or(num_nonnulls(e.job_id, e.idempotency_key, o.states) > 0),
    min(e.i) filter (where not coalesce(
      e.item - '{job_type,payload,priority,queue,scheduled_for,max_attempts,user_id,idempotency_key,job_id,
        generation_id,options}'::text[] = '{}'
      and (t.name is not null or length(e.job_type) <= 128
        and (e.job_type = v_type or e.job_type ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$'))
      and (q.name is not null
        or coalesce(e.queue, t.queue) ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' and length(coalesce(e.queue, t.queue)) <= 63)
      and (e.payload is null or jsonb_typeof(e.payload) = 'object'
        and (octet_length(e.payload::text) <= least(v_max_bytes, 200)
          or picture_queue._json_problem(e.payload, v_max_bytes) is null))
      and (num_nonnulls(e.priority, e.max_attempts, e.scheduled_for, e.idempotency_key, e.options) = 0
        or coalesce(e.priority between -1000000000 and 1000000000, true)
        and coalesce(e.max_attempts between 1 and 1000, true)
        and coalesce(e.scheduled_for between '1970-01-01' and '9999-01-01', true)
        and coalesce(jsonb_typeof(e.item -> 'scheduled_for') in ('string', 'null'), true)
        and (e.idempotency_key is null
          or length(e.idempotency_key) between 1 and 255 and jsonb_typeof(e.item -> 'idempotency_key') = 'string')
        and (o.delay_seconds is null or e.scheduled_for is null)
        and (coalesce(e.options in ('{}', 'null'), true)
          or picture_queue._options_problem(e.options, e.payload, v_max_bytes) is null)),
      false))
  into jobs, is_plain, is_keyed, bad
  from (
    select a.i, a.item, (a.item ->> 'job_id')::uuid as job_id, a.item ->> 'job_type' as job_type,
      a.item ->> 'queue' as queue, nullif(a.item -> 'payload', 'null') as payload,
      (a.item ->> 'priority')::integer as priority, (a.item ->> 'scheduled_for')::timestamptz as scheduled_for,
      (a.item ->> 'max_attempts')::integer as max_attempts, (a.item ->> 'user_id')::uuid as user_id,
      (a.item ->> 'generation_id')::uuid as generation_id, a.item ->> 'idempotency_key' as idempotency_key,
      a.item -> 'options' as options
    from jsonb_array_elements(p_jobs) with ordinality as a (item, i)
    offset 0
  ) e
  left join picture_queue.job_type t on t.name = e.job_type
  left join picture_queue.queue q on q.name = coalesce(e.queue, t.queue, 'default')
  -- With `offset 0` the options are read only for jobs that have some.
  left join lateral (
    select r.*, u.*
    from (select e.options as value where e.options not in ('{}', 'null') offset 0) g
    cross join lateral jsonb_to_record(g.value) as r (delay_seconds real, timeout_seconds real,
      expires_at timestamptz, expires_in_seconds real, backoff jsonb, tags text[], metadata jsonb, tenant text,
      limit_keys text[], depends_on uuid[], on_parent_failure text, batch_id uuid, "unique" jsonb)
    left join lateral (
      select k.by, k.period_seconds, coalesce(k.states, '{pending,processing}') as states, k.on_conflict
      from (select r."unique" as value where r."unique" <> 'null' offset 0) h
      cross join lateral jsonb_to_record(h.value)
        as k (by text[], period_seconds real, states text[], on_conflict text)) u on true) o on true
  cross join lateral (
    select coalesce(e.scheduled_for, v_now + make_interval(secs => o.delay_seconds)) as run_at,
      coalesce(q.aging_seconds is null and not (q.fair_share or q.draining), false) as has_rank) r;
end
$$;
