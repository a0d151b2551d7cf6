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
      else format('delay_seconds is %s, not 0 to 31536000', e.item -> 'delay_seconds') end)
  into v_problem
  from jsonb_array_elements(p_outcomes) with ordinality as e (item, i)
  where e.item ->> 'job_id' is null or e.item ->> 'lease_id' is null or e.item ->> 'outcome' is null
    or e.item ->> 'outcome' not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
    or (e.item ->> 'delay_seconds')::numeric not between 0 and 31536000
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
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_changes picture_queue.change[];
  v_stand jsonb;
  v_answer jsonb;
begin
  perform picture_queue._check_outcomes(p_outcomes);
  perform from public.job_queue
  where id in (select (e.item ->> 'job_id')::uuid from jsonb_array_elements(p_outcomes) as e (item))
  order by id for update;

  with asked as (
    select distinct on (o.job_id) o.*, octet_length(o.result::text) > s.max_result_bytes as too_large
    from jsonb_to_recordset(p_outcomes) as o (job_id uuid, lease_id uuid, outcome text, result jsonb, error text,
      detail text, retryable boolean, delay_seconds real, duration_seconds real)
    cross join picture_queue.setting s
  ),
  wished as (
    select a.*, j.attempt, picture_queue._action(
        case when a.too_large then 'failed' else a.outcome end,
        coalesce(a.retryable, true) and not coalesce(a.too_large, false),
        j.cancel_requested_at is not null, j.attempt < j.max_attempts) as action,
      coalesce(t.backoff_seconds, q.backoff_seconds, s.backoff_seconds) as base,
      coalesce(t.backoff_cap_seconds, q.backoff_cap_seconds, s.backoff_cap_seconds) as cap
    from asked a
    join public.job_queue j on j.id = a.job_id
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    where j.status = 'processing' and j.hold is null and j.lease_id = a.lease_id
  )
  select array_agg(row(
      w.job_id, w.action,
      v_now + make_interval(secs => coalesce(w.delay_seconds,
        case w.action when 'back_off' then picture_queue._backoff(w.attempt, w.base, w.cap) else 0 end)),
      w.result,
      case when w.too_large then 'The result is larger than the queue allows.'
        when w.action in ('fail', 'back_off') then coalesce(left(w.error, 2000), 'The job failed without saying why.') end,
      w.detail, w.duration_seconds, null, null, null, null)::picture_queue.change)
  into v_changes
  from wished w;

  select jsonb_object_agg(t.id, t.status) into v_stand from picture_queue._transition(v_changes) t;
  select coalesce(jsonb_agg(jsonb_build_object(
      'job_id', o.job_id,
      'outcome', case when v_stand ? o.job_id::text then 'ok' when j.lease_id = o.lease_id then 'repeated' else 'stale' end,
      'status', j.status) order by o.i), '[]')
  into v_answer
  from rows from (jsonb_to_recordset(p_outcomes) as (job_id uuid, lease_id uuid))
    with ordinality as o (job_id, lease_id, i)
  left join public.job_queue j on j.id = o.job_id;
  return v_answer;
end
$$;
