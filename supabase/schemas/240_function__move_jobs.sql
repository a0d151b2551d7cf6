-- Moves jobs, each by itself. The kind says why: promote (they are due), sweep (their lease expired), expire (they were
-- not started before expires_at), unblock (their key has capacity), wake (their event came), purge (their queue is
-- purged). Each job is checked again under its lock; a job that somebody has locked is left as it is. An expired lease
-- counts as an attempt, so that a job that kills its worker ends. It does not where the worker was to confirm the start
-- and has not: the job had not started. After 20 such claims in a row it does, since the job may be what kills its
-- workers before they can say anything. Returns how many jobs moved.
create function picture_queue._move_jobs(p_kind text, p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_moved picture_queue.moved[];
begin
  v_moved := picture_queue._transition((
    select array_agg(row(
      j.id,
      case p_kind
        when 'promote' then case j.hold when 'parked' then 'wake' else 'promote' end
        when 'sweep' then case when j.cancel_requested_at is not null then 'cancel' when j.unconfirmed_claims between 1 and 20 then 'release'
          when j.attempt >= j.max_attempts then 'fail' else 'expire' end
        when 'expire' then 'abandon'
        when 'purge' then 'cancel'
        else p_kind
      end,
      null,
      (select s.payload from picture_queue.signal s where p_kind = 'wake' and s.name = j.parked_on),
      case p_kind
        when 'sweep' then 'The worker was not heard of again before its lease ended.'
        when 'expire' then 'It was not started before it expired.'
        when 'purge' then 'The queue was purged.'
      end,
      null, null, null, null, p_kind = 'sweep')::picture_queue.change)
    from (
      select j.id, j.hold, j.attempt, j.max_attempts, j.cancel_requested_at, j.parked_on,
        -- A start may be confirmed beside the row (_heartbeat).
        case when not exists (select from picture_queue.lease_extension x where x.job_id = j.id and x.lease_id = j.lease_id)
          then j.unconfirmed_claims end as unconfirmed_claims
      from public.job_queue j
      where j.id = any (p_ids) and case p_kind
        when 'promote' then j.hold in ('scheduled', 'parked') and j.scheduled_for <= v_now
        when 'sweep' then j.status = 'processing' and j.hold is null and j.lease_expires_at <= v_now and not exists (
          select from picture_queue.lease_extension x
          where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > v_now)
        when 'expire' then j.status = 'pending' and j.expires_at <= v_now
        when 'unblock' then j.hold = 'blocked'
        when 'wake' then j.hold = 'parked' and exists (select from picture_queue.signal s where s.name = j.parked_on)
        when 'purge' then j.status = 'pending' end
      order by j.id for update skip locked
    ) j));
  perform picture_queue._wake(
    array(select distinct m.queue from unnest(v_moved) m where m.status = 'pending' and m.hold is null), 'enqueue');
  return coalesce(cardinality(v_moved), 0);
end
$$;
