begin;
select plan((select 1 + count(*)::integer from picture_queue.state_transition));

-- The job for the action claim has its own queue, so that the claim finds no other job.
select lives_ok($$ select set_queue('claimed') $$);

-- Inserts a job in the first state of a transition, makes the transition, and returns the new state.
create function make_transition(p_transition picture_queue.state_transition) returns text language plpgsql as $$
declare
  v_id uuid := gen_random_uuid();
  v_job public.job_queue;
begin
  insert into public.job_queue (id, job_type, queue, status, hold, attempt, max_attempts, scheduled_for, blocked_on, parked_on,
    lease_id, lease_expires_at, lease_seconds, worker, started_at, finished_at)
  values (v_id, 't', case p_transition.action when 'claim' then 'claimed' else 'default' end, p_transition.from_status, p_transition.from_hold, 1, 3,
    case when p_transition.from_hold in ('scheduled', 'parked') or p_transition.action = 'await' then now() end, case when p_transition.from_hold = 'blocked' then 'k' end,
    case when p_transition.from_hold = 'parked' then 'ev' end, gen_random_uuid(),
    case when p_transition.from_status = 'processing' and p_transition.from_hold is null then now() + interval '1 minute' end, 60, 'w', now(),
    case when p_transition.from_status in ('failed', 'cancelled', 'completed') then now() end);
  if p_transition.action = 'claim' then
    perform claim_jobs('w', '{claimed}', '{t}');
  else
    perform picture_queue._transition(array[picture_queue._change(v_id, p_transition.action, 'why', now() + interval '1 hour', 'k')]);
  end if;
  select * into v_job from public.job_queue j where j.id = v_id;
  return concat_ws(',', v_job.status, coalesce(v_job.hold, '-'), v_job.attempt);
end
$$;
select is(make_transition(e), concat_ws(',', e.to_status, coalesce(e.to_hold, '-'), 1 + e.attempt_delta),
  format('%s from %s', e.action, concat_ws(' ', e.from_status, e.from_hold)))
from picture_queue.state_transition e order by e.action, e.from_status, e.from_hold;

select * from finish();
rollback;
