begin;
select plan((select 1 + count(*)::integer from picture_queue.state_transition));

select lives_ok($$ select set_queue('claimed') $$);

-- Inserts a job in the first state of a transition, makes the transition, and returns the new state.
create function make_transition(e picture_queue.state_transition) returns text language plpgsql as $$
declare
  v_id uuid := gen_random_uuid();
  v_job public.job_queue;
begin
  insert into public.job_queue (id, job_type, queue, status, hold, attempt, max_attempts, scheduled_for, blocked_on, parked_on,
    lease_id, lease_expires_at, lease_seconds, worker, started_at, finished_at)
  values (v_id, 't', case e.action when 'claim' then 'claimed' else 'default' end, e.from_status, e.from_hold, 1, 3,
    case when e.from_hold in ('scheduled', 'parked') or e.action = 'await' then now() end, case when e.from_hold = 'blocked' then 'k' end,
    case when e.from_hold = 'parked' then 'ev' end, gen_random_uuid(),
    case when e.from_status = 'processing' and e.from_hold is null then now() + interval '1 minute' end, 60, 'w', now(),
    case when e.from_status in ('failed', 'cancelled', 'completed') then now() end);
  if e.action = 'claim' then
    perform claim_jobs('w', '{claimed}', '{t}');
  else
    perform picture_queue._transition(array[picture_queue._change(v_id, e.action, 'why', now() + interval '1 hour', 'k')]);
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
