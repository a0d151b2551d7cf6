-- Returns whether the project may have changed job_queue so that an insert can be refused: it has a rule or check
-- constraint; more than our 14 indexes, 49 columns or 18 not-null constraints; or a column whose type is defined by
-- the project (its oid is at least 16384) or has a length.
create function picture_queue._has_project_constraints() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return (select c.relhasrules or c.relchecks > 0 from pg_catalog.pg_class c where c.oid = 'public.job_queue'::regclass)
    or (select count(*) > 14 from pg_catalog.pg_index i where i.indrelid = 'public.job_queue'::regclass)
    or (select count(*) filter (where a.attnotnull) > 18 or max(a.attnum) > 49 or max(a.atttypid) >= 16384
          or max(a.atttypmod) >= 0
        from pg_catalog.pg_attribute a where a.attrelid = 'public.job_queue'::regclass and a.attnum > 0);
end
$$;

-- Enqueues one job and returns its id. A call with an idempotency_key, or with a job_id, can be repeated: it returns
-- the id of the existing job.
create function public.enqueue_job(
  job_type text,
  payload jsonb default '{}',
  priority integer default 0,
  queue text default null,
  scheduled_for timestamptz default null,
  max_attempts integer default null,
  user_id uuid default null,
  idempotency_key text default null,
  job_id uuid default null,
  options jsonb default '{}')
returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := picture_queue._now();
  v_id uuid := coalesce(job_id, gen_random_uuid());
  v_is_simple boolean := num_nonnulls(scheduled_for, max_attempts, idempotency_key) = 0 and coalesce(options, '{}') = '{}'
    and job_type ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$' and length(job_type) <= 128
    and jsonb_typeof(payload) = 'object' and priority between -1000000000 and 1000000000;
  v_queue text := queue;
  v_max_attempts integer;
  v_events text;
  v_has_idle_worker boolean;
  v_has_trigger boolean;
  v_may_raise boolean;
  v_is_new boolean := false;
  v_jobs jsonb;
begin
  -- Wait for table locks only here, before the insert: an exception handler around the insert would take a transaction
  -- id for each job.
  begin
    lock table public.job_queue, picture_queue.depth_change in row exclusive mode;
    if v_queue is null then
      v_queue := coalesce((select t.queue from picture_queue.job_type t where t.name = job_type), 'default');
    end if;
    -- Subselects instead of joins, and variables instead of a record: with so few rows, starting the plan takes most
    -- of the time.
    select coalesce(
        (select t.max_attempts from picture_queue.job_type t where t.name = job_type), q.max_attempts, s.max_attempts),
      q.events, (
        select true from picture_queue.worker w
        where w.idle and q.name = any (w.queues) and w.seen_at > v_now - interval '1 minute'
        order by w.seen_at desc limit 1),
      -- Whether there is an insert trigger (bit 4), such as that of a foreign key: it may change the row or refuse it.
      exists (select from pg_catalog.pg_trigger t where t.tgrelid = 'public.job_queue'::regclass and t.tgtype & 4 <> 0),
      job_id is not null or picture_queue._has_project_constraints()
    into v_max_attempts, v_events, v_has_idle_worker, v_has_trigger, v_may_raise
    from picture_queue.setting s
    left join picture_queue.queue q on v_is_simple and q.name = v_queue and not (q.draining or q.fair_share)
      and q.aging_seconds is null and (octet_length(payload::text) <= least(s.max_payload_bytes, 200)
        or picture_queue._json_problem(payload, s.max_payload_bytes) is null);
  exception when lock_not_available or deadlock_detected then
    perform picture_queue._raise_busy();
  end;
  -- The common case: a job without options for a first-in, first-out queue. This branch takes a third of the CPU time
  -- of _enqueue (94 instead of 324 µs), and accepts only jobs that _enqueue accepts.
  if v_events is not null and not v_has_trigger then
    if v_may_raise then
      begin
        insert into public.job_queue
          (id, queue, job_type, payload, priority, rank, turn, max_attempts, user_id, created_at, updated_at)
        values (v_id, v_queue, job_type, payload, priority, -priority, date_part('epoch', v_now), v_max_attempts, user_id, v_now, v_now);
        v_is_new := found;
      exception
        when lock_not_available or deadlock_detected then
          perform picture_queue._raise_busy('another transaction writes a job with the same id');
        when others then
          v_is_new := false;  -- the job exists, or the project refuses it: enqueue_jobs below answers
      end;
    else
      -- No subtransaction: a trigger of the project may enqueue 100,000 jobs one by one, and each subtransaction takes
      -- a transaction id.
      insert into public.job_queue
        (id, queue, job_type, payload, priority, rank, turn, max_attempts, user_id, created_at, updated_at)
      values (v_id, v_queue, job_type, payload, priority, -priority, date_part('epoch', v_now), v_max_attempts, user_id, v_now, v_now);
      v_is_new := found;
    end if;
    if v_is_new then
      insert into picture_queue.depth_change (queue, status, hold, n, at) values (v_queue, 'pending', null, 1, v_now);
      if v_events <> 'none' then
        perform picture_queue._emit(array[v_id]);
      end if;
      if v_has_idle_worker then
        perform picture_queue._wake_workers(array[v_queue], 'enqueue');
      end if;
      return v_id;
    end if;
  end if;
  v_jobs := jsonb_build_array(jsonb_build_object(
    'job_type', job_type, 'payload', payload, 'priority', priority, 'queue', queue, 'scheduled_for', scheduled_for,
    'max_attempts', max_attempts, 'user_id', user_id, 'idempotency_key', idempotency_key, 'job_id', job_id,
    'options', options));
  return (case when not (v_has_trigger or v_may_raise) and num_nonnulls(idempotency_key, nullif(options, '{}')) = 0
    then picture_queue._enqueue(v_jobs) else public.enqueue_jobs(v_jobs) end #>> '{0,job_id}')::uuid;
end
$$;
comment on function public.enqueue_job is 'Enqueues one job and returns its id.';

-- Enqueues many jobs, all or none, and returns the id and the outcome of each. A call that repeats a request_id
-- returns the answer of the first call.
create function public.enqueue_jobs(jobs jsonb, request_id uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan
as $$
begin
  if request_id is null then
    return picture_queue._enqueue(jobs);
  end if;
  return coalesce(picture_queue._find_answer('enqueue_jobs', request_id::text),
    picture_queue._store_answer('enqueue_jobs', request_id::text, picture_queue._enqueue(jobs)));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, 'another call needs some of the same ids, keys, batches or parents');
  raise;
end
$$;
comment on function public.enqueue_jobs is 'Enqueues many jobs in one call; returns the id and the outcome of each.';
