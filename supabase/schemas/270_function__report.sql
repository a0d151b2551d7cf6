-- Converts the reported outcomes to their type. Refuses the whole report, before anything is written, if an outcome is
-- malformed.
create function picture_queue._read_outcomes(p_outcomes jsonb) returns picture_queue.outcome[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_outcomes picture_queue.outcome[];
begin
  perform picture_queue._raise_problem(
    case when not picture_queue._is_object_list(p_outcomes) then 'outcomes is not a list of {job_id, lease_id, outcome}' end);
  begin
    v_outcomes := array(
      select row(o.*)::picture_queue.outcome
      from rows from (jsonb_to_recordset(p_outcomes) as (job_id uuid, lease_id uuid, outcome text, result jsonb, error text,
        detail text, retryable boolean, delay_seconds real, run_at timestamptz, duration_seconds real, event text, pause_key text))
        with ordinality o);
  exception when data_exception then
    -- A value has the wrong type. Catch the error here, since later a trigger of the project may raise the same error.
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', sqlerrm);
  end;
  perform picture_queue._raise_problem((
    select format('outcomes[%s]: %s', o.i - 1, p.problem)
    from unnest(v_outcomes) o
    cross join lateral (select p_outcomes -> (o.i - 1)::integer as item) g
    cross join lateral (
      select case
        when o.job_id is null then 'job_id is missing'
        when o.lease_id is null then 'lease_id is missing'
        when o.outcome is null
          or o.outcome not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
          then format('outcome is %s', coalesce(g.item -> 'outcome', 'null'))
        when length(o.event) not between 1 and 200 or o.event ~ '[[:cntrl:]]' then format('event is %s', g.item -> 'event')
        -- Null is tested first: a function call for each outcome would take a quarter of the time of the report.
        when o.pause_key is not null and picture_queue._limit_key_problem(o.pause_key, false) is not null
          then format('pause_key is %s', g.item -> 'pause_key')
        -- Clients cannot read a time outside of this range, nor a list of jobs with such a time.
        when o.run_at not between '1970-01-01T00:00Z' and '9998-12-31T23:59Z'
          then format('run_at is %s, not a time from 1970 to 9998', g.item -> 'run_at')
        when o.delay_seconds not between 0 and 31536000
          then format('delay_seconds is %s, not 0 to 31536000', g.item -> 'delay_seconds')
      end as problem
    ) p
    -- Most outcomes have no field to check; this condition excludes them faster than the checks would.
    where (o.outcome = 'completed' and num_nonnulls(o.job_id, o.lease_id) = 2
        and num_nonnulls(o.event, o.pause_key, o.run_at, o.delay_seconds) = 0) is not true
      and p.problem is not null
    order by o.i limit 1));
  return v_outcomes;
end
$$;

-- Writes the outcomes of attempts whose lease is in force. Returns for each outcome, in the order of the call: ok;
-- repeated (this lease reported before; nothing changes); stale (the lease ended; nothing changes). If a lease has
-- several outcomes, the first counts. A job whose result is above the size limit fails, since a repeated report would
-- have the same size.
create function picture_queue._report(p_outcomes jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_max_bytes integer;
  v_may_defer boolean;
  v_answer jsonb;
  v_outcomes picture_queue.outcome[] := picture_queue._read_outcomes(p_outcomes);
  v_ids uuid[] := array(select distinct o.job_id from unnest(v_outcomes) o);
  v_changes picture_queue.change[];
  v_changed_jobs picture_queue.changed_job[];
begin
  select s.max_result_bytes into v_max_bytes from picture_queue.setting s;
  -- A result of up to 200 bytes can only exceed the size limit; it has no other problem (_json_problem).
  if not exists (
    select from unnest(v_outcomes) o
    where o.outcome <> 'completed' or octet_length(o.result::text) > least(v_max_bytes, 200)
      and picture_queue._json_problem(o.result, v_max_bytes) is not null)
  then
    -- The common case does not read the jobs first: the update checks the leases.
    v_changes := array(
      select row(o.job_id, 'complete', null, o.result, null, null, o.duration_seconds, o.lease_id, null, false)::picture_queue.change
      from (
        select distinct on (o.job_id, o.lease_id) o.* from unnest(v_outcomes) o order by o.job_id, o.lease_id, o.i
      ) o);
  else
    v_changes := picture_queue._decide_changes(v_outcomes, v_ids, v_max_bytes);
  end if;
  v_changed_jobs := picture_queue._transition(v_changes);
  if v_changed_jobs is not null then
    perform picture_queue._apply_report_effects(v_outcomes, v_changed_jobs);
  end if;
  select to_jsonb(array(
      select jsonb_build_object(
        'job_id', o.job_id,
        'outcome', case when m.id is not null then 'ok' when j.lease_id = o.lease_id then 'repeated' else 'stale' end,
        'status', coalesce(m.status, j.status))
      from unnest(v_outcomes) o
      -- If a report names two leases of a job, the lease in the row is valid; the other is stale.
      left join unnest(v_changed_jobs) m on m.id = o.job_id and m.lease_id = o.lease_id
      left join public.job_queue j on m.id is null and j.id = o.job_id and j.id = any (v_ids)
      order by o.i)),
    -- Whether there may be deferred constraints. This is checked after the change: a transaction that creates such a
    -- constraint waits for the table lock of the update, so none is missed.
    exists (select from pg_catalog.pg_trigger t
      where t.tgrelid in ('public.job_queue'::regclass, 'public.generations'::regclass)
        and (t.tginitdeferred or not t.tgisinternal and t.tgname <> 'job_queue_updated_at'))
  into v_answer, v_may_defer;
  if v_may_defer then
    perform picture_queue._check_deferred_constraints();
  end if;
  return v_answer;
end
$$;

-- Writes outcomes one by one. The answer is busy for a locked job, and refused, with the error, for an outcome that
-- cannot be written. After two seconds, the answer for all remaining outcomes is busy.
create function picture_queue._report_each(p_outcomes jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set lock_timeout = '10ms'
as $$
declare
  v_item jsonb;
  v_position bigint;
  v_answers jsonb[] := '{}'::jsonb[];
  v_started_at timestamptz := clock_timestamp();
  v_error text;
  v_detail text;
begin
  for v_item, v_position in select o.item, o.i from jsonb_array_elements(p_outcomes) with ordinality as o (item, i) loop
    if clock_timestamp() > v_started_at + interval '2 seconds' then
      v_answers := v_answers || array(
        select jsonb_build_object('job_id', o.item -> 'job_id', 'status', null, 'outcome', 'busy',
          'error', 'PQ_BUSY: the outcomes before this one took two seconds')
        from jsonb_array_elements(p_outcomes) with ordinality as o (item, i) where o.i >= v_position order by o.i);
      exit;
    end if;
    begin
      perform from public.job_queue j
      where j.id = case when v_item ->> 'job_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (v_item ->> 'job_id')::uuid end for update nowait;
      v_answers := array_append(v_answers, picture_queue._report(jsonb_build_array(v_item)) -> 0);
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := left(concat_ws(': ', sqlerrm, nullif(v_detail, '')), 1000);
      v_answers := array_append(v_answers, jsonb_build_object('job_id', v_item -> 'job_id', 'status', null,
        'error', v_error, 'outcome', case when picture_queue._is_transient(sqlstate) then 'busy' else 'refused' end));
      if not (picture_queue._is_transient(sqlstate) or sqlstate like 'PT%') then
        perform picture_queue._record_failure('report', v_item ->> 'job_id', v_error);
      end if;
    end;
  end loop;
  return to_jsonb(v_answers);
end
$$;

-- Returns the changes for reported outcomes, and locks the jobs until the transaction ends. A job with a cancel
-- request is cancelled whatever its outcome, with two exceptions: a job that completed; and a job that was cancelled
-- while parked and claimed once more to undo its work, if its worker stops and releases it.
create function picture_queue._decide_changes(p_outcomes picture_queue.outcome[], p_ids uuid[], p_max_bytes integer)
returns picture_queue.change[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return (with held as materialized (
    select j.id, j.lease_id, j.lease_expires_at, j.cancel_requested_at is not null as cancel_requested,
      j.cancel_requested_at < j.started_at as undoes_work, j.attempt < j.max_attempts as has_attempts_left
    from public.job_queue j where j.id = any (p_ids) order by j.id for update
  ),
  reported as (
    select distinct on (o.job_id) o.*, h.cancel_requested, h.undoes_work, h.has_attempts_left,
      case when o.outcome = 'completed' then picture_queue._json_problem(o.result, p_max_bytes) end as problem
    from unnest(p_outcomes) o
    join held h on h.id = o.job_id and h.lease_id = o.lease_id and h.lease_expires_at is not null
    order by o.job_id, o.i
  ),
  decided as (
    select a.*, case
        when a.outcome = 'completed' and a.problem is null then 'complete'
        when a.outcome = 'released' and a.undoes_work then 'release'
        when a.outcome = 'cancelled' or a.cancel_requested then 'cancel'
        when a.outcome = 'failed' and coalesce(a.retryable, true) and a.has_attempts_left then 'back_off'
        when a.outcome in ('failed', 'completed') then 'fail'
        when a.outcome = 'snoozed' then 'snooze'
        when a.outcome = 'released' then 'release'
        when a.outcome = 'parked' then 'park' end as action
    from reported a
  )
  select array_agg(row(
      d.job_id, d.action,
      case when d.action in ('back_off', 'snooze', 'park') then coalesce(d.run_at, v_now + make_interval(secs =>
        coalesce(d.delay_seconds, case d.action
          when 'back_off' then (select picture_queue._backoff_of(j) from public.job_queue j where j.id = d.job_id)
          when 'snooze' then 0
          -- A job that parks without a delay gets no time: only its event or a cancel request wakes it.
          end))) end,
      d.result,
      case when d.action in ('fail', 'back_off') then case
        when d.problem like '% bytes, the limit is %'
          then 'The result is larger than the project allows (setting max_result_bytes).'
        when d.problem is not null then 'The result ' || d.problem
        else coalesce(left(d.error, 2000), 'The job failed without an error text.') end end,
      d.detail, d.duration_seconds, null,
      case when d.action = 'park' then coalesce(d.event, d.job_id::text) end, false)::picture_queue.change)
  from decided d);
end
$$;

-- Applies the further effects of outcomes: it wakes jobs whose event was sent before they parked; pauses a limit key
-- or queue ('queue:…') until the time of the outcome, unless it is paused for longer; and checks the breakers.
create function picture_queue._apply_report_effects(
  p_outcomes picture_queue.outcome[], p_changed_jobs picture_queue.changed_job[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_parked uuid[] := array(select m.id from unnest(p_changed_jobs) m where m.hold = 'parked');
  v_events text[];
  v_pause record;
begin
  if v_parked <> '{}' then
    v_events := array(select distinct j.parked_on from public.job_queue j where j.id = any (v_parked) order by j.parked_on);
    -- send_event takes the same lock of an event, so the later of the two transactions sees the changes of the earlier
    -- one.
    perform pg_catalog.pg_advisory_xact_lock(1903326070, h.hash)
    from (select distinct pg_catalog.hashtext(e) & 1023 as hash from unnest(v_events) e order by hash offset 0) h;
    perform picture_queue._wake_parked(v_events);
  end if;
  if exists (select from unnest(p_outcomes) o where o.pause_key is not null) then
    for v_pause in
      select o.pause_key as key, left(max(o.detail), 500) as reason,
        max(coalesce(o.run_at, picture_queue._now() + make_interval(secs => coalesce(o.delay_seconds, 0)))) as until
      from (
        -- Use only outcomes that changed their jobs.
        select distinct on (u.job_id) u.* from unnest(p_outcomes) u
        join unnest(p_changed_jobs) m on m.id = u.job_id and m.lease_id = u.lease_id
        order by u.job_id, u.i
      ) o
      where o.pause_key is not null
      group by o.pause_key order by o.pause_key
    loop
      -- If another transaction has locked the queue or key, it stays unchanged; the next outcome with this pause_key
      -- pauses it.
      if v_pause.key like 'queue:%' then
        update picture_queue.queue q
        set paused_until = v_pause.until, pause_reason = 'the handler of a job asked for a pause'
        where q.name = any (array(
            select o.name from picture_queue.queue o where o.name = substr(v_pause.key, 7) for update skip locked))
          and coalesce(q.paused_until, '-infinity') < v_pause.until;
      elsif picture_queue._lock_keys(array[v_pause.key]) <> '{}' then
        perform picture_queue._add_running(array[v_pause.key], '{0}');  -- inserts the row if there is none
        update picture_queue.limit_key k
        set paused_until = v_pause.until, pause_reason = v_pause.reason, version = k.version + 1
        where k.key = v_pause.key and coalesce(k.paused_until, '-infinity') < v_pause.until;
        perform picture_queue._plan_unblocking(array[v_pause.key]);
      end if;
    end loop;
  end if;
  if exists (
    select from picture_queue.queue q where q.breaker_failures is not null and q.name in (select m.queue from unnest(p_changed_jobs) m))
  then
    -- Leave out postponed jobs, since they may still have the error of an earlier attempt. Leave out errors that are
    -- not retryable: they concern one job, and a user could pause the queue for all users with bad inputs.
    perform picture_queue._check_breakers(array(
      select distinct m.id from unnest(p_changed_jobs) m
      join unnest(p_outcomes) o on o.job_id = m.id and o.lease_id = m.lease_id
      where (o.outcome = 'completed' or o.outcome = 'failed' and o.retryable is not false) and m.status <> 'cancelled'));
  end if;
end
$$;

-- Counts failures in a row for the same reason, in queues with breaker_failures, and pauses the queue when it has that
-- many. After the pause, one more failure for that reason pauses it again; a completed job resets the count.
create function picture_queue._check_breakers(p_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_job record;
  v_failures integer;
begin
  for v_job in
    select q.name, q.breaker_failures, j.status, picture_queue._reason(j.error) as reason
    from public.job_queue j
    join picture_queue.queue q on q.name = j.queue
    where j.id = any (p_ids) and q.breaker_failures is not null and (j.status = 'completed' or j.error is not null)
    order by q.name, j.updated_at, j.seq
    for update of q skip locked  -- a queue that an operator is changing does not delay reports
  loop
    if v_job.status = 'completed' then
      delete from picture_queue.breaker b where b.queue = v_job.name;
      continue;
    end if;
    insert into picture_queue.breaker as b (queue, reason, failures) values (v_job.name, v_job.reason, 1)
    on conflict (queue) do update set reason = excluded.reason,
      failures = case when b.reason = excluded.reason then b.failures + 1 else 1 end
    returning failures into v_failures;
    if v_failures >= v_job.breaker_failures then
      update picture_queue.queue q set
        paused_until = greatest(q.paused_until, picture_queue._now() + make_interval(secs => q.breaker_seconds)),
        pause_reason = format('%s failures in a row: %s', v_failures, left(v_job.reason, 200))
      where q.name = v_job.name;
      update picture_queue.breaker b set failures = v_job.breaker_failures - 1 where b.queue = v_job.name;
    end if;
  end loop;
end
$$;
