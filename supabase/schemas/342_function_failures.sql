-- Dead letters: the reasons of failures. Changes of locked jobs: discard and cancel.

-- Returns the reason of an error: its text without the parts that differ from one failure to the next (quoted text, ids
-- and numbers).
create function picture_queue._reason(p_error text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    left(p_error, 2000),
    '"[^"]*"|`[^`]*`|(?<![[:alnum:]])''[^'']*''(?![[:alnum:]])', '"…"', 'g'),
    '[[:<:]][0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[[:>:]]', 'ID', 'gi'),
    '[[:<:]](?=[[:alpha:]]*[0-9])[0-9a-z]{12,}[[:>:]]|[[:<:]]0x[0-9a-f]+[[:>:]]', 'ID', 'gi'),
    '[0-9]+([.,][0-9]+)*', 'N', 'g'), 500)
$$;

-- Counts the newest 10,000 failed jobs of a filter by reason, the most frequent first. If the filter names another
-- status, it counts the jobs in that status that have an error, such as jobs that wait for a retry.
create function public.failure_reasons(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_where text := picture_queue._jobs_where(case when filter ->> 'status' is not null then filter
    else coalesce(nullif(filter, 'null'), '{}') || '{"status": "failed"}' end);
  v_reasons jsonb;
begin
  execute format($sql$
    with failed as materialized (
      select j.id, coalesce(j.error, '') as error, j.job_type, coalesce(j.finished_at, j.updated_at) as failed_at
      from public.job_queue j
      where %s and (j.status = 'failed' or j.error is not null) order by j.finished_at desc limit 10000
    ),
    -- Compute the reason once for each text, since many texts are equal.
    reasons as materialized (
      select d.error, picture_queue._reason(d.error) as reason from (select distinct f.error from failed f) d
    )
    select coalesce(jsonb_agg(jsonb_build_object('reason', g.reason, 'count', g.n, 'job_types', g.job_types,
      'first_at', g.first_at, 'last_at', g.last_at, 'example_job_id', g.example) order by g.n desc, g.last_at desc), '[]')
    from (
      select r.reason, count(*) as n, array_agg(distinct f.job_type order by f.job_type) as job_types,
        min(f.failed_at) as first_at, max(f.failed_at) as last_at, (array_agg(f.id order by f.failed_at desc))[1] as example
      from failed f join reasons r on r.error = f.error
      group by r.reason order by n desc, last_at desc limit 100
    ) g $sql$, v_where)
  into v_reasons;
  return v_reasons;
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.failure_reasons is 'Counts failed jobs by reason.';

-- Deletes finished jobs with their history and log, and subtracts them from the counts. The caller has locked the
-- jobs. Batches keep their counts. A job is kept while it has children that are not resolved yet, since these need its
-- status. Returns the number of deleted jobs.
create function picture_queue._discard_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_discarded integer;
begin
  perform picture_queue._check_references();
  with deleted as (
    delete from public.job_queue j where j.id = any (p_ids) and j.finished_at is not null
      and not exists (select from picture_queue.dependency d where d.parent_id = j.id)
    returning j.queue, j.status
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select d.queue, d.status, null, -count(*), picture_queue._now() from deleted d group by d.queue, d.status
  )
  select count(*) into v_discarded from deleted;
  return v_discarded;
end
$$;

-- Cancels locked jobs, as cancel_job cancels one: a pending job ends, a running job is asked to stop, a parked job is
-- claimed once more. A pending job with a prediction in progress, for example after a snooze, is claimed once more
-- too, since its handler must cancel the prediction. p_reason: the error of the jobs that end. Returns the number of
-- jobs.
create function picture_queue._cancel_jobs(p_ids uuid[], p_reason text default null) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changes picture_queue.change[];
  v_queues text[];
begin
  with requested as (
    update public.job_queue j set cancel_requested_at = picture_queue._now() where j.id = any (p_ids)
    returning j.id, j.queue, j.status, j.hold, j.generation_id
  )
  select array_agg(picture_queue._change(a.id, a.action, case a.action when 'cancel' then p_reason end))
      filter (where a.action is not null),
    array_agg(distinct a.queue) filter (where a.status = 'processing')
  into v_changes, v_queues
  from (
    select r.id, r.queue, r.status, case
      when r.hold = 'parked' then 'wake'
      when r.status = 'processing' then null
      when r.generation_id is null or not picture_queue._has_live_prediction(r.generation_id) then 'cancel'
      when r.hold = 'scheduled' then 'promote' end as action
    from requested r
  ) a;
  perform picture_queue._transition(v_changes);
  perform picture_queue._wake_workers(v_queues, 'cancel');
  return cardinality(p_ids);
end
$$;
