-- What an outcome asks for, as an action of picture_queue.edge. A job whose cancel was requested is
-- cancelled whatever its handler made of it, unless it completed.
create function picture_queue._action(
  p_outcome text, p_retryable boolean, p_cancel_requested boolean, p_attempts_left boolean)
returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_outcome = 'completed' then 'complete'
    when p_outcome = 'cancelled' or p_cancel_requested then 'cancel'
    when p_outcome = 'failed' and p_retryable and p_attempts_left then 'back_off'
    when p_outcome = 'failed' then 'fail'
    when p_outcome = 'snoozed' then 'snooze'
    when p_outcome = 'released' then 'release'
    when p_outcome = 'parked' then 'park'
  end
$$;

-- Refuses outcomes that are not well formed, before anything is written.
create function picture_queue._check_outcomes(p_outcomes jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
  v_problem text;
begin
  if jsonb_typeof(p_outcomes) is distinct from 'array' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'outcomes is not a list');
  end if;
  select format('outcomes[%s]: %s', e.i - 1, case
      when e.item ->> 'job_id' is null then 'job_id is missing'
      when e.item ->> 'lease_id' is null then 'lease_id is missing'
      when e.item ->> 'outcome' is null
        or e.item ->> 'outcome' not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
        then format('outcome is %s', coalesce(e.item -> 'outcome', 'null'))
      when length(e.item ->> 'event') not between 1 and 200 then format('event is %s', e.item -> 'event')
      when length(e.item ->> 'pause_key') not between 1 and 200 then format('pause_key is %s', e.item -> 'pause_key')
      else format('delay_seconds is %s, not 0 to 31536000', e.item -> 'delay_seconds') end)
  into v_problem
  from jsonb_array_elements(p_outcomes) with ordinality as e (item, i)
  where e.item ->> 'job_id' is null or e.item ->> 'lease_id' is null or e.item ->> 'outcome' is null
    or e.item ->> 'outcome' not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
    or (e.item ->> 'delay_seconds')::numeric not between 0 and 31536000
    or length(e.item ->> 'event') not between 1 and 200 or length(e.item ->> 'pause_key') not between 1 and 200
  order by e.i limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
end
$$;

-- Writes how attempts ended, fenced by their leases. Answers for each, in the order asked: ok;
-- repeated (this lease reported before, nothing changed); stale (the lease ended, nothing changed).
-- A result above the limit fails its job, since no repetition makes it smaller.
create function picture_queue._report(p_outcomes jsonb) returns jsonb
language plpgsql set search_path = '' set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_changes picture_queue.change[];
  v_ids uuid[];
  v_jobs public.job_queue[];
  v_answer jsonb;
begin
  perform picture_queue._check_outcomes(p_outcomes);
  v_ids := array(select (e.item ->> 'job_id')::uuid from jsonb_array_elements(p_outcomes) as e (item));
  perform from public.job_queue where id = any (v_ids) order by id for update;

  with asked as (
    select distinct on (o.job_id) o.*, octet_length(o.result::text) > (select s.max_result_bytes from picture_queue.setting s) as too_large
    from jsonb_to_recordset(p_outcomes) as o (job_id uuid, lease_id uuid, outcome text, result jsonb, error text,
      detail text, retryable boolean, delay_seconds real, run_at timestamptz, duration_seconds real, event text)
  ),
  wished as (
    select a.*, j as job, picture_queue._action(
        case when a.too_large then 'failed' else a.outcome end,
        coalesce(a.retryable, true) and not coalesce(a.too_large, false),
        j.cancel_requested_at is not null, j.attempt < j.max_attempts) as action
    from asked a
    join public.job_queue j on j.id = a.job_id
    where j.id = any (v_ids) and j.lease_expires_at is not null and j.lease_id = a.lease_id
  )
  select array_agg(row(
      w.job_id, w.action,
      case when w.action in ('back_off', 'snooze', 'park') then coalesce(w.run_at, v_now + make_interval(secs =>
        coalesce(w.delay_seconds, case w.action when 'back_off' then picture_queue._backoff_of(w.job) else 0 end))) end,
      w.result,
      case when w.too_large then 'The result is larger than the queue allows.'
        when w.action in ('fail', 'back_off') then coalesce(left(w.error, 2000), 'The job failed without saying why.') end,
      w.detail, w.duration_seconds, null, null, null, null,
      case when w.action = 'park' then coalesce(w.event, w.job_id::text) end, null)::picture_queue.change)
  into v_changes
  from wished w;

  select array_agg(t) into v_jobs from picture_queue._transition(v_changes) t;
  if v_jobs is not null then
    perform picture_queue._after_report(p_outcomes, v_jobs);
  end if;
  select coalesce(jsonb_agg(jsonb_build_object(
      'job_id', o.job_id,
      'outcome', case when m.id is not null then 'ok' when j.lease_id = o.lease_id then 'repeated' else 'stale' end,
      'status', j.status) order by o.i), '[]')
  into v_answer
  from rows from (jsonb_to_recordset(p_outcomes) as (job_id uuid, lease_id uuid))
    with ordinality as o (job_id, lease_id, i)
  left join unnest(v_jobs) m on m.id = o.job_id
  left join public.job_queue j on j.id = o.job_id and j.id = any (v_ids);
  return v_answer;
end
$$;

-- What outcomes mean beyond their jobs, each only where there is such an outcome: an event that came
-- before its job parked, a key or queue that asked for a pause, a breaker.
create function picture_queue._after_report(p_outcomes jsonb, p_jobs public.job_queue[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_pause record;
  v_parked text[] := array(select distinct j.parked_on from unnest(p_jobs) j where j.hold = 'parked' order by j.parked_on);
begin
  if v_parked <> '{}' then
    perform picture_queue._lock_events(v_parked);
    perform picture_queue._wake_parked(v_parked);
  end if;
  if p_outcomes @? '$[*] ? (@.pause_key != null)' then
    perform picture_queue._lock_keys(array(
      select e.item ->> 'pause_key' from jsonb_array_elements(p_outcomes) as e (item)
      where e.item ->> 'pause_key' is not null));
    for v_pause in
      select o.pause_key as key, max(picture_queue._now() + make_interval(secs => coalesce(o.delay_seconds, 0))) as until
      from jsonb_to_recordset(p_outcomes) as o (job_id uuid, pause_key text, delay_seconds real)
      join unnest(p_jobs) j on j.id = o.job_id
      where o.pause_key is not null
      group by o.pause_key order by o.pause_key
    loop
      if v_pause.key like 'queue:%' then
        update picture_queue.queue q set paused_until = v_pause.until, pause_reason = 'a job was told to come back later'
        where q.name = substr(v_pause.key, 7) and coalesce(q.paused_until, '-infinity') < v_pause.until;
      else
        insert into picture_queue.limit_key as k (key, paused_until, due_at)
        values (v_pause.key, v_pause.until, v_pause.until)
        on conflict (key) do update set paused_until = excluded.paused_until, due_at = excluded.due_at
        where coalesce(k.paused_until, '-infinity') < excluded.paused_until;
      end if;
    end loop;
  end if;
  if exists (
    select from picture_queue.queue q where q.breaker_failures is not null and q.name in (select j.queue from unnest(p_jobs) j))
  then
    perform picture_queue._check_breakers(p_jobs);
  end if;
end
$$;

-- Counts failures of one kind in a row, for queues with a breaker, and pauses the queue when there are
-- too many. After the pause one more failure of that kind pauses it again; a completed job resets it.
create function picture_queue._check_breakers(p_jobs public.job_queue[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_queue picture_queue.queue;
  v_seen record;
  v_failures integer;
begin
  for v_queue in
    select q.* from picture_queue.queue q
    where q.breaker_failures is not null and q.name in (select j.queue from unnest(p_jobs) j)
    order by q.name for update
  loop
    for v_seen in
      select j.status, picture_queue._reason(j.error) as reason from unnest(p_jobs) j
      where j.queue = v_queue.name and (j.status = 'completed' or j.error is not null) order by j.updated_at, j.seq
    loop
      if v_seen.status = 'completed' then
        delete from picture_queue.breaker b where b.queue = v_queue.name;
        continue;
      end if;
      insert into picture_queue.breaker as b (queue, reason, failures) values (v_queue.name, v_seen.reason, 1)
      on conflict (queue) do update set reason = excluded.reason,
        failures = case when b.reason = excluded.reason then b.failures + 1 else 1 end
      returning failures into v_failures;
      if v_failures >= v_queue.breaker_failures then
        update picture_queue.queue q set
          paused_until = greatest(q.paused_until, picture_queue._now() + make_interval(secs => q.breaker_seconds)),
          pause_reason = format('%s failures in a row: %s', v_failures, left(v_seen.reason, 200))
        where q.name = v_queue.name;
        update picture_queue.breaker b set failures = v_queue.breaker_failures - 1 where b.queue = v_queue.name;
      end if;
    end loop;
  end loop;
end
$$;
