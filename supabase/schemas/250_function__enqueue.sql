-- What is wrong with one item of a bulk enqueue: the field, the value and the rule; null if nothing.
create function picture_queue._job_problem(p_item jsonb) returns text
language sql stable set search_path = ''
as $$
  select case
    when jsonb_typeof(p_item) <> 'object' then 'a job must be an object'
    when not p_item ?& array['job_type'] then 'job_type is missing'
    when p_item ->> 'job_type' is null or p_item ->> 'job_type' !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'
      then format('job_type is %s', coalesce(p_item -> 'job_type', 'null'))
    when p_item ->> 'queue' !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then format('queue is %s', p_item -> 'queue')
    when jsonb_typeof(p_item -> 'payload') not in ('object', 'null')
      then format('payload is of type %s, not an object', jsonb_typeof(p_item -> 'payload'))
    when (p_item ->> 'max_attempts')::integer not between 1 and 1000
      then format('max_attempts is %s, not 1 to 1000', p_item ->> 'max_attempts')
    when (p_item ->> 'scheduled_for')::timestamptz not between '1970-01-01' and '9999-01-01'
      then format('scheduled_for is %s', p_item ->> 'scheduled_for')
    when length(p_item ->> 'idempotency_key') not between 1 and 255
      then format('idempotency_key has %s characters, not 1 to 255', length(p_item ->> 'idempotency_key'))
    when jsonb_typeof(p_item -> 'options') not in ('object', 'null') then 'options is not an object'
    else (
      select format('%s is not known', k) from jsonb_object_keys(p_item) k
      where k not in ('job_type', 'payload', 'priority', 'queue', 'scheduled_for', 'max_attempts', 'user_id',
        'idempotency_key', 'job_id', 'generation_id', 'options')
      union all
      select format('options.%s is not known', k)
      from jsonb_object_keys(coalesce(nullif(p_item -> 'options', 'null'), '{}')) k
      where k not in ('timeout_seconds')
      union all
      select format('options.timeout_seconds is %s, not 0.001 to 31536000', p_item #>> '{options,timeout_seconds}')
      where (p_item #>> '{options,timeout_seconds}')::numeric not between 0.001 and 31536000
      limit 1
    )
  end
$$;

-- Refuses the first item that is not acceptable, naming its place, the field and the value.
create function picture_queue._check_jobs(p_jobs jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
  v_limit integer := (select max_payload_bytes from picture_queue.setting);
  v_bad record;
begin
  if jsonb_typeof(p_jobs) is distinct from 'array' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'jobs is not a list', 'pass a JSON array of objects');
  end if;
  select p.problem, e.i into v_bad
  from jsonb_array_elements(p_jobs) with ordinality as e (item, i), picture_queue._job_problem(e.item) as p (problem)
  where p.problem is not null order by e.i limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      case when jsonb_array_length(p_jobs) > 1 then format('jobs[%s]: ', v_bad.i - 1) else '' end || v_bad.problem,
      'names are letters, digits and _ . - ; a payload is a JSON object');
  end if;
  select octet_length((e.item -> 'payload')::text) as bytes into v_bad
  from jsonb_array_elements(p_jobs) as e (item)
  where octet_length((e.item -> 'payload')::text) > v_limit limit 1;
  if found then
    perform picture_queue._refuse('PQ_TOO_LARGE',
      format('payload has %s bytes, the limit is %s', v_bad.bytes, v_limit),
      'store the data elsewhere, in Supabase Storage for example, and put its path into the payload');
  end if;
end
$$;

-- Writes jobs and answers, in the order asked: the id of each and whether it was created or existing
-- (same id, or same idempotency key for that type and owner). All or none. One job is announced; of
-- many, only the queues' workers hear.
create function picture_queue._enqueue(p_jobs jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_jobs jsonb;
  v_made public.job_queue[];
begin
  perform picture_queue._check_jobs(p_jobs);
  select coalesce(jsonb_agg(jsonb_strip_nulls(e.item - 'payload')
      || jsonb_build_object(
        'job_id', coalesce(e.item ->> 'job_id', gen_random_uuid()::text),
        'payload', coalesce(nullif(e.item -> 'payload', 'null'), '{}'),
        'queue', coalesce(e.item ->> 'queue', t.queue, 'default')) order by e.i), '[]')
  into v_jobs
  from jsonb_array_elements(p_jobs) with ordinality as e (item, i)
  left join picture_queue.job_type t on t.name = e.item ->> 'job_type';

  insert into picture_queue.queue (name)
  select distinct e.item ->> 'queue' as name from jsonb_array_elements(v_jobs) as e (item)
  where not exists (select from picture_queue.queue q where q.name = e.item ->> 'queue')
  order by name
  on conflict do nothing;

  with made as (
    insert into public.job_queue (id, queue, job_type, payload, priority, hold, max_attempts, timeout_seconds,
      scheduled_for, user_id, generation_id, idempotency_key, created_at, updated_at)
    select e.job_id, e.queue, e.job_type, e.payload, coalesce(e.priority, 0),
      case when e.scheduled_for > v_now then 'scheduled' end,
      coalesce(e.max_attempts, t.max_attempts, q.max_attempts, s.max_attempts),
      (e.options ->> 'timeout_seconds')::real, e.scheduled_for, e.user_id, e.generation_id, e.idempotency_key,
      v_now, v_now
    from rows from (jsonb_to_recordset(v_jobs) as (job_id uuid, queue text, job_type text, payload jsonb,
      priority integer, scheduled_for timestamptz, max_attempts integer, user_id uuid, generation_id uuid,
      idempotency_key text, options jsonb))
      with ordinality as e (job_id, queue, job_type, payload, priority, scheduled_for, max_attempts, user_id,
        generation_id, idempotency_key, options, i)
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = e.job_type
    left join picture_queue.queue q on q.name = e.queue
    order by e.i
    on conflict do nothing
    returning job_queue as job
  )
  select array_agg(m.job) into v_made from made m;

  if jsonb_array_length(v_jobs) = 1 then
    perform picture_queue._emit(v_made);
  end if;
  perform picture_queue._wake(
    (select array_agg(distinct m.queue) from unnest(v_made) m where m.hold is null), 'enqueue');
  return picture_queue._enqueued(v_jobs, v_made);
end
$$;

-- The answer of _enqueue: finds the jobs that were there before, and refuses an id that means
-- another job.
create function picture_queue._enqueued(p_jobs jsonb, p_made public.job_queue[]) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_answer jsonb;
  v_clash text;
begin
  with asked as (
    select (e.item ->> 'job_id')::uuid as id, e.item ->> 'job_type' as job_type, (e.item ->> 'user_id')::uuid as user_id,
      e.item ->> 'idempotency_key' as key, e.i
    from jsonb_array_elements(p_jobs) with ordinality as e (item, i)
  ),
  found as (
    select a.i, a.id as asked_id, m.id as made_id, x.id as same_id, k.id as same_key,
      (x.job_type, x.user_id) is distinct from (a.job_type, a.user_id) as differs
    from asked a
    left join unnest(p_made) m on m.id = a.id
    left join public.job_queue x on m.id is null and x.id = a.id
    left join public.job_queue k on m.id is null and x.id is null and a.key is not null
      and k.idempotency_key = a.key and k.job_type = a.job_type and k.user_id is not distinct from a.user_id
  )
  select
    jsonb_agg(jsonb_build_object(
      'job_id', coalesce(f.made_id, f.same_id, f.same_key),
      'outcome', case when f.made_id is null then 'existing' else 'created' end) order by f.i),
    min(f.asked_id::text) filter (where f.made_id is null and f.same_id is not null and f.differs)
  into v_answer, v_clash
  from found f;
  if v_clash is not null then
    perform picture_queue._refuse('PQ_CONFLICT', format('job_id %s is another job', v_clash), 'make a new uuid for each job');
  end if;
  return coalesce(v_answer, '[]');
end
$$;
