-- Sends an external event. If no job is parked on the event, it is kept for a day, for jobs that park later. A second
-- event of the same name replaces a kept event. A second call with the same event_id changes nothing and returns the
-- answer of the first.
create function public.send_event(name text, payload jsonb default null, event_id text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
declare
  v_call text := 'send_event ' || name;
  v_answer jsonb;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(coalesce(
    case when coalesce(length(name), 0) not between 1 and 200 or name ~ '[[:cntrl:]]'
      then format('name is %s', quote_nullable(left(name, 300))) end,
    'payload ' || picture_queue._json_problem(payload, (select s.max_payload_bytes from picture_queue.setting s)),
    case when length(event_id) not between 1 and 200 then format('event_id is %s', quote_literal(left(event_id, 300))) end),
    'name and event_id have 1 to 200 characters, and name has no control characters');
  v_answer := picture_queue._find_answer(v_call, event_id);
  if v_answer is not null then
    return v_answer;
  end if;
  v_answer := jsonb_build_object('woken', picture_queue._send_event(name, payload));
  return picture_queue._store_answer(v_call, event_id, v_answer);
exception when deadlock_detected or lock_not_available then
  return picture_queue._raise_busy(
    format('another transaction is sending event %s, or parking a job on it', left(name, 200)));
end
$$;
comment on function public.send_event is 'Sends an external event to the jobs parked on it.';

-- Appends lines to the log of a job, and keeps the last 200.
create function public.log_job(job_id uuid, lease_id uuid, lines jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
as $$
declare
  v_attempt integer;
begin
  v_attempt := (picture_queue._lock_job(job_id, lease_id)).attempt;
  perform picture_queue._raise_problem(case
    when not picture_queue._is_object_list(lines) or jsonb_path_exists(lines, '$[*] ? (!(@.message.type() == "string"))')
      then 'lines is not a list of {at, level, message}, with a text as message'
    when exists (select from jsonb_array_elements(lines) e
      where e -> 'level' not in ('"debug"', '"info"', '"warning"', '"error"'))
      then 'lines has a level that is not debug, info, warning or error'
    when exists (select from jsonb_to_recordset(lines) as l (at timestamptz)
      where l.at not between '1970-01-01Z' and '9998-12-31T23:59Z') then 'lines has a time that is not from 1970 to 9998'
  end, 'pass lines as a list of {at, level, message}; at and level are optional');
  insert into picture_queue.log (job_id, attempt, at, level, message)
  select log_job.job_id, v_attempt, coalesce(l.at, picture_queue._now()), coalesce(l.level, 'info'), left(l.message, 2000)
  from rows from (jsonb_to_recordset(lines) as (at timestamptz, level text, message text))
    with ordinality as l (at, level, message, i)
  where l.i > jsonb_array_length(lines) - 200
    -- Skip the lines that are stored already: the client retries a call if its answer was lost.
    and not exists (
      select from picture_queue.log o
      where o.job_id = log_job.job_id and o.at = l.at and o.message = left(l.message, 2000))
  order by l.i;
  delete from picture_queue.log l
  where l.job_id = log_job.job_id and l.id <= (
    select o.id from picture_queue.log o where o.job_id = log_job.job_id order by o.id desc offset 200 limit 1);
  return jsonb_build_object('kept', (select count(*) from picture_queue.log l where l.job_id = log_job.job_id));
exception
  when deadlock_detected or lock_not_available then
    return picture_queue._raise_busy(format('job %s is locked by another transaction', job_id));
  when data_exception then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'lines: ' || sqlerrm,
      'pass lines as a list of {at, level, message}; at and level are optional');
    return null;
end
$$;
comment on function public.log_job is 'Appends log lines to a job, under its lease.';

-- Returns the history of a job: its changes of state, its failed attempts with their internal detail, and its log.
-- Claims are not recorded; they are derived from started_at of the attempts.
create function public.get_job_history(job_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
begin
  select * into v_job from public.job_queue j where j.id = get_job_history.job_id;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', job_id));
  end if;
  return jsonb_build_object(
    'timeline', (
      select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('at', e.at, 'action', e.action, 'status', e.status,
        'hold', e.hold, 'attempt', e.attempt, 'worker', e.worker, 'error', e.error)) order by e.at, e.n)
      from (
        select v_job.created_at as at, 'enqueue' as action, 'pending' as status, null as hold, 0 as attempt,
          null as worker, null as error, 0 as n
        union all
        select h.started_at, 'claim', 'processing', null, greatest(h.attempt, 1), h.worker, null, h.id
        from picture_queue.history h
        -- The row of the action wake repeats started_at of the row of the action park, which shows this claim already.
        where h.job_id = v_job.id and h.started_at is not null and h.action <> 'wake'
        union all
        select h.at, h.action, h.status, h.hold, h.attempt, h.worker, h.error, h.id
        from picture_queue.history h where h.job_id = v_job.id
        union all
        -- The number 9e18 is above every id of the history, so these rows come last among rows of the same time.
        select v_job.started_at, 'claim', 'processing', null, v_job.attempt, v_job.worker, null, 9e18
        where v_job.status = 'completed' or (v_job.status = 'processing' and v_job.hold is null)
        union all
        select v_job.finished_at, 'complete', 'completed', null, v_job.attempt, v_job.worker, null, 9e18
        where v_job.status = 'completed'
      ) e),
    'attempts', (
      select coalesce(jsonb_agg(jsonb_build_object('attempt', h.attempt, 'worker', h.worker, 'started_at', h.started_at,
        'ended_at', h.at, 'duration_seconds', h.duration_seconds, 'error', h.error, 'detail', h.detail) order by h.id), '[]')
      from picture_queue.history h
      where h.job_id = v_job.id and h.action in ('fail', 'back_off', 'expire')),
    'log', (
      select coalesce(jsonb_agg(jsonb_build_object('at', l.at, 'attempt', l.attempt, 'level', l.level,
        'message', l.message) order by l.id), '[]')
      from picture_queue.log l where l.job_id = v_job.id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.get_job_history is 'The timeline, failed attempts and log of a job.';
