-- The job, locked; refuses when there is none.
create function picture_queue._locked_job(p_job_id uuid) returns public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_job public.job_queue;
begin
  select * into v_job from public.job_queue where id = p_job_id for update;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  end if;
  return v_job;
end
$$;

-- The job under this lease, locked; refuses when the lease ended.
create function picture_queue._leased(p_job_id uuid, p_lease_id uuid) returns public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._locked_job(p_job_id);
begin
  if v_job.lease_expires_at is null or v_job.lease_id is distinct from p_lease_id then
    perform picture_queue._refuse('PQ_STALE_LEASE',
      format('job %s is %s and its lease is not %s', p_job_id, v_job.status, p_lease_id),
      'stop working on this job; whoever holds it now goes on');
  end if;
  return v_job;
end
$$;

-- Prolongs the leases that still hold. Answers the jobs to cancel, and those whose lease is lost.
create function picture_queue._heartbeat(p_worker text, p_leases jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_answer jsonb;
begin
  perform from public.job_queue
  where id in (select (l.item ->> 'job_id')::uuid from jsonb_array_elements(p_leases) as l (item))
  order by id for update;
  with held as (
    update public.job_queue j set lease_expires_at = v_now + make_interval(secs => j.lease_seconds)
    from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
    where j.id = l.job_id and j.lease_id = l.lease_id and j.status = 'processing' and j.hold is null
    returning j.id, j.cancel_requested_at
  )
  select jsonb_build_object(
    'cancel', coalesce(jsonb_agg(l.job_id) filter (where h.cancel_requested_at is not null), '[]'),
    'lost', coalesce(jsonb_agg(l.job_id) filter (where h.id is null), '[]'))
  into v_answer
  from jsonb_to_recordset(p_leases) as l (job_id uuid)
  left join held h on h.id = l.job_id;
  update picture_queue.worker set seen_at = v_now where name = p_worker;
  return v_answer;
end
$$;

-- Writes the progress of a job under its lease. At most two progress events a second and job go out;
-- 0 and 100 always do. The row has the newest value in any case.
create function picture_queue._report_progress(p_job_id uuid, p_lease_id uuid, p_progress integer, p_message text)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_job public.job_queue;
  v_announce boolean;
begin
  if p_progress is null or p_progress not between 0 and 100 then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('progress is %s, not 0 to 100', p_progress), 'pass percent');
  end if;
  v_job := picture_queue._leased(p_job_id, p_lease_id);
  v_announce := p_progress in (0, 100)
    or coalesce(v_job.progress_event_at < v_now - interval '0.5 seconds', true);
  update public.job_queue set
    progress = p_progress,
    message = left(p_message, 500),
    version = version + 1,
    progress_event_at = case when v_announce then v_now else progress_event_at end
  where id = p_job_id
  returning * into v_job;
  if v_announce and exists (select from picture_queue.queue q where q.name = v_job.queue and q.events = 'progress') then
    perform picture_queue._emit(array[v_job]);
  end if;
  return jsonb_build_object('cancel_requested', v_job.cancel_requested_at is not null);
end
$$;
