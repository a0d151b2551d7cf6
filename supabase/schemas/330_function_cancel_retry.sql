-- Cancels a job, for its owner or a service key. picture_queue.cancel_job checks the caller's right to the job.
create function public.cancel_job(job_id uuid, request_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.cancel_job(job_id, request_id) $$;
comment on function public.cancel_job is 'Cancels a pending job at once; asks a running one to stop.';

-- Makes a failed or cancelled job pending again, with one more attempt if it has none left. A job whose parents have
-- not finished waits for them; a job whose parent is still failed or cancelled is refused. A pending job stays
-- unchanged, so the call can be repeated.
create function public.retry_job(job_id uuid, request_id uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_answer jsonb := picture_queue._find_answer('retry_job', request_id::text);
  v_status text;
  v_parent record;
begin
  if v_answer is not null then
    return v_answer;
  end if;
  v_status := (picture_queue._lock_job(job_id, p_needs_lease => false)).status;
  if v_status = 'completed' then
    perform picture_queue._raise_error('PQ_FINISHED_JOB', format('job %s is completed', job_id),
      'only a failed or cancelled job can be retried');
  elsif v_status = 'processing' then
    perform picture_queue._raise_error('PQ_RUNNING_JOB', format('job %s is processing', job_id));
  end if;
  select f.* into v_parent from picture_queue._failed_parents(array[job_id]) f limit 1;
  if found and v_status <> 'pending' then
    perform picture_queue._raise_error('PQ_CONFLICT',
      format('job %s depends on job %s, which is %s', job_id, v_parent.parent_id, v_parent.status),
      format('retry job %s first', v_parent.parent_id));
  elsif v_status <> 'pending' and picture_queue._retry_jobs(array[job_id]) = 0 then
    perform picture_queue._raise_error('PQ_CONFLICT', format('the unique key of job %s belongs to another job now', job_id),
      'cancel the other job first');
  end if;
  perform picture_queue._check_deferred_constraints();
  return picture_queue._store_answer('retry_job', request_id::text,
    jsonb_build_object('job_id', job_id, 'status', 'pending'));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', job_id));
  raise;
end
$$;
comment on function public.retry_job is 'Makes a failed or cancelled job pending again.';
