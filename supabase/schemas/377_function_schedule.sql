create function public.set_schedule(name text, schedule jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._set_schedule(name, schedule);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._refuse_busy();
  return null;
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
  perform picture_queue._refuse_busy();
  return null;
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
  perform picture_queue._refuse_busy();
  return null;
end
$$;
comment on function public.pause_schedule is 'A paused schedule makes no jobs.';

-- The ticks of the pause were not missed. The schedule is checked as if it were set anew.
create function public.resume_schedule(name text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_schedule jsonb := picture_queue._get_schedule(name);
begin
  return picture_queue._set_schedule(name, v_schedule -> 'job' || '{"paused": false}' || jsonb_build_object(
    'cron', v_schedule -> 'cron', 'every_seconds', v_schedule -> 'every_seconds',
    'timezone', v_schedule -> 'timezone', 'missed', v_schedule -> 'missed'));
exception when lock_not_available or deadlock_detected then
  perform picture_queue._refuse_busy();
  return null;
end
$$;
comment on function public.resume_schedule is 'A paused schedule goes on with its next tick from now.';

-- With a job_id made by the caller the call can be repeated.
create function public.run_schedule(name text, job_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_schedule picture_queue.schedule;
begin
  perform picture_queue._get_schedule(name);
  select * into v_schedule from picture_queue.schedule s where s.name = run_schedule.name;
  return picture_queue._enqueue(jsonb_build_array(picture_queue._schedule_job(
    v_schedule, picture_queue._now(), coalesce(job_id, gen_random_uuid())))) -> 0;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._refuse_busy();
  return null;
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
