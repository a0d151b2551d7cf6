-- Duplicates: new jobs with the id or a key of an existing job.

-- Returns the existing jobs that have the id or the idempotency key of a new job: an object of answers by position in
-- the call. Each search reads one index entry, even if jobs of other types or users have the same key.
create function picture_queue._find_existing(p_jobs picture_queue.new_job[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set plan_cache_mode = force_generic_plan
as $$
declare
  v_existing jsonb;
  v_conflicting uuid;
begin
  select coalesce(jsonb_object_agg(f.i, jsonb_build_object('job_id', f.id, 'outcome', 'existing')), '{}'),
    (array_agg(f.id) filter (where f.is_other))[1]
  into v_existing, v_conflicting
  from (
    select n.i, coalesce(by_id.id, by_key.id) as id,
      by_id.id is not null and (by_id.job_type, by_id.user_id) is distinct from (n.job_type, n.user_id) as is_other
    from unnest(p_jobs) n
    left join public.job_queue by_id on by_id.id = n.job_id
    left join lateral (
      select j.id from public.job_queue j
      where j.idempotency_key = n.idempotency_key and j.job_type = n.job_type and j.user_id = n.user_id
      union all
      select j.id from public.job_queue j
      where n.user_id is null and j.user_id is null
        and j.idempotency_key = n.idempotency_key and j.job_type = n.job_type
    ) by_key on by_id.id is null
    where coalesce(by_id.id, by_key.id) is not null
  ) f;
  if v_conflicting is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', format('job_id %s is another job', v_conflicting),
      'make a new uuid for each job');
  end if;
  return v_existing;
end
$$;

-- Returns whether an id or a key of new jobs is in use. This check is cheap. Without it, one duplicate among many jobs
-- would make the insert fail, and all rows would be inserted twice.
create function picture_queue._any_exist(p_jobs picture_queue.new_job[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
set plan_cache_mode = force_generic_plan
as $$
declare
  v_ids uuid[];
  v_keys text[];
  v_unique text[];
begin
  select array_agg(n.job_id), array_agg(n.idempotency_key) filter (where n.idempotency_key is not null),
    array_agg(n.unique_key) filter (where n.unique_key is not null)
  into v_ids, v_keys, v_unique
  from unnest(p_jobs) n;
  return exists (select from public.job_queue j where j.id = any (v_ids))
    or v_keys is not null and exists (select from public.job_queue j where j.idempotency_key = any (v_keys))
    or v_unique is not null
      and exists (select from public.job_queue j where j.unique_key = any (v_unique) and j.status = any (j.unique_states));
end
$$;

-- Returns answers, by position in the call, for new jobs that are duplicates of existing jobs. It omits a job whose
-- unique key has become free; the caller inserts that job.
create function picture_queue._resolve_duplicates(p_jobs picture_queue.new_job[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_existing jsonb := picture_queue._find_existing(p_jobs);
  v_unique picture_queue.new_job[] := array(
    select n from unnest(p_jobs) n where n.unique_key is not null and not v_existing ? n.i::text);
  v_updated uuid[];
begin
  if v_unique = '{}' then
    return v_existing;
  end if;
  -- End the uniqueness of jobs whose period is over. Here and below, a lateral subselect searches the index for each
  -- key, since a join that was planned while the table was empty compares each pair.
  update public.job_queue j set unique_states = '{}'
  where j.unique_until <= picture_queue._now() and j.id = any (array(
    select u.id from unnest(v_unique) n
    cross join lateral (
      select o.id from public.job_queue o where o.unique_key = n.unique_key and o.status = any (o.unique_states) limit 1) u));

  v_updated := picture_queue._update_duplicates(v_unique, 'replace')
    || picture_queue._update_duplicates(v_unique, 'debounce');
  return v_existing || coalesce((
    select jsonb_object_agg(n.i, jsonb_build_object('job_id', existing.id, 'outcome', case
      when n.on_conflict = 'ignore' or existing.status <> 'pending' then 'existing'
      when n.on_conflict = 'replace' then 'replaced' else 'debounced' end))
    from unnest(v_unique) n
    cross join lateral (
      select o.id, o.status from public.job_queue o
      where o.unique_key = n.unique_key and o.status = any (o.unique_states) limit 1) existing
    where n.on_conflict = 'ignore' or existing.id in (select r from unnest(v_updated) r)), '{}');
end
$$;

-- Updates existing pending jobs from new duplicates with this on_conflict: everything but parents and batch (replace),
-- or the payload and the time (debounce). If an existing job has several such duplicates, the last one counts. To
-- replace a running job is refused; to debounce a running or finished job changes nothing. Returns the ids of the
-- existing jobs, which it locks.
create function picture_queue._update_duplicates(p_jobs picture_queue.new_job[], p_kind text) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set enable_nestloop = off
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_replaces boolean := p_kind = 'replace';
  v_duplicates picture_queue.new_job[] := array(
    select l.n from (
      select distinct on (n.unique_key) n, n.on_conflict from unnest(p_jobs) n
      where n.on_conflict in ('replace', p_kind) order by n.unique_key, n.i desc
    ) l
    where l.on_conflict = p_kind);
  v_old_queues jsonb;
  v_ids uuid[] := array(
    select u.id from unnest(v_duplicates) n
    cross join lateral (
      select o.id from public.job_queue o where o.unique_key = n.unique_key and o.status = any (o.unique_states) limit 1) u);
  v_running uuid;
  v_changes picture_queue.change[];
  v_queues text[];
begin
  if v_duplicates = '{}' then
    return '{}'::uuid[];
  end if;
  select jsonb_object_agg(o.id, o.queue), array_agg(o.id), (array_agg(o.id) filter (where o.status = 'processing'))[1]
  into v_old_queues, v_ids, v_running
  from (
    select u.id, u.queue, u.status from public.job_queue u
    where u.id = any (v_ids) and u.status = any (u.unique_states) order by u.id for update
  ) o;
  if v_replaces and v_running is not null then
    perform picture_queue._raise_error('PQ_RUNNING_JOB', format('job %s is running', v_running),
      'on_conflict ignore keeps it; with states ["pending"] a running job does not conflict');
  end if;
  with updated as (
    update public.job_queue j set
      payload = n.payload,
      (queue, metadata, tags, priority, rank, turn, tenant, limit_keys, timeout_seconds, backoff, max_attempts,
        expires_at) = (
        -- In a first-in, first-out queue, a job that is due keeps its place.
        select n.queue, n.metadata, n.tags, n.priority, n.rank,
          case when n.hold is null and exists (select from picture_queue.queue q
              where q.name in (n.queue, j.queue) having bool_and(q.aging_seconds is null and not q.fair_share))
            then least(j.turn, n.turn) else n.turn end,
          n.tenant, n.limit_keys, n.timeout_seconds, n.backoff, n.max_attempts, n.expires_at where v_replaces
        union all
        select j.queue, j.metadata, j.tags, j.priority, j.rank, j.turn, j.tenant, j.limit_keys, j.timeout_seconds,
          j.backoff, j.max_attempts, j.expires_at where not v_replaces),
      unique_until = n.unique_until,
      -- A job that waits for its parents keeps the new time until they have finished.
      scheduled_for = case when j.hold = 'waiting' then n.scheduled_for else j.scheduled_for end
    from unnest(v_duplicates) n
    where j.id = any (v_ids) and j.unique_key = n.unique_key and j.status = 'pending'
    returning j.id, j.queue, j.hold, n.scheduled_for as run_at, v_old_queues ->> j.id::text as old_queue
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select d.queue, 'pending', r.hold, sum(d.n), v_now
    from updated r cross join lateral (values (r.old_queue, -1), (r.queue, 1)) as d (queue, n)
    group by d.queue, r.hold having sum(d.n) <> 0
  )
  -- A blocked job may have other limit keys now; the next claim checks them.
  select array_agg(picture_queue._change(r.id,
      case when r.run_at > v_now then 'delay' when r.hold = 'scheduled' then 'promote' else 'unblock' end, null,
      case when r.run_at > v_now then r.run_at end))
      filter (where r.run_at > v_now or r.hold = 'scheduled' or r.hold = 'blocked' and v_replaces),
    array_agg(distinct r.queue)
  into v_changes, v_queues
  from updated r;
  perform picture_queue._transition(v_changes);
  perform picture_queue._wake_workers(v_queues, 'enqueue');
  return v_ids;
end
$$;
