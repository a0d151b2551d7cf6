-- A *tick* is a time at which a schedule is due. Each tick enqueues one job, even if several workers do maintenance at
-- once: the row of the schedule is locked, and the id of the job is a hash of name and tick.

-- Returns the first tick after a time; null if there is none. Intervals are counted in whole microseconds from
-- created_at, so that the ticks do not drift.
create function picture_queue._schedule_next(p_schedule picture_queue.schedule, p_after timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_step numeric := round(p_schedule.every_seconds::numeric * 1000000);
begin
  if p_schedule.cron is not null then
    return picture_queue._cron_next(p_schedule.cron, p_schedule.timezone, p_after);
  end if;
  return p_schedule.created_at + interval '1 microsecond'
    * (v_step * (1 + div(extract(epoch from p_after - p_schedule.created_at) * 1000000, v_step)))::double precision;
end
$$;

-- Returns the ticks of a due schedule that enqueue a job now, and its next tick. The column missed selects the ticks.
-- - all: every due tick, the oldest first; at most p_limit, and the others stay due.
-- - once: only the latest due tick.
-- - skip: only the latest due tick, and only if it is under two minutes late. Two minutes, because without a worker
--   only pg_cron does maintenance, once a minute.
create function picture_queue._schedule_due(
  p_schedule picture_queue.schedule, p_now timestamptz, p_limit integer,
  out ticks timestamptz[], out next_at timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_latest timestamptz := p_schedule.next_at;
  v_end timestamptz := p_now;  -- the latest due tick is not after this time
  v_tick timestamptz;
begin
  if p_schedule.missed = 'all' then
    next_at := p_schedule.next_at;
    while next_at <= p_now and coalesce(cardinality(ticks), 0) < p_limit loop
      ticks := ticks || next_at;
      next_at := picture_queue._schedule_next(p_schedule, next_at);
    end loop;
    return;
  end if;
  -- Search the latest tick by bisection, since very many ticks may have been missed. Ticks are at least a second
  -- apart.
  while v_end - v_latest >= interval '1 second' loop
    v_tick := picture_queue._schedule_next(p_schedule, v_latest + (v_end - v_latest) / 2);
    if v_tick <= p_now then
      v_latest := v_tick;
    else
      v_end := v_latest + (v_end - v_latest) / 2;
    end if;
  end loop;
  ticks := case when p_schedule.missed = 'once' or v_latest > p_now - interval '2 minutes'
    then array[v_latest] else '{}' end;
  next_at := picture_queue._schedule_next(p_schedule, v_latest);
end
$$;

-- Returns the job that a tick of a schedule enqueues; its metadata has the schedule and the tick.
create function picture_queue._schedule_job(p_schedule picture_queue.schedule, p_tick timestamptz, p_job_id uuid)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select p_schedule.job || jsonb_build_object('job_id', p_job_id, 'options',
    coalesce(nullif(p_schedule.job -> 'options', 'null'), '{}') || jsonb_build_object('metadata',
      coalesce(nullif(p_schedule.job #> '{options,metadata}', 'null'), '{}') || jsonb_build_object(
        'schedule', p_schedule.name, 'tick', (to_jsonb(p_tick at time zone 'UTC') #>> '{}') || '+00:00')))
$$;

-- Enqueues the jobs of those of these schedules that are due, and sets the next tick of each; locked schedules are
-- skipped. An error of one schedule is written to its last_error, and the other schedules still run. If the job of a
-- tick is refused, the tick is not tried again, unless the error is transient. The lock timeout bounds the wait for an
-- open transaction that enqueues the same unique job. At most p_limit jobs are enqueued, divided among the schedules.
-- Returns the number of jobs.
create function picture_queue._run_due_schedules(p_names text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_schedule picture_queue.schedule;
  v_ticks timestamptz[];
  v_next_tick timestamptz;
  v_answer jsonb;
  v_error text;
  v_detail text;
  v_job_count integer := 0;
begin
  for v_schedule in
    select * from picture_queue.schedule s
    where s.name = any (p_names) and not s.paused and s.next_at <= v_now
    order by s.next_at for update skip locked
  loop
    exit when picture_queue._is_out_of_time();
    v_next_tick := null;
    v_answer := '[]'::jsonb;
    begin
      select d.ticks, d.next_at into v_ticks, v_next_tick
      from picture_queue._schedule_due(v_schedule, v_now, greatest(p_limit / cardinality(p_names), 1)) d;
      if v_ticks <> '{}' then
        v_answer := picture_queue._enqueue((
          select jsonb_agg(picture_queue._schedule_job(v_schedule, t,
            md5('picture_queue schedule ' || v_schedule.name || ' ' || extract(epoch from t))::uuid) order by t)
          from unnest(v_ticks) t));
      end if;
      v_error := case when v_next_tick is null then 'The schedule has no further tick.' end;
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := left(concat_ws(': ', sqlerrm, nullif(v_detail, '')), 1000);
      -- After a transient error the tick stays due, for the next round. If the next tick could not be computed, it is
      -- computed again in a minute.
      if picture_queue._is_transient(sqlstate) then
        v_next_tick := v_schedule.next_at;
      elsif v_next_tick is null then
        v_next_tick := v_now + interval '1 minute';
      end if;
    end;
    update picture_queue.schedule s set
      next_at = v_next_tick,
      paused = v_next_tick is null,
      last_at = case when v_answer <> '[]' then v_ticks[cardinality(v_ticks)] else s.last_at end,
      last_job_id = coalesce((v_answer -> -1 ->> 'job_id')::uuid, s.last_job_id),
      last_error = v_error
    where s.name = v_schedule.name;
    v_job_count := v_job_count + jsonb_array_length(v_answer);
  end loop;
  return v_job_count;
end
$$;

-- Returns a schedule; refuses an unknown name.
create function picture_queue._get_schedule(p_name text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._require((select to_jsonb(s) from picture_queue.schedule s where s.name = p_name),
    'PQ_UNKNOWN_SCHEDULE', format('name is %s', to_jsonb(left(p_name, 200))));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
