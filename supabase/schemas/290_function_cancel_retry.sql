-- Cancels a job of the caller's: at once while it is pending; a running one is asked to stop (its
-- worker hears with the next heartbeat); a parked one is claimed once more so that its handler can
-- undo what it started. Cancelling twice is the same as once.
create function picture_queue.cancel_job(p_job_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job public.job_queue;
begin
  perform picture_queue._check_isolation();
  select * into v_job from public.job_queue
  where id = p_job_id and (picture_queue._is_service() or user_id = picture_queue._caller_id()) for update;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  elsif v_job.status in ('completed', 'failed') then
    perform picture_queue._refuse('PQ_FINISHED_JOB', format('job %s is %s already', p_job_id, v_job.status));
  elsif v_job.status <> 'cancelled' and v_job.cancel_requested_at is null then
    perform picture_queue._cancel_jobs(array[p_job_id]);
    perform picture_queue._fire_deferred();
    select * into v_job from public.job_queue where id = p_job_id;
  end if;
  return jsonb_build_object('job_id', v_job.id, 'status', v_job.status,
    'cancel_requested', v_job.cancel_requested_at is not null);
exception when others then
  if sqlstate like 'PT4%' then
    raise;
  end if;
  return picture_queue._refuse_change(p_job_id, sqlstate, sqlerrm);
end
$$;

-- Between a job that parks on an event and the sender of that event: whoever comes second sees what
-- the first has done.
create function picture_queue._lock_events(p_events text[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select pg_catalog.pg_advisory_xact_lock(1903326070, h.hash)
  from (select distinct pg_catalog.hashtext(e) & 1023 as hash from unnest(p_events) e order by hash offset 0) h
$$;

-- Wakes the jobs parked on these events, if the events are there. An event is kept until nobody waits for it any more:
-- maintenance wakes those beyond the first thousand, and those that somebody has locked or whose change fails. Returns
-- how many jobs woke.
create function picture_queue._wake_parked(p_events text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_next timestamptz := v_now + interval '0.2 seconds';
  v_events text[] := array(
    select s.name from picture_queue.signal s where s.name = any (p_events) order by s.name for update skip locked);
  v_woken integer;
begin
  if v_events = '{}' then
    return 0;
  end if;
  update picture_queue.signal s set look_at = v_next
  where s.name = any (v_events) and (
    select true from public.job_queue j where j.hold = 'parked' and j.parked_on = s.name limit 1);
  v_woken := picture_queue._isolate('wake', array(
    select j.id::text from public.job_queue j
    where j.hold = 'parked' and j.parked_on = any (v_events) and j.id::text not in (select picture_queue._failing('wake'))
    limit 1000 for update skip locked), 1000);
  delete from picture_queue.signal s
  where s.name = any (v_events) and s.look_at is not null and (
    select true from public.job_queue j where j.hold = 'parked' and j.parked_on = s.name limit 1) is null;
  if exists (select from picture_queue.signal s where s.name = any (v_events) and s.look_at is not null) then
    perform picture_queue._plan_maintenance(v_next);
  end if;
  return v_woken;
end
$$;
