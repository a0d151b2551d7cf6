-- Returns true if a generation has a prediction that may still run at the provider, so that a cancelled job must be
-- claimed once more: its handler cancels the prediction, and deletes files that have no row. The provider has stopped
-- an older prediction.
create function picture_queue._has_live_prediction(p_generation_id uuid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return exists (
    select from picture_queue.prediction p
    where p.generation_id = p_generation_id and p.state in ('creating', 'created')
      and p.created_at > picture_queue._now() - interval '1 hour');
end
$$;

-- Changes the state of jobs that the caller has chosen and locked. The kind is the reason: promote (they are due),
-- sweep (their lease expired), abandon (they were not started before expires_at), unblock (their key has capacity),
-- wake (their event was sent). A job whose lease expired keeps its count of attempts, so that a job that kills each of
-- its workers fails in the end. The attempt is not counted if the worker has not confirmed the start, in the row or in
-- lease_extension. After 20 unconfirmed claims in a row it is counted, since the job may kill its workers before they
-- confirm. A job whose worker died after a cancel request is claimed once more if it has a prediction in progress, and
-- again while attempts are left. Returns the number of changed jobs.
create function picture_queue._change_state(p_kind text, p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changed_jobs picture_queue.changed_job[];
begin
  v_changed_jobs := picture_queue._transition((
    select array_agg(row(
      j.id,
      case p_kind
        when 'promote' then case j.hold when 'parked' then 'wake' else 'promote' end
        when 'sweep' then case
          -- A job that was cancelled while parked is claimed once more to undo its work. If no worker confirmed the
          -- start of that claim, release the job, so that it is claimed again, rather than cancel it.
          when j.cancel_requested_at is not null and (j.cancel_requested_at < j.started_at and start.is_unconfirmed) is not true
            then case
              when not picture_queue._has_live_prediction(j.generation_id) then 'cancel'
              when j.cancel_requested_at >= j.started_at then 'release'
              when j.attempt < j.max_attempts then 'expire' else 'cancel' end
          when start.is_unconfirmed then 'release'
          when j.attempt >= j.max_attempts then 'fail' else 'expire' end
        else p_kind
      end,
      null,
      (select s.payload from picture_queue.external_event s where p_kind = 'wake' and s.name = j.parked_on),
      case p_kind
        when 'sweep' then 'The worker sent no heartbeat before its lease ended.'
        when 'abandon' then 'It was not started before it expired.'
      end,
      null, null, null, null, p_kind = 'sweep')::picture_queue.change)
    from public.job_queue j
    cross join lateral (
      select j.unconfirmed_claims between 1 and 20 and not exists (
        select from picture_queue.lease_extension x where x.job_id = j.id and x.lease_id = j.lease_id) as is_unconfirmed
      offset 0) start
    where j.id = any (p_ids)));
  perform picture_queue._wake_workers(
    array(select distinct m.queue from unnest(v_changed_jobs) m where m.status = 'pending' and m.hold is null), 'enqueue');
  return coalesce(cardinality(v_changed_jobs), 0);
end
$$;
