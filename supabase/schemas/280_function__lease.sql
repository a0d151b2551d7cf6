-- The job, locked; refuses when there is none.
create function picture_queue._locked_job(p_job_id uuid) returns public.job_queue
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.job_queue;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform picture_queue._check_isolation();
  end if;
  select * into v_job from public.job_queue where id = p_job_id for update;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  end if;
  return v_job;
end
$$;

-- The job under this lease, locked; refuses when the lease ended.
create function picture_queue._leased(p_job_id uuid, p_lease_id uuid) returns public.job_queue
language plpgsql set search_path = pg_catalog, pg_temp
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

-- Appends log lines of a job under its lease; the last 200 are kept.
create function picture_queue._log_job(p_job_id uuid, p_lease_id uuid, p_lines jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.job_queue := picture_queue._leased(p_job_id, p_lease_id);
begin
  if not picture_queue._is_list(p_lines) or jsonb_path_exists(p_lines,
      '$[*] ? (!(@.message.type() == "string") || exists(@.level ? (!(@ == "debug" || @ == "info" || @ == "warning" || @ == "error"))))')
  then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'lines is not a list of {level, message}',
      'levels are debug, info, warning and error');
  end if;
  insert into picture_queue.log (job_id, attempt, at, level, message)
  select p_job_id, v_job.attempt, coalesce(l.at, picture_queue._now()), coalesce(l.level, 'info'), left(l.message, 2000)
  from rows from (jsonb_to_recordset(p_lines) as (at timestamptz, level text, message text))
    with ordinality as l (at, level, message, i)
  where l.i > jsonb_array_length(p_lines) - 200
    -- Those that a call wrote whose answer was lost.
    and not exists (
      select from picture_queue.log o where o.job_id = p_job_id and o.at = l.at and o.message = left(l.message, 2000))
  order by l.i;
  delete from picture_queue.log l
  where l.job_id = p_job_id and l.id <= (
    select o.id from picture_queue.log o where o.job_id = p_job_id order by o.id desc offset 200 limit 1);
  return jsonb_build_object('kept', (select count(*) from picture_queue.log l where l.job_id = p_job_id));
end
$$;

-- Prolongs the leases that still hold. Answers the jobs to cancel, and those whose lease is lost. A job that was to
-- stop, or whose time is over, gets its grace and no more: then its lease ends at once, whatever its worker says.
-- One cancelled while parked has its grace from its last claim, which is to undo. It waits for nobody: where
-- somebody else has the row of a job locked, or it is not to be written (p_beside), the lease is prolonged beside it
-- (lease_extension).
create function picture_queue._heartbeat(p_worker text, p_leases jsonb, p_beside boolean default false) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_ids uuid[];
  v_free uuid[];
  v_answer jsonb;
begin
  v_ids := array(select (l.item ->> 'job_id')::uuid from jsonb_array_elements(p_leases) as l (item));
  v_free := case when p_beside then '{}' else
    array(select j.id from public.job_queue j where j.id = any (v_ids) order by j.id for update skip locked) end;
  with held as (
    select j.id, j.lease_id, j.cancel_requested_at, j.id = any (v_free) as is_free, least(
        v_now + make_interval(secs => j.lease_seconds),
        greatest(j.cancel_requested_at, case when j.cancel_requested_at is not null then j.started_at end)
          + make_interval(secs => s.cancel_grace_seconds),
        j.started_at + make_interval(secs => s.timeout_grace_seconds
          + coalesce(j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, s.timeout_seconds))) as lease_ends_at
    from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
    join public.job_queue j on j.id = l.job_id and j.lease_id = l.lease_id
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    where j.id = any (v_ids) and j.lease_expires_at is not null
  ),
  prolonged as (
    update public.job_queue j
    set lease_expires_at = greatest(h.lease_ends_at, v_now), updated_at = v_now
    from held h
    where j.id = any (v_free) and j.id = h.id
  ),
  beside as (
    insert into picture_queue.lease_extension as x (job_id, lease_id, lease_expires_at)
    select h.id, h.lease_id, h.lease_ends_at from held h where not h.is_free order by h.id
    on conflict (job_id) do update set lease_id = excluded.lease_id, lease_expires_at = excluded.lease_expires_at
  )
  select jsonb_build_object(
    'cancel', coalesce(jsonb_agg(l.job_id) filter (where h.cancel_requested_at is not null and h.lease_ends_at > v_now), '[]'),
    'lost', coalesce(jsonb_agg(l.job_id) filter (where h.id is null or h.lease_ends_at <= v_now), '[]'))
  into v_answer
  from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
  left join held h on h.id = l.job_id;
  -- What was prolonged beside a row ends with the lease in the row, which a cancel may have shortened.
  if pg_relation_size('picture_queue.lease_extension') > 0 then
    delete from picture_queue.lease_extension x where x.job_id = any (v_free);
  end if;
  update picture_queue.worker w set seen_at = v_now
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_worker for update skip locked));
  return v_answer;
end
$$;

-- Prolongs leases and, if that fails because of one job, prolongs them one by one: that of the job whose row cannot
-- be written is prolonged beside it.
create function picture_queue._heartbeat_isolated(p_worker text, p_leases jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_item jsonb;
  v_one jsonb;
  v_answer jsonb := '{"cancel": [], "lost": []}'::jsonb;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform picture_queue._check_isolation();
  end if;
  if not picture_queue._is_list(p_leases) then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'leases is not a list of {job_id, lease_id}');
  end if;
  begin
    perform l.job_id from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid);
  exception when data_exception then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', sqlerrm);
  end;
  begin
    return picture_queue._heartbeat(p_worker, p_leases);
  exception when others then
    null;  -- whatever it is: a trigger of the project may raise any error for one of the jobs
  end;
  for v_item in select e from jsonb_array_elements(p_leases) e loop
    begin
      v_one := picture_queue._heartbeat(p_worker, jsonb_build_array(v_item));
    exception when others then
      v_one := picture_queue._heartbeat(p_worker, jsonb_build_array(v_item), true);
    end;
    v_answer := jsonb_build_object('cancel', (v_answer -> 'cancel') || (v_one -> 'cancel'),
      'lost', (v_answer -> 'lost') || (v_one -> 'lost'));
  end loop;
  return v_answer;
end
$$;

-- Writes the progress of a job under its lease. At most two progress events a second and job go out;
-- 0 and 100 always do. The row has the newest value in any case.
create function picture_queue._report_progress(p_job_id uuid, p_lease_id uuid, p_progress integer, p_message text)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
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
    updated_at = v_now,
    progress_event_at = case when v_announce then v_now else progress_event_at end
  where id = p_job_id
  returning * into v_job;
  if v_announce and exists (select from picture_queue.queue q where q.name = v_job.queue and q.events = 'progress') then
    perform picture_queue._emit(array[p_job_id]);
  end if;
  return jsonb_build_object('cancel_requested', v_job.cancel_requested_at is not null);
end
$$;
