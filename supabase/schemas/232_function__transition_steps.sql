-- Steps of _transition that only some jobs need. _start calls the first two as well.

-- Keeps the last 50 rows of history of each job.
create function picture_queue._trim_history(p_ids uuid[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  delete from picture_queue.history h
  using public.job_queue j
  where j.id = any (p_ids) and j.version > 50 and h.job_id = j.id and h.id <= (
    select o.id from picture_queue.history o where o.job_id = j.id order by o.id desc offset 50 limit 1)
$$;

-- Copies the state of these jobs to their generations. If another transaction keeps a generation locked for over 10
-- milliseconds, the change fails. Settles the cost of generations that end, and reserves the cost of retried
-- generations again.
create function picture_queue._mirror_generations(p_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100 set lock_timeout = '10ms'
as $$
declare
  v_ended uuid[];
  v_retried uuid[];
begin
  with changed as (
    update public.generations g
    set status = j.status, error = j.error, finished_at = j.finished_at, updated_at = j.updated_at
    from public.job_queue j
    cross join lateral (select o.status from public.generations o where o.id = j.generation_id offset 0) previous
    where j.id = any (p_ids) and j.generation_id is not null and g.id = j.generation_id
      and (g.status, g.error) is distinct from (j.status, j.error)
    returning g.id, g.status in ('completed', 'failed', 'cancelled') as ends,
      previous.status in ('completed', 'failed', 'cancelled') as had_ended
  )
  select array_agg(c.id) filter (where c.ends and not c.had_ended),
    array_agg(c.id) filter (where c.had_ended and not c.ends)
  into v_ended, v_retried
  from changed c;
  if v_ended is not null then
    perform picture_queue._settle_ended(v_ended);
  end if;
  if v_retried is not null then
    perform picture_queue._reserve_again(v_retried);
  end if;
end
$$;

-- Appends limit keys to freed_key, so that the next claim or maintenance unblocks other jobs. For jobs that stopped
-- running (p_ended), these are their slots. For jobs that changed, but were not started, blocked or unblocked
-- (p_was_blocked), it is their blocked_on: such a job may have been unblocked for a slot that it does not take.
create function picture_queue._record_freed_keys(p_ended uuid[], p_was_blocked uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_keys text[];
begin
  with freed as (
    insert into picture_queue.freed_key (key, n, at)
    select k.key, sum(k.n), picture_queue._now()
    from (
      select unnest(j.slots) as key, 1 as n from public.job_queue j where j.id = any (p_ended)
      union all
      select j.blocked_on, 0 from public.job_queue j where j.id = any (p_was_blocked) and j.blocked_on is not null
    ) k
    group by k.key
    returning key
  )
  select array_agg(f.key) into v_keys from freed f;
  -- Wake maintenance, since idle workers, which found no job, do not claim until a message wakes them.
  if exists (
    select from unnest(v_keys) as k (key)
    where (select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1))
  then
    perform picture_queue._wake_maintenance(picture_queue._now());
  end if;
end
$$;

-- Returns the turn after which the next job of a tenant is placed: the turn of its last claimable job, but at least
-- the turn of the first claimable job of the queue (start-time fair queueing). It ignores the jobs in p_except, which
-- are about to get a turn. Two concurrent enqueues may assign the same turn twice, which is harmless.
create function picture_queue._last_turn(p_queue text, p_tenant text, p_rank integer, p_except uuid[])
returns double precision
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  select greatest(0,
    (select j.turn from public.job_queue j
      where j.status = 'pending' and j.hold is null and j.queue = p_queue and j.rank = p_rank and j.id <> all (p_except)
      order by j.turn, j.seq limit 1),
    (select j.turn from public.job_queue j
      where j.status = 'pending' and j.hold is null and j.tenant is not null
        and j.queue = p_queue and j.tenant = p_tenant and j.rank = p_rank and j.id <> all (p_except)
      order by j.turn desc limit 1))
$$;

-- Gives jobs that became claimable in a queue with fair_share a turn after the last job of their tenant.
create function picture_queue._assign_turns(p_ids uuid[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with claimable as (
    select j.id, j.queue, j.tenant, j.rank, j.turn, j.seq from public.job_queue j
    where j.id = any (p_ids) and j.tenant is not null and j.status = 'pending' and j.hold is null
      and (select q.fair_share from picture_queue.queue q where q.name = j.queue)
  ),
  tenants as (
    select t.queue, t.tenant, t.rank, 1 / coalesce(w.weight, 1) as step,
      picture_queue._last_turn(t.queue, t.tenant, t.rank, p_ids) as last_turn
    from (select distinct queue, tenant, rank from claimable) t
    left join picture_queue.tenant w on w.name = t.tenant
  )
  update public.job_queue j set turn = assigned.turn
  from (
    select c.id, t.last_turn
      + t.step * row_number() over (partition by c.queue, c.tenant, c.rank order by c.turn, c.seq) as turn
    from claimable c
    join tenants t on t.queue = c.queue and t.tenant = c.tenant and t.rank = c.rank
  ) assigned
  where j.id = any (p_ids) and j.id = assigned.id
$$;
