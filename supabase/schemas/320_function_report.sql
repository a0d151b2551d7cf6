-- Extends leases; returns the jobs to cancel, the jobs whose lease is lost, and the busy jobs, whose lease was not
-- extended because another transaction is extending it or the time was used up. If a list of leases cannot be extended
-- together, each half is tried, down to the lease that causes the error. A lease whose row cannot be written is
-- extended in lease_extension; after half a second, all remaining leases are. A malformed entry counts as lost. If no
-- lease can be extended, the call raises PQ_BUSY, or PQ_INVALID_ARGUMENT if all entries are malformed.
create function public.heartbeat_jobs(worker text, leases jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_lists jsonb[] := array[leases];  -- the lists that are not tried yet
  v_list jsonb;
  v_list_length integer;
  v_malformed jsonb := '[]'::jsonb;  -- the job ids of malformed entries
  v_busy jsonb := '[]'::jsonb;  -- the ids of busy jobs
  v_problem text;
  v_list_answer jsonb;
  v_answer jsonb;
  v_started_at timestamptz := clock_timestamp();
begin
  perform picture_queue._check_isolation();
  perform set_config('picture_queue.is_worker', 'true', true);  -- read by _check_deferred_constraints
  perform picture_queue._raise_problem(
    case when jsonb_typeof(leases) is distinct from 'array' then 'leases is not a list of {job_id, lease_id}' end);
  while v_lists <> '{}' and clock_timestamp() < v_started_at + interval '2 seconds' loop
    v_list := v_lists[1];
    v_lists := v_lists[2:];
    v_list_length := jsonb_array_length(v_list);
    begin
      begin
        v_list_answer := picture_queue._heartbeat(worker, v_list, clock_timestamp() > v_started_at + interval '0.5 seconds');
      exception when others then  -- any error, since a trigger of the project may raise one for one of the jobs
        if v_list_length > 1 then
          v_lists := array[
            jsonb_path_query_array(v_list, '$[0 to $n]', jsonb_build_object('n', v_list_length / 2 - 1)),
            jsonb_path_query_array(v_list, '$[$n to last]', jsonb_build_object('n', v_list_length / 2))] || v_lists;
          continue;
        end if;
        v_list_answer := picture_queue._heartbeat(worker, v_list, true);
      end;
      select jsonb_object_agg(k, coalesce(v_answer -> k, '[]') || coalesce(v_list_answer -> k, '[]')) into v_answer
      from unnest('{cancel,lost,lost_leases}'::text[]) k;
    exception
      when data_exception then
        v_malformed := v_malformed || jsonb_build_array(v_list #> '{0,job_id}');
        v_problem := sqlerrm;
      when lock_not_available then
        v_busy := v_busy || jsonb_build_array(v_list #> '{0,job_id}');  -- another heartbeat is extending this lease
    end;
  end loop;
  foreach v_list in array v_lists loop
    v_busy := v_busy || jsonb_path_query_array(v_list, 'lax $[*].job_id');
  end loop;
  if v_answer is null then
    perform picture_queue._raise_problem(v_problem, 'leases is a list of {job_id, lease_id}');
    return picture_queue._raise_busy('another transaction has locked the leases or the table of jobs');
  end if;
  v_answer := v_answer || jsonb_build_object('lost', v_answer -> 'lost' || v_malformed, 'busy', v_busy);
  -- lost_leases has entries only if the call names two leases of a job; see _heartbeat. An empty lost_leases or busy is
  -- left out.
  return v_answer - array(select k from unnest('{lost_leases,busy}'::text[]) k where v_answer -> k = '[]');
end
$$;
comment on function public.heartbeat_jobs is
  'Extends leases; returns the jobs to cancel, the lost jobs, and the jobs whose lease was not extended (busy).';

-- Writes the progress of a job under its lease. It sends at most two progress events per job and second, but always
-- those for 0 and 100. It waits for a locked row for at most 10 milliseconds, since a waiting call occupies a
-- connection of the worker or of the API that other calls need.
create function public.report_progress(job_id uuid, lease_id uuid, progress integer, message text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_job record;
  v_announce boolean;
begin
  perform picture_queue._raise_problem(
    case when coalesce(progress, -1) not between 0 and 100 then format('progress is %s, not 0 to 100', progress) end, 'pass percent');
  v_job := picture_queue._lock_job(job_id, lease_id);
  v_announce := progress in (0, 100)
    or coalesce(v_job.progress_event_at < v_now - interval '0.5 seconds', true);
  update public.job_queue j set
    progress = report_progress.progress,
    message = left(report_progress.message, 500),
    unconfirmed_claims = 0,
    version = j.version + 1,
    updated_at = v_now,
    progress_event_at = case when v_announce then v_now else j.progress_event_at end
  where j.id = job_id
  returning * into v_job;
  if v_announce and exists (select from picture_queue.queue q where q.name = v_job.queue and q.events = 'progress') then
    perform picture_queue._emit(array[job_id]);
  end if;
  perform picture_queue._check_deferred_constraints();
  return jsonb_build_object('cancel_requested', v_job.cancel_requested_at is not null);
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', job_id));
  raise;
end
$$;
comment on function public.report_progress is 'Writes the progress of a job, in percent, under its lease.';

-- Writes the outcomes of attempts and, in the same round trip, claims the next jobs if claim is given. If the outcomes
-- cannot be written together (an outcome is malformed, or its job is locked for longer than lock_timeout), they are
-- written one by one, so that this outcome does not delay the others. If the report has a single outcome, a locked job
-- raises PQ_BUSY, and a malformed value PQ_INVALID_ARGUMENT. After any other error, nothing is written for the job, and
-- the answer for the job is "refused". An error of the claim does not undo the report: claim_error has its text.
create function public.report_jobs(outcomes jsonb, claim jsonb default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '300ms'
as $$
declare
  v_outcomes jsonb;
  v_jobs jsonb := '[]'::jsonb;
  v_error text;
  v_detail text;
begin
  perform picture_queue._check_isolation();
  perform set_config('picture_queue.is_worker', 'true', true);  -- read by _check_deferred_constraints
  begin
    v_outcomes := picture_queue._report(outcomes);
  exception when others then
    if coalesce(jsonb_array_length(case jsonb_typeof(outcomes) when 'array' then outcomes end), 0) < 2 then
      if picture_queue._is_transient(sqlstate) then
        perform picture_queue._raise_busy();
      elsif sqlstate like 'PT%' then
        raise;
      end if;
    end if;
    v_outcomes := picture_queue._report_each(outcomes);
  end;
  if jsonb_typeof(claim) <> 'null' then
    begin
      perform picture_queue._raise_problem(case when jsonb_typeof(claim) <> 'object' then 'claim is not an object' end);
      select public.claim_jobs(
        c.worker, c.queues, c.job_types, c.max_jobs, c.lease_seconds, c.request_id, c.weights, c.confirms_start)
      into v_jobs
      from jsonb_to_record(claim) as c (worker text, queues text[], job_types text[], max_jobs integer,
        lease_seconds real, request_id uuid, weights real[], confirms_start boolean);
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      -- An error without one of our codes means that a parameter has the wrong type.
      v_error := case when sqlstate not like 'PT%' then 'PQ_INVALID_ARGUMENT: claim: ' else '' end
        || concat_ws(': ', sqlerrm, nullif(v_detail, ''));
    end;
  end if;
  return jsonb_build_object('outcomes', v_outcomes, 'jobs', v_jobs)
    || jsonb_strip_nulls(jsonb_build_object('claim_error', v_error));
end
$$;
comment on function public.report_jobs is
  'Writes the outcomes of attempts, many at a time, and may claim the next jobs.';

-- Ends one attempt and returns the new status of the job: if error is null, the job is completed; otherwise it is
-- retried or failed. Only a legacy lease, which claim_next_job grants, may be ended without its lease_id.
create function public.complete_job(
  job_id uuid, result jsonb default null, error text default null, lease_id uuid default null)
returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_outcome jsonb;
begin
  v_job := picture_queue._lock_job(job_id, p_needs_lease => false);
  if lease_id is null and not (v_job.lease_is_legacy and v_job.lease_id is not null) then
    perform picture_queue._raise_error('PQ_STALE_LEASE', format('job %s was not claimed by claim_next_job', job_id), 'pass its lease_id');
  end if;
  v_outcome := picture_queue._report(jsonb_build_array(jsonb_build_object(
    'job_id', job_id, 'lease_id', coalesce(lease_id, v_job.lease_id), 'result', result, 'error', error,
    'outcome', case when error is null then 'completed' else 'failed' end))) -> 0;
  if v_outcome ->> 'outcome' = 'stale' then
    perform picture_queue._raise_error('PQ_STALE_LEASE', format('job %s is %s', job_id, v_job.status));
  end if;
  return v_outcome ->> 'status';
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', job_id));
  raise;
end
$$;
comment on function public.complete_job is 'Ends one attempt: completed, or retried or failed when error is given.';
