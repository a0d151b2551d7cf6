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
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_jobs jsonb := jsonb_build_array(jsonb_build_object(
    'job_type', job_type, 'payload', payload, 'priority', priority, 'queue', queue, 'scheduled_for', scheduled_for,
    'max_attempts', max_attempts, 'user_id', user_id, 'idempotency_key', idempotency_key, 'job_id', job_id,
    'options', options));
begin
  if num_nonnulls(job_id, idempotency_key, nullif(options, '{}')) = 0 then
    -- It waits for nobody, so it needs no subtransaction: a trigger may enqueue 100,000 jobs in one transaction.
    return (picture_queue._enqueue(v_jobs) #>> '{0,job_id}')::uuid;
  end if;
  return (public.enqueue_jobs(v_jobs) #>> '{0,job_id}')::uuid;
end
$$;
comment on function public.enqueue_job is 'Writes one job and returns its id.';

-- Writes many jobs, all or none; answers id and outcome of each.
create function public.enqueue_jobs(jobs jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
begin
  return picture_queue._enqueue(jobs);
exception
  when deadlock_detected then
    perform picture_queue._refuse('PQ_BUSY', 'another call needs some of the same ids, keys or parents',
      'repeat the call');
    return null;
end
$$;
comment on function public.enqueue_jobs is 'Writes many jobs in one call; answers id and outcome of each.';
