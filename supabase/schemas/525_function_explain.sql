-- The reasons why jobs do not run. For each job, the functions read a bounded number of rows by indexes, so that lists
-- of jobs can show the reasons.

-- Returns the reasons that concern the jobs themselves. rank orders the reasons of a job: the main reason has the
-- lowest rank. p_user_id: the calling user; null for a service key, which sees internal details. p_idle_since: the
-- beginning of the last round of maintenance if that was over 10 seconds ago, otherwise null.
create function picture_queue._own_reasons(p_ids uuid[], p_user_id uuid, p_idle_since timestamptz)
returns table (job_id uuid, rank integer, reason text, until timestamptz, detail text, more jsonb)
language plpgsql stable rows 1000 set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return query
  select j.id, r.rank, r.reason, nullif(r.until, 'infinity'), r.detail, r.more
  -- f: the failed step of the job; h: its latest change; l: its lease; p: its unfinished parents; r: the reasons.
  from public.job_queue j
  left join lateral (
    select f.kind, f.last_error, f.retry_at from picture_queue.failed_step f
    where f.kind = any (case coalesce(j.hold, j.status)
        when 'pending' then '{claim,abandon}' when 'scheduled' then '{promote,abandon}'
        when 'waiting' then '{resolve,abandon}' when 'blocked' then '{unblock,key,abandon}'
        when 'parked' then '{promote,wake}' when 'processing' then '{sweep,report}' end::text[])
      and f.subject = any (array[j.id::text, j.blocked_on]) and (f.kind <> 'claim' or f.retry_at > v_now)
    order by f.retry_at desc limit 1) f on true
  left join lateral (
    select h.action = 'back_off' as is_retry,
      case when h.action = 'snooze' and p_user_id is null then h.detail end as snooze_detail
    from picture_queue.history h
    where j.hold = 'scheduled' and h.job_id = j.id order by h.id desc limit 1) h on true
  left join lateral (
    -- A heartbeat that finds the row locked extends the lease in lease_extension.
    select coalesce(coalesce(max(x.lease_expires_at), j.lease_expires_at) <= v_now, false) as is_expired
    from picture_queue.lease_extension x
    where j.status = 'processing' and j.hold is null and x.job_id = j.id and x.lease_id = j.lease_id) l on true
  left join lateral (
    select count(*)::integer as n,
      (array_agg(p.id) filter (where p_user_id is null or p.user_id = p_user_id))[:10] as ids
    from (select d.parent_id from picture_queue.dependency d where j.hold = 'waiting' and d.child_id = j.id limit 100) d
    cross join lateral (
      select o.id, o.user_id from public.job_queue o where o.id = d.parent_id and o.finished_at is null limit 1) p
  ) p on true
  cross join lateral (
    select case when j.hold in ('scheduled', 'parked') then j.scheduled_for <= v_now
      when j.hold = 'waiting' then p.n = 0
      when j.status = 'pending' then j.expires_at <= v_now else l.is_expired end as needs_maintenance) m
  cross join lateral (values
    (0, j.status in ('completed', 'failed', 'cancelled'), 'finished', null::timestamptz,
      case j.status when 'cancelled' then 'It was cancelled.' else format('It has %s.', j.status) end, '{}'::jsonb),
    (0, f.kind is not null, 'step_failed', f.retry_at, format('The step %s failed for it and is retried.', f.kind),
      jsonb_build_object('step', f.kind, 'error', case when p_user_id is null then f.last_error end)),
    (1, j.hold is null and l.is_expired, 'lease_expired', null,
      'Its lease has expired, and maintenance has not swept it yet.',
      jsonb_build_object('worker', case when p_user_id is null then j.worker end)),
    (1, j.status = 'processing' and j.hold is null and not l.is_expired, 'running', null, 'A worker runs it.',
      jsonb_build_object('worker', case when p_user_id is null then j.worker end)),
    (2, p_idle_since is not null and (m.needs_maintenance or j.hold = 'blocked'), 'no_maintenance', null, case
        when p_idle_since = '-infinity' then 'No worker has done maintenance yet; the job waits for it.'
        else format('No worker has done maintenance for %s seconds; the job waits for it.',
          floor(extract(epoch from v_now - p_idle_since))) end, '{}'),
    (3, j.hold = 'waiting' and not (p.n = 0 and p_idle_since is not null), 'parents', null, case p.n
        when 0 then 'The jobs it depends on have finished; it becomes claimable in a moment.'
        when 1 then 'A job that it depends on has not finished.'
        else format('%s%s jobs that it depends on have not finished.', p.n, case p.n when 100 then ' or more' end) end,
      jsonb_build_object('parents', coalesce(p.ids, '{}'), 'parent_count', p.n)),
    (3, j.hold = 'parked' and not (m.needs_maintenance and p_idle_since is not null), 'event', j.scheduled_for,
      format('It is parked until the event %s arrives%s.', j.parked_on,
        case when j.scheduled_for is not null then ' or its next poll is due' end),
      jsonb_build_object('event', j.parked_on)),
    (3, j.hold = 'scheduled' and not (m.needs_maintenance and p_idle_since is not null),
      case when h.is_retry then 'retry' else 'scheduled' end, j.scheduled_for,
      case when m.needs_maintenance then 'It is due and becomes claimable in a moment.'
        when h.is_retry then format('Attempt %s of %s failed; the next one is scheduled.', j.attempt, j.max_attempts)
        when h.snooze_detail is not null then format('A handler postponed it: %s', left(h.snooze_detail, 500))
        else 'It is scheduled for later.' end,
      jsonb_build_object('error', case when h.is_retry then j.error else left(h.snooze_detail, 500) end))
  ) as r (rank, applies, reason, until, detail, more)
  where j.id = any (p_ids) and r.applies;
end
$$;

-- Returns the reasons that concern queues, workers and limit keys, for jobs that are not running. Of a key that is not
-- the user's own key (user:<id>), a user learns only that it is full or paused, but no numbers.
create function picture_queue._shared_reasons(p_ids uuid[], p_user_id uuid)
returns table (job_id uuid, rank integer, reason text, until timestamptz, detail text, more jsonb)
language plpgsql stable rows 1000 set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_without_worker text[];  -- pairs of queue and job type that no worker seen in the last minute takes
  v_keys jsonb;  -- the state of each key of the jobs that has a limit or a pause
begin
  select coalesce(jsonb_object_agg(l.key, jsonb_build_object(
    'max_running', l.max_running, 'rate', l.rate, 'period_seconds', l.period_seconds, 'running', greatest(l.running, 0),
    'is_paused', l.paused_until is not null, 'paused_until', nullif(l.paused_until, 'infinity'),
    'is_full', l.paused_until is null and l.capacity <= 0,
    'free_at', case when l.paused_until is null then l.free_at end)), '{}')
  into v_keys
  from picture_queue._key_states(array(
    select distinct k
    from public.job_queue j
    cross join lateral unnest(picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys) || j.blocked_on) k
    where j.id = any (p_ids) and k is not null)) l;
  with alive as materialized (
    -- Most workers of a project have the same queues and job types.
    select distinct w.queues, w.job_types from picture_queue.worker w where w.seen_at > v_now - interval '1 minute'
  )
  select array_agg(p.queue || ' ' || p.job_type) into v_without_worker
  from (select distinct j.queue, j.job_type from public.job_queue j where j.id = any (p_ids)) p
  where not exists (select from alive a where p.queue = any (a.queues) and p.job_type = any (a.job_types));

  return query
  select j.id, r.rank, r.reason, r.until, r.detail, r.more
  from public.job_queue j
  cross join lateral (select picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys) as keys offset 0) a
  left join picture_queue.queue q on q.name = j.queue and q.paused_until > v_now
  left join lateral (
    select k.key, s.until, (
        select l.pause_reason from picture_queue.limit_key l
        where p_user_id is null and l.key = k.key order by l.version desc limit 1) as reason
    from unnest(a.keys) as k (key)
    cross join lateral (select (v_keys #>> array[k.key, 'paused_until'])::timestamptz as until) s
    where v_keys #> array[k.key, 'is_paused'] = 'true'
    order by s.until desc nulls first limit 1) paused on true
  left join lateral (
    -- A blocked job waits until it is unblocked, even if its key has capacity again.
    select k.key, case when p_user_id is null or k.key = 'user:' || p_user_id then v_keys -> k.key end as state,
      v_keys #> array[k.key, 'is_full'] = 'true' as is_full
    from unnest(case j.hold when 'blocked' then array[j.blocked_on] else a.keys end) as k (key)
    where case when j.hold is null then v_keys #> array[k.key, 'is_full'] = 'true'
      else j.hold = 'blocked' and (v_keys #> array[k.key, 'is_paused']) is distinct from 'true' end
    order by k.key limit 1) own on true
  cross join lateral (values
    (4, q.name is not null, 'queue_paused', nullif(q.paused_until, 'infinity'), format('Queue %s is paused.', j.queue),
      jsonb_build_object('queue', j.queue, 'pause_reason', case when p_user_id is null then q.pause_reason end)),
    (5, j.queue || ' ' || j.job_type = any (v_without_worker), 'no_worker', null,
      format('No worker seen in the last minute takes jobs of type %s from queue %s.', j.job_type, j.queue),
      jsonb_build_object('queue', j.queue, 'job_type', j.job_type)),
    (case j.hold when 'blocked' then 1 else 6 end, paused.key is not null, 'key_paused', paused.until,
      format('Limit key %s is paused%s', paused.key, coalesce(': ' || paused.reason, '.')),
      jsonb_build_object('key', paused.key, 'pause_reason', paused.reason)),
    (case j.hold when 'blocked' then 1 else 7 end, own.key is not null, 'limit', (own.state ->> 'free_at')::timestamptz,
      case when own.is_full then
          format('Limit key %s is full', own.key) || case
            when (own.state ->> 'running')::integer >= (own.state ->> 'max_running')::integer
              then format(': %s of %s jobs run.', own.state ->> 'running', own.state ->> 'max_running')
            when own.state ->> 'free_at' is not null
              then format(': %s jobs started within %s seconds.', own.state ->> 'rate', own.state ->> 'period_seconds')
            else '.' end
        else format('It waits for its turn under limit key %s.', own.key) end,
      coalesce(own.state - '{is_paused,paused_until,is_full,free_at}'::text[], '{}')
        || jsonb_build_object('key', own.key))
  ) as r (rank, applies, reason, until, detail, more)
  where j.id = any (p_ids) and r.applies;
end
$$;

-- Returns why each of these jobs does not run, in the order of the ids. Jobs of other users count as unknown.
create function picture_queue.explain_jobs(p_job_ids uuid[]) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user_id uuid := case when not v_is_service then picture_queue._caller_id() end;
  v_idle_since timestamptz;
  v_ids uuid[];  -- the jobs of the caller
  v_reasons jsonb;  -- for each job id: the list of its reasons
  v_answers jsonb;  -- for each job id: the answer
begin
  perform picture_queue._raise_problem(case when p_job_ids is null then 'job_ids is null'
    when cardinality(p_job_ids) > 1000 then format('job_ids has %s entries', cardinality(p_job_ids)) end,
    'pass up to 1000 ids in a call');
  v_idle_since := (
    select m.round_began_at from picture_queue.maintenance m where m.round_began_at < picture_queue._now() - interval '10 seconds');
  v_ids := array(
    select j.id from public.job_queue j where j.id = any (p_job_ids) and (v_is_service or j.user_id = v_user_id));
  select jsonb_object_agg(l.job_id, l.reasons) into v_reasons
  from (
    select r.job_id, jsonb_agg(jsonb_build_object('reason', r.reason, 'detail', r.detail, 'until', r.until)
      || jsonb_strip_nulls(r.more) order by r.rank, r.reason) as reasons
    from (
      select * from picture_queue._own_reasons(v_ids, v_user_id, v_idle_since)
      union all
      select * from picture_queue._shared_reasons(array(
        select j.id from public.job_queue j where j.id = any (v_ids) and (j.status = 'pending' or j.hold = 'parked')), v_user_id)
    ) r
    group by r.job_id
  ) l;
  select jsonb_object_agg(j.id, jsonb_build_object('job_id', j.id, 'status', j.status, 'hold', j.hold)
    || (r.reasons -> 0)
    || case when jsonb_array_length(r.reasons) > 1 then jsonb_build_object('reasons', r.reasons) else '{}' end)
  into v_answers
  from public.job_queue j
  cross join lateral (select coalesce(v_reasons -> j.id::text, jsonb_build_array(jsonb_build_object(
    'reason', 'waiting_for_worker', 'detail', 'It waits for a free worker.', 'until', null))) as reasons offset 0) r
  where j.id = any (v_ids);
  return to_jsonb(array(
    select coalesce(v_answers -> a.id::text, jsonb_build_object('job_id', a.id, 'status', null, 'hold', null,
      'reason', 'unknown', 'detail', 'There is no such job.', 'until', null))
    from unnest(p_job_ids) with ordinality as a (id, n) order by a.n));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.explain_jobs(job_ids uuid[]) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.explain_jobs(job_ids) $$;
comment on function public.explain_jobs is 'Explains why each of up to 1,000 jobs of the caller does not run.';
