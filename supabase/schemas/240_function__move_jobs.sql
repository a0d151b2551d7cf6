-- Moves jobs that the caller has chosen and locked. The kind is the reason: promote (they are due), sweep (their lease
-- expired), abandon (they were not started before expires_at), unblock (their key has capacity), wake (their event was
-- sent), purge (their queue is purged). An expired lease counts as an attempt, so that a job that kills its worker
-- ends. It does not count if the worker has not confirmed the start, in the row or in lease_extension. After 20 such
-- claims in a row it counts all the same, since the job may kill its workers before they confirm. Returns the number
-- of moved jobs.
create function picture_queue._move_jobs(p_kind text, p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_moved picture_queue.moved[];
begin
  v_moved := picture_queue._transition((
    select array_agg(row(
      j.id,
      case p_kind
        when 'promote' then case j.hold when 'parked' then 'wake' else 'promote' end
        when 'sweep' then case
          -- A job that was cancelled while parked is claimed once more to undo its work. If the start of that claim was
          -- not confirmed, the job is released, to be claimed again, rather than cancelled.
          when j.cancel_requested_at is not null and (j.cancel_requested_at < j.started_at and u.is_unstarted) is not true
            then 'cancel'
          when u.is_unstarted then 'release'
          when j.attempt >= j.max_attempts then 'fail' else 'expire' end
        when 'purge' then 'cancel'
        else p_kind
      end,
      null,
      (select s.payload from picture_queue.signal s where p_kind = 'wake' and s.name = j.parked_on),
      case p_kind
        when 'sweep' then 'The worker sent no heartbeat before its lease ended.'
        when 'abandon' then 'It was not started before it expired.'
        when 'purge' then 'The queue was purged.'
      end,
      null, null, null, null, p_kind = 'sweep')::picture_queue.change)
    from public.job_queue j
    cross join lateral (
      select j.unconfirmed_claims between 1 and 20 and not exists (
        select from picture_queue.lease_extension x where x.job_id = j.id and x.lease_id = j.lease_id) as is_unstarted
      offset 0) u
    where j.id = any (p_ids)));
  perform picture_queue._wake(
    array(select distinct m.queue from unnest(v_moved) m where m.status = 'pending' and m.hold is null), 'enqueue');
  return coalesce(cardinality(v_moved), 0);
end
$$;
