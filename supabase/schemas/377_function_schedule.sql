-- Makes a schedule or changes it into this one; what is not said is as by default, but a schedule that
-- is paused stays so. Setting the same again changes nothing.
create function public.set_schedule(name text, schedule jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_said jsonb := schedule;
  v_new picture_queue.schedule;
  v_old picture_queue.schedule;
begin
  if jsonb_typeof(schedule) = 'object' then
    select coalesce(jsonb_object_agg(e.key, e.value), '{}') into v_said
    from jsonb_each(schedule) e where e.value <> 'null';
  end if;
  perform picture_queue._refuse_problem(picture_queue._schedule_problem(name, v_said),
    'a rhythm, perhaps timezone, missed and paused, and the fields of a job; for each job there are '
    'options.delay_seconds, expires_in_seconds and unique');
  v_new.name := set_schedule.name;
  v_new.cron := regexp_replace(btrim(v_said ->> 'cron', E' \t\n'), '[[:space:]]+', ' ', 'g');
  v_new.every_seconds := (v_said ->> 'every_seconds')::double precision;
  v_new.timezone := picture_queue._timezone(coalesce(v_said ->> 'timezone', 'UTC'));
  v_new.missed := coalesce(v_said ->> 'missed', 'once');
  v_new.job := v_said - '{cron,every_seconds,timezone,missed,paused}'::text[];
  v_new.created_at := v_now;
  v_new.next_at := picture_queue._schedule_next(v_new, v_now);
  if v_new.next_at is null then
    perform picture_queue._refuse('PQ_INVALID_CRON',
      format('cron is "%s", which does not come in eight years', v_new.cron), 'is there such a day in that month?');
  end if;
  -- As a tick will enqueue it.
  perform picture_queue._check_jobs(jsonb_build_array(picture_queue._schedule_job(v_new, v_now, gen_random_uuid())));

  insert into picture_queue.schedule (name, cron, every_seconds, timezone, job, missed, next_at, created_at, updated_at)
  values (v_new.name, v_new.cron, v_new.every_seconds, v_new.timezone, v_new.job, v_new.missed, v_new.next_at, v_now, v_now)
  on conflict on constraint schedule_pkey do nothing;
  select * into v_old from picture_queue.schedule s where s.name = set_schedule.name for update;
  v_new.paused := coalesce((v_said ->> 'paused')::boolean, v_old.paused);
  v_new.created_at := v_old.created_at;
  v_new.next_at := case
    when v_new.paused then null
    when not v_old.paused and (v_old.cron, v_old.every_seconds, v_old.timezone)
      is not distinct from (v_new.cron, v_new.every_seconds, v_new.timezone) then v_old.next_at
    else picture_queue._schedule_next(v_new, v_now)
  end;
  update picture_queue.schedule s set cron = v_new.cron, every_seconds = v_new.every_seconds,
    timezone = v_new.timezone, job = v_new.job, missed = v_new.missed, paused = v_new.paused,
    next_at = v_new.next_at, last_error = null, updated_at = v_now
  where s.name = set_schedule.name and (s.cron, s.every_seconds, s.timezone, s.job, s.missed, s.paused) is distinct from
    (v_new.cron, v_new.every_seconds, v_new.timezone, v_new.job, v_new.missed, v_new.paused);
  perform picture_queue._plan_maintenance(v_new.next_at);
  return picture_queue._get_schedule(name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.set_schedule is 'Makes or changes a schedule; setting the same again changes nothing.';

create function public.delete_schedule(name text, request_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_answer jsonb := picture_queue._first_answer('delete_schedule', request_id::text);
begin
  if v_answer is not null then
    return v_answer;
  end if;
  delete from picture_queue.schedule s where s.name = delete_schedule.name;
  return picture_queue._keep_answer('delete_schedule', request_id::text, jsonb_build_object('deleted', found));
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.delete_schedule is 'Deletes a schedule; the jobs it made stay. Says whether there was one.';

create function public.pause_schedule(name text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  update picture_queue.schedule s set paused = true, next_at = null, updated_at = picture_queue._now()
  where s.name = pause_schedule.name and not s.paused;
  return picture_queue._get_schedule(pause_schedule.name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.pause_schedule is 'A paused schedule makes no jobs.';

-- The ticks of the pause were not missed. The schedule is checked as if it were set anew.
create function public.resume_schedule(name text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select public.set_schedule(resume_schedule.name, s -> 'job' || '{"paused": false}' || jsonb_build_object(
    'cron', s -> 'cron', 'every_seconds', s -> 'every_seconds', 'timezone', s -> 'timezone', 'missed', s -> 'missed'))
  from picture_queue._get_schedule(resume_schedule.name) s
$$;
comment on function public.resume_schedule is 'A paused schedule goes on with its next tick from now.';

-- With a job_id made by the caller the call can be repeated.
create function public.run_schedule(name text, job_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._enqueue(jsonb_build_array(picture_queue._schedule_job(
    jsonb_populate_record(null::picture_queue.schedule, picture_queue._get_schedule(name)), picture_queue._now(),
    coalesce(job_id, gen_random_uuid())))) -> 0;
exception when lock_not_available or deadlock_detected or serialization_failure then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.run_schedule is
  'Makes a job of a schedule now; its ticks stay as they are. Paused ones too.';

create function public.list_schedules() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(to_jsonb(s) order by s.name), '[]') from picture_queue.schedule s
$$;
comment on function public.list_schedules is 'The schedules, by name.';
