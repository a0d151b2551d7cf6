-- Creates or replaces a schedule. Fields that are not given get their defaults, except that a paused schedule stays
-- paused. The call is idempotent.
create function picture_queue._set_schedule(p_name text, p_schedule jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_given jsonb := p_schedule;
  v_new picture_queue.schedule;
  v_old picture_queue.schedule;
begin
  perform picture_queue._check_isolation();
  if jsonb_typeof(p_schedule) = 'object' then
    select coalesce(jsonb_object_agg(e.key, e.value), '{}') into v_given
    from jsonb_each(p_schedule) e where e.value <> 'null';
  end if;
  perform picture_queue._refuse_problem(picture_queue._schedule_problem(p_name, v_given),
    'a rhythm, perhaps timezone, missed and paused, and the fields of a job; for each job there are '
    'options.delay_seconds, expires_in_seconds and unique');
  v_new.name := p_name;
  v_new.cron := regexp_replace(btrim(v_given ->> 'cron', E' \t\n'), '[[:space:]]+', ' ', 'g');
  v_new.every_seconds := (v_given ->> 'every_seconds')::double precision;
  v_new.timezone := picture_queue._timezone(coalesce(v_given ->> 'timezone', 'UTC'));
  v_new.missed := coalesce(v_given ->> 'missed', 'once');
  v_new.job := v_given - '{cron,every_seconds,timezone,missed,paused}'::text[];
  v_new.created_at := v_now;
  v_new.next_at := picture_queue._schedule_next(v_new, v_now);
  if v_new.next_at is null then
    perform picture_queue._refuse('PQ_INVALID_CRON',
      format('cron is "%s", which does not come in eight years', v_new.cron), 'is there such a day in that month?');
  end if;
  -- Validate the job as a tick will enqueue it.
  perform picture_queue._check_jobs(jsonb_build_array(picture_queue._schedule_job(v_new, v_now, gen_random_uuid())));

  select * into v_old from picture_queue.schedule s where s.name = p_name for update;
  v_new.paused := coalesce((v_given ->> 'paused')::boolean, v_old.paused, false);
  v_new.created_at := coalesce(v_old.created_at, v_now);
  v_new.next_at := case
    when v_new.paused then null
    when not v_old.paused and (v_old.cron, v_old.every_seconds, v_old.timezone)
      is not distinct from (v_new.cron, v_new.every_seconds, v_new.timezone) then v_old.next_at
    else picture_queue._schedule_next(v_new, v_now)
  end;
  if (v_new.cron, v_new.every_seconds, v_new.timezone, v_new.job, v_new.missed, v_new.paused) is distinct from
    (v_old.cron, v_old.every_seconds, v_old.timezone, v_old.job, v_old.missed, v_old.paused)
  then
    v_new.updated_at := v_now;
    perform picture_queue._write_row(
      'picture_queue.schedule', 'name', p_name, to_jsonb(v_new) - '{name,last_at,last_job_id}'::text[]);
  end if;
  perform picture_queue._plan_maintenance(v_new.next_at);
  return picture_queue._get_schedule(p_name);
end
$$;

create function public.set_schedule(name text, schedule jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._set_schedule(name, schedule);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.set_schedule is 'Creates or replaces a schedule; setting the same again changes nothing.';

create function public.delete_schedule(name text, request_id uuid default null) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(picture_queue._first_answer('delete_schedule', request_id::text),
    picture_queue._keep_answer('delete_schedule', request_id::text, jsonb_build_object(
      'deleted', picture_queue._write_row('picture_queue.schedule', 'name', name, null))))
$$;
comment on function public.delete_schedule is 'Deletes a schedule; the jobs it made stay. Says whether there was one.';

create function public.pause_schedule(name text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  update picture_queue.schedule s set paused = true, next_at = null, updated_at = picture_queue._now()
  where s.name = pause_schedule.name and not s.paused;
  return picture_queue._get_schedule(pause_schedule.name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.pause_schedule is 'Pauses a schedule: it makes no jobs.';

-- Resumes a schedule. Ticks during the pause do not count as missed. The schedule is validated as in set_schedule.
create function public.resume_schedule(name text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_old jsonb;
begin
  v_old := picture_queue._get_schedule(name);
  return public.set_schedule(name, v_old -> 'job' || '{"paused": false}' || jsonb_build_object('cron', v_old -> 'cron',
    'every_seconds', v_old -> 'every_seconds', 'timezone', v_old -> 'timezone', 'missed', v_old -> 'missed'));
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.resume_schedule is 'Resumes a schedule with its next tick.';

-- Enqueues a job of the schedule now. The call is idempotent if the caller passes a job_id.
create function public.run_schedule(name text, job_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._enqueue(jsonb_build_array(picture_queue._schedule_job(
    jsonb_populate_record(null::picture_queue.schedule, picture_queue._get_schedule(name)), picture_queue._now(),
    coalesce(job_id, gen_random_uuid())))) -> 0;
exception when others then
  perform picture_queue._refuse_error(sqlstate, sqlerrm);
  raise;
end
$$;
comment on function public.run_schedule is
  'Enqueues a job of a schedule now, even if it is paused; its ticks stay as they are.';

-- filter: limit, after (see _check_page). A page ends after limit rows, or with the row that makes it larger than
-- 8 MiB.
create function public.list_schedules(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_page(filter);
  return (
    select coalesce(jsonb_agg(to_jsonb(s) - 'bytes_before' order by s.name), '[]')
    from (
      select s.*, sum(length(s.job::text)) over (order by s.name) - length(s.job::text) as bytes_before
      from picture_queue.schedule s
      where s.name > coalesce(filter ->> 'after', '') order by s.name limit coalesce((filter ->> 'limit')::integer, 10000)
    ) s
    where s.bytes_before <= 8388608);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.list_schedules is 'The schedules, by name.';
