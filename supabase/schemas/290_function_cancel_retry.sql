-- Cancels a job of the caller: a pending job at once; a running job is asked to stop, which its worker learns with the
-- next heartbeat; a parked job is claimed once more, so that its handler can undo what it started. The call is
-- idempotent. A call that repeats a request id returns the answer of the first call, even if the job has ended since.
create function picture_queue.cancel_job(p_job_id uuid, p_request_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_request text := p_job_id || '/' || p_request_id;
  v_answer jsonb;
  v_changes boolean;
begin
  perform picture_queue._check_isolation();
  -- Set the parameter to false, since the session of a user may have set it to true.
  perform set_config('picture_queue.is_worker', 'false', true);  -- read by _check_deferred_constraints and _enqueue_callbacks
  select * into v_job from public.job_queue
  where id = p_job_id and (picture_queue._is_service() or user_id = picture_queue._caller_id()) for update;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  end if;
  v_answer := (select a.answer from picture_queue.answer a where a.call = 'cancel_job' and a.id = v_request);
  if v_answer is not null then
    return v_answer;
  elsif v_job.status in ('completed', 'failed') then
    perform picture_queue._raise_error('PQ_FINISHED_JOB', format('job %s is %s already', p_job_id, v_job.status));
  end if;
  v_changes := v_job.status <> 'cancelled' and v_job.cancel_requested_at is null;
  if v_changes then
    perform picture_queue._cancel_jobs(array[p_job_id]);
    perform picture_queue._check_deferred_constraints();
  end if;
  select jsonb_build_object('job_id', j.id, 'status', j.status, 'cancel_requested', j.cancel_requested_at is not null)
  into v_answer from public.job_queue j where j.id = p_job_id;
  -- Store the answer only if the call changed the job, so that repeated calls with new ids do not fill the table.
  insert into picture_queue.answer (call, id, answer, at)
  select 'cancel_job', v_request, v_answer, picture_queue._now() where v_changes and v_request is not null;
  return v_answer;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', p_job_id));
  raise;
end
$$;

-- Wakes the jobs that were parked on an event when it was sent. If there were none, the event is kept. The first later
-- call that finds a job parked on the event sets sent_at to the time of that call, and wakes the jobs. An event is
-- kept until all its jobs are awake: maintenance wakes the jobs that this call leaves because they are beyond the
-- first thousand, or locked, or because their change failed. A job that is woken and parks again waits for the next
-- event. Returns the number of woken jobs.
create function picture_queue._wake_parked(p_events text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_next_check_at timestamptz := v_now + interval '0.2 seconds';
  v_events text[] := array(
    select s.name from picture_queue.external_event s
    where s.name = any (p_events) order by s.name for update skip locked);
  v_woken integer;
begin
  if v_events = '{}' then
    return 0;
  end if;
  update picture_queue.external_event s
  set check_at = v_next_check_at, sent_at = case when s.check_at is null then v_now else s.sent_at end
  where s.name = any (v_events) and (
    select true from public.job_queue j where j.hold = 'parked' and j.parked_on = s.name limit 1);
  v_woken := picture_queue._run_isolated('wake', array(
    select j.id::text
    from picture_queue.external_event s
    cross join lateral (
      select p.id from public.job_queue p
      where p.hold = 'parked' and p.parked_on = s.name and p.parked_at <= s.sent_at
        and p.id::text not in (select picture_queue._failed_subjects('wake'))
      limit 1000 for update skip locked) j
    where s.name = any (v_events) limit 1000), 1000);
  delete from picture_queue.external_event s
  where s.name = any (v_events) and s.check_at is not null and (
    select true from public.job_queue j
    where j.hold = 'parked' and j.parked_on = s.name and j.parked_at <= s.sent_at limit 1) is null;
  if exists (select from picture_queue.external_event s where s.name = any (v_events) and s.check_at is not null) then
    perform picture_queue._wake_maintenance(v_next_check_at);
  end if;
  return v_woken;
end
$$;

-- Sends an external event, and returns the number of jobs that it woke. The caller has validated name and payload.
create function picture_queue._send_event(p_name text, p_payload jsonb) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- A report that parks a job on the event takes the same lock.
  perform pg_catalog.pg_advisory_xact_lock(1903326070, pg_catalog.hashtext(p_name) & 1023);
  insert into picture_queue.external_event as s (name, payload, sent_at)
  values (p_name, coalesce(p_payload, 'null'), picture_queue._now())
  on conflict on constraint external_event_pkey do update
  set payload = excluded.payload, sent_at = excluded.sent_at, check_at = null;
  return picture_queue._wake_parked(array[p_name]);
end
$$;
