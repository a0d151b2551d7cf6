-- Owners and service keys. The rights are in picture_queue.cancel_job, which knows the caller.
create function public.cancel_job(job_id uuid) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.cancel_job(job_id) $$;
comment on function public.cancel_job is 'Cancels a pending job at once; asks a running one to stop.';

create function public.retry_job(job_id uuid, request_id uuid default null) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(picture_queue._first_answer('retry_job', request_id::text),
    picture_queue._keep_answer('retry_job', request_id::text, picture_queue._retry_job(job_id)))
$$;
comment on function public.retry_job is 'Makes a failed or cancelled job pending again.';
