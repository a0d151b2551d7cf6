-- Creates or replaces a schedule. Fields that are missing get their defaults, except that a paused schedule stays
-- paused.
create function public.set_schedule(name text, schedule jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_fields jsonb := schedule;
  v_timezone jsonb;
  v_new_row jsonb;
  v_old_row jsonb;
  v_next_at timestamptz;
begin
  perform picture_queue._check_isolation();
  if jsonb_typeof(schedule) = 'object' then
    select coalesce(jsonb_object_agg(e.key, e.value), '{}') into v_fields
    from jsonb_each(schedule) e where e.value <> 'null';
  end if;
  perform picture_queue._raise_problem(case
    when name is null or picture_queue._value_problem(to_jsonb(name), '["name", 128, "_.:-"]') is not null
      then format('name is %s', coalesce(to_jsonb(left(name, 200)), 'null'))
    when jsonb_typeof(schedule) is distinct from 'object' then 'schedule is not an object'
    when (v_fields ? 'cron') = (v_fields ? 'every_seconds') then 'one of cron and every_seconds is needed'
    else coalesce(
      picture_queue._fields_problem('', (
        select jsonb_object_agg(e.key, e.value) from jsonb_each(v_fields) e
        where e.key in ('cron', 'every_seconds', 'timezone', 'missed', 'paused')), '{
          "cron": ["text", 2147483647, 0],
          "every_seconds": ["number", 1, 31536000],
          "timezone": ["text", 2147483647, 0],
          "missed": ["choice", "skip", "once", "all"],
          "paused": ["boolean"]
        }'), (
        select format('%s is for one job, and a schedule enqueues many', array_to_string(k.path, '.'))
        from (values ('{job_id}'::text[]), ('{scheduled_for}'), ('{idempotency_key}'), ('{generation_id}'),
          ('{options,expires_at}'), ('{options,depends_on}'), ('{options,batch_id}')) as k (path)
        where v_fields #>> k.path is not null limit 1))
  end, 'pass cron or every_seconds; optionally timezone, missed and paused; and the fields of a job, with '
    'options such as delay_seconds, expires_in_seconds and unique');
  -- Store the name of the zone as pg_timezone_names writes it. Refuse abbreviations (CEST) and offsets (UTC+3): they
  -- ignore daylight saving, and Postgres reads the sign of such an offset in the opposite direction.
  v_timezone := picture_queue._require(case when coalesce(v_fields ->> 'timezone', 'UTC') = 'UTC' then '"UTC"' else (
      select to_jsonb(min(z.name)) from pg_catalog.pg_timezone_names z
      where lower(z.name) = lower(v_fields ->> 'timezone')) end,
    'PQ_INVALID_CRON', format('timezone is "%s"', left(v_fields ->> 'timezone', 100)),
    'use a name such as Europe/Berlin; the view pg_timezone_names lists all');
  v_new_row := jsonb_build_object(
    'name', name,
    'cron', regexp_replace(btrim(v_fields ->> 'cron', E' \t\n'), '[[:space:]]+', ' ', 'g'),
    'every_seconds', (v_fields ->> 'every_seconds')::double precision,
    'timezone', v_timezone,
    'missed', coalesce(v_fields ->> 'missed', 'once'),
    'job', v_fields - '{cron,every_seconds,timezone,missed,paused}'::text[],
    'created_at', v_now);
  v_next_at := picture_queue._schedule_next(jsonb_populate_record(null::picture_queue.schedule, v_new_row), v_now);
  if v_next_at is null then
    perform picture_queue._raise_error('PQ_INVALID_CRON',
      format('cron is "%s", which has no date within eight years', v_new_row ->> 'cron'), 'use a day that exists in that month');
  end if;
  -- Validate the job as a tick will enqueue it.
  perform picture_queue._check_jobs(jsonb_build_array(picture_queue._schedule_job(
    jsonb_populate_record(null::picture_queue.schedule, v_new_row), v_now, gen_random_uuid())));

  select to_jsonb(s) into v_old_row from picture_queue.schedule s where s.name = set_schedule.name for update;
  v_new_row := v_new_row || jsonb_build_object('created_at', coalesce(v_old_row -> 'created_at', v_new_row -> 'created_at'),
    'paused', coalesce(v_fields -> 'paused', v_old_row -> 'paused', 'false'));
  if v_old_row is null or v_old_row || v_new_row <> v_old_row then
    v_next_at := case
      when (v_new_row ->> 'paused')::boolean then null
      when v_old_row -> 'paused' = 'false' and v_old_row || jsonb_build_object('cron', v_new_row -> 'cron', 'every_seconds',
        v_new_row -> 'every_seconds', 'timezone', v_new_row -> 'timezone') = v_old_row then (v_old_row ->> 'next_at')::timestamptz
      else picture_queue._schedule_next(jsonb_populate_record(null::picture_queue.schedule, v_new_row), v_now) end;
    perform picture_queue._write_row('picture_queue.schedule', 'name', name,
      v_new_row - 'name' || jsonb_build_object('next_at', v_next_at, 'updated_at', v_now, 'last_error', null));
    perform picture_queue._wake_maintenance(v_next_at);
  end if;
  return picture_queue._get_schedule(name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_schedule is 'Creates or replaces a schedule; a repeated call changes nothing.';

create function public.delete_schedule(name text, request_id uuid default null) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(picture_queue._find_answer('delete_schedule', request_id::text),
    picture_queue._store_answer('delete_schedule', request_id::text, jsonb_build_object(
      'deleted', picture_queue._write_row('picture_queue.schedule', 'name', name, null))))
$$;
comment on function public.delete_schedule is 'Deletes a schedule, but not its jobs. Returns whether it existed.';

create function public.pause_schedule(name text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  update picture_queue.schedule s set paused = true, next_at = null, updated_at = picture_queue._now()
  where s.name = pause_schedule.name and not s.paused;
  return picture_queue._get_schedule(pause_schedule.name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.pause_schedule is 'Pauses a schedule, so that it enqueues no jobs.';

-- Resumes a schedule. Ticks during the pause do not count as missed. set_schedule validates the schedule again.
create function public.resume_schedule(name text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select public.set_schedule(name, s -> 'job' || '{"paused": false}' || jsonb_build_object('cron', s -> 'cron',
    'every_seconds', s -> 'every_seconds', 'timezone', s -> 'timezone', 'missed', s -> 'missed'))
  from picture_queue._get_schedule(name) s
$$;
comment on function public.resume_schedule is 'Resumes a schedule from its next tick on.';

-- Enqueues a job of a schedule now. The call is idempotent if the caller passes a job_id.
create function public.run_schedule(name text, job_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._enqueue(jsonb_build_array(picture_queue._schedule_job(
    jsonb_populate_record(null::picture_queue.schedule, picture_queue._get_schedule(name)), picture_queue._now(),
    coalesce(job_id, gen_random_uuid())))) -> 0;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;
comment on function public.run_schedule is
  'Enqueues a job of a schedule now, even if it is paused; its next tick does not change.';

-- Lists schedules by name. A page ends after limit rows, or with the row that makes it larger than 8 MiB.
create function public.list_schedules(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(to_jsonb(s) - 'bytes_before' order by s.name), '[]')
    from (
      select s.*, sum(length(s.job::text)) over (order by s.name) - length(s.job::text) as bytes_before
      from picture_queue.schedule s
      where s.name > coalesce(filter ->> 'after', '') order by s.name limit coalesce((filter ->> 'limit')::integer, 10000)
    ) s
    where s.bytes_before <= 8388608);  -- 8 MiB
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_schedules is 'The schedules, by name.';
