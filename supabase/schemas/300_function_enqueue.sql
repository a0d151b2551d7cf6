-- Writes one job and returns its id. With idempotency_key, or with a job_id made by the caller, the
-- call can be repeated: it returns the job that is already there.
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
language plpgsql security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
  v_id uuid := case
    when num_nonnulls(scheduled_for, max_attempts, idempotency_key) = 0 and coalesce(options, '{}') = '{}'
    then picture_queue._enqueue_one(job_type, payload, priority, queue, user_id, job_id) end;
begin
  if v_id is null then
    v_id := (picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
      'job_type', job_type, 'payload', payload, 'priority', priority, 'queue', queue, 'scheduled_for', scheduled_for,
      'max_attempts', max_attempts, 'user_id', user_id, 'idempotency_key', idempotency_key, 'job_id', job_id,
      'options', options))) #>> '{0,job_id}')::uuid;
  end if;
  return v_id;
end
$$;
comment on function public.enqueue_job is 'Writes one job and returns its id.';

-- Writes many jobs, all or none; answers id and outcome of each.
create function public.enqueue_jobs(jobs jsonb) returns jsonb
language plpgsql security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
begin
  return picture_queue._enqueue(jobs);
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', 'two bulk enqueues share ids or keys', 'repeat the call');
  return null;
end
$$;
comment on function public.enqueue_jobs is 'Writes many jobs in one call; answers id and outcome of each.';
