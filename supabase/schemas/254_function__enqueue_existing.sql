-- Meets the jobs that are in the way of new ones and answers, by place in the call, which they are and
-- what became of them. Where a unique key is free, or is freed since its period is over, the place is left
-- out: the caller tries that job again.
create function picture_queue._meet_existing(p_jobs picture_queue.new_job[], p_made public.job_queue[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_answer jsonb := '{}'::jsonb;
  v_met record;
  v_outcome text;
begin
  update public.job_queue j set unique_states = '{}'
  from unnest(p_jobs) n
  where j.unique_key = n.unique_key and j.status = any (j.unique_states) and j.unique_until <= v_now;

  for v_met in
    select n.i, coalesce(x.id, k.id, u.id) as id,
      x.id is not null and (x.job_type, x.user_id) is distinct from (n.job_type, n.user_id) as differs,
      coalesce(x.id, k.id) is null and n.on_conflict <> 'ignore' as changes
    from (
      select n.*, row_number() over (partition by n.job_id order by n.i) as nth from unnest(p_jobs) n
    ) n
    left join unnest(p_made) m on m.id = n.job_id and n.nth = 1
    left join public.job_queue x on x.id = n.job_id
    left join public.job_queue k on x.id is null and n.idempotency_key is not null
      and k.idempotency_key = n.idempotency_key and k.job_type = n.job_type and k.user_id is not distinct from n.user_id
    left join public.job_queue u on x.id is null and k.id is null
      and u.unique_key = n.unique_key and u.status = any (u.unique_states)
    where m.id is null and coalesce(x.id, k.id, u.id) is not null
    order by n.i
  loop
    if v_met.differs then
      perform picture_queue._refuse('PQ_CONFLICT', format('job_id %s is another job', v_met.id), 'make a new uuid for each job');
    end if;
    v_outcome := case when v_met.changes then picture_queue._renew(v_met.id, p_jobs, v_met.i) else 'existing' end;
    if v_outcome is not null then
      v_answer := v_answer || jsonb_build_object(v_met.i, jsonb_build_object('job_id', v_met.id, 'outcome', v_outcome));
    end if;
  end loop;
  return v_answer;
end
$$;

-- Gives a waiting job what the new one in its way would have had: everything (replace), or the newest
-- payload and a later time (debounce). One that runs cannot be replaced; one that has finished stays. Null:
-- until it could be locked it has come out of the way.
create function picture_queue._renew(p_id uuid, p_jobs picture_queue.new_job[], p_i integer) returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_new picture_queue.new_job;
  v_old public.job_queue;
  v_replace boolean;
begin
  select * into v_new from unnest(p_jobs) n where n.i = p_i;
  select * into v_old from public.job_queue j
  where j.id = p_id and j.unique_key = v_new.unique_key and j.status = any (j.unique_states) for update;
  if not found then
    return null;
  end if;
  v_replace := v_new.on_conflict = 'replace';
  if v_old.status = 'processing' and v_replace then
    perform picture_queue._refuse('PQ_RUNNING_JOB', format('job %s is running', p_id),
      'on_conflict ignore leaves it; with states ["pending"] a running job is not in the way');
  elsif v_old.status <> 'pending' then
    return 'existing';
  end if;
  update public.job_queue j set
    payload = v_new.payload,
    metadata = case when v_replace then v_new.metadata else j.metadata end,
    tags = case when v_replace then v_new.tags else j.tags end,
    priority = case when v_replace then v_new.priority else j.priority end,
    limit_keys = case when v_replace then v_new.limit_keys else j.limit_keys end,
    -- Its place in line was worked out for the queue of the new one.
    rank = case when v_replace and j.queue = v_new.queue then v_new.rank else j.rank end,
    turn = case when v_replace and j.queue = v_new.queue then v_new.turn else j.turn end,
    tenant = case when v_replace and j.queue = v_new.queue then v_new.tenant else j.tenant end,
    timeout_seconds = case when v_replace then v_new.timeout_seconds else j.timeout_seconds end,
    backoff = case when v_replace then v_new.backoff else j.backoff end,
    max_attempts = case when v_replace then coalesce(v_new.max_attempts, j.max_attempts) else j.max_attempts end,
    expires_at = case when v_replace then v_new.expires_at else j.expires_at end,
    unique_until = v_new.unique_until,
    -- Of one that waits for its parents, the time counts when they have finished.
    scheduled_for = case when j.hold = 'waiting' then v_new.scheduled_for else j.scheduled_for end
  where j.id = p_id;
  if v_new.scheduled_for > picture_queue._now() then
    perform picture_queue._transition(array[picture_queue._change(p_id, 'delay', null, v_new.scheduled_for)]);
  elsif v_old.hold = 'scheduled' or (v_old.hold = 'blocked' and v_replace) then
    -- It may have other keys now: the next claim sees.
    perform picture_queue._transition(array[
      picture_queue._change(p_id, case v_old.hold when 'scheduled' then 'promote' else 'unblock' end)]);
    perform picture_queue._wake(array[v_old.queue], 'enqueue');
  end if;
  return case when v_replace then 'replaced' else 'debounced' end;
end
$$;
