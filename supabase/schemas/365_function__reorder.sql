-- New places in the order of claims for the jobs of a queue whose fair_share or aging_seconds was changed.

-- Updates the place (rank, turn, tenant) of jobs to the current order of their queue, as _assign_order computes it for
-- new jobs. The caller has locked the jobs. A job whose place already fits that order keeps it. Under fair_share the
-- tenants take turns from the head of the queue, and the jobs of each tenant stay in the order of seq. Returns the
-- number of jobs.
create function picture_queue._renumber_jobs(p_ids uuid[]) returns integer
language sql volatile set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with misplaced as (
    select j.id, j.seq, j.queue, q.fair_share, p.rank, p.turn,
      case when q.fair_share then coalesce(j.tenant, default_tenant.tenant) else nullif(j.tenant, default_tenant.tenant) end as tenant
    from public.job_queue j
    join picture_queue.queue q on q.name = j.queue
    cross join lateral (
      select case when q.aging_seconds is null then -j.priority else 0 end as rank,
        extract(epoch from greatest(j.created_at, case when j.attempt = 0 then j.scheduled_for end))
          - coalesce(j.priority::double precision * q.aging_seconds, 0) as turn
    ) p
    -- The tenant that a job without a tenant gets under fair_share.
    cross join lateral (select coalesce(j.user_id::text, '') as tenant) default_tenant
    -- The turn of a job shows which order it fits: under fair_share a turn is a small number above 0, otherwise a Unix
    -- time above a billion.
    where j.id = any (p_ids) and (j.rank <> p.rank or case
      when q.fair_share then j.tenant is null or j.turn <= 0 or j.turn >= 1000000000
      else j.tenant = default_tenant.tenant or abs(j.turn - p.turn) > 1 end)
  ),
  tenant_state as (
    select l.queue, l.tenant, l.rank, 1 / coalesce(w.weight, 1) as step, coalesce((
      select o.turn from public.job_queue o
      where o.status = 'pending' and o.hold is null and o.tenant is not null
        and o.queue = l.queue and o.tenant = l.tenant and o.rank = l.rank and o.seq < l.first_seq
      order by o.turn desc limit 1), 0) as last_turn
    from (
      select m.queue, m.tenant, m.rank, min(m.seq) as first_seq from misplaced m
      where m.fair_share group by m.queue, m.tenant, m.rank
    ) l
    left join picture_queue.tenant w on w.name = l.tenant
  )
  update public.job_queue j set rank = n.rank, turn = n.turn, tenant = n.tenant
  from (
    select m.id, m.rank, m.tenant, coalesce(
      l.last_turn + l.step * row_number() over (partition by m.queue, m.tenant, m.rank order by m.seq), m.turn) as turn
    from misplaced m
    left join tenant_state l on l.queue = m.queue and l.tenant = m.tenant and l.rank = m.rank
  ) n
  where j.id = any (p_ids) and j.id = n.id;
  select cardinality(p_ids)
$$;

-- Gives the next p_limit jobs of these queues their new places, in order of seq; running jobs too, since they may be
-- retried. It skips locked jobs, and records jobs that cannot be updated in failed_step. A second pass, a minute after
-- the change of the queue, processes these jobs again. Returns the number of jobs examined.
create function picture_queue._reorder_queues(p_queues text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_queue picture_queue.queue;
  v_ids uuid[];
  v_last_seq bigint;
  v_remaining integer := p_limit;
begin
  for v_queue in
    select * from picture_queue.queue q
    where q.name = any (p_queues) and q.reorder_after is not null order by q.name for no key update skip locked
  loop
    exit when v_remaining <= 0;
    select array_agg(o.id order by o.seq), max(o.seq) into v_ids, v_last_seq
    from (
      (select j.id, j.seq from public.job_queue j
        where j.queue = v_queue.name and j.status = 'pending' and j.seq > v_queue.reorder_after
        order by j.seq limit v_remaining)
      union all
      (select j.id, j.seq from public.job_queue j
        where j.status = 'processing' and (j.hold is null or j.hold = 'parked') and j.queue = v_queue.name
          and j.seq > v_queue.reorder_after
        order by j.seq limit v_remaining)
      order by seq limit v_remaining
    ) o;
    perform picture_queue._run_isolated('renumber', array(
      select j.id from public.job_queue j where j.id = any (v_ids) order by j.id for update skip locked
    )::text[], v_remaining);
    -- If the time is used up, reorder_after stays unchanged: the next call begins with the same jobs.
    exit when picture_queue._is_out_of_time();
    update picture_queue.queue q set
      reorder_after = case when v_last_seq is not null then v_last_seq when v_queue.reorder_again_at <= v_now then 0
        when v_queue.reorder_again_at is not null then v_queue.reorder_after end,
      reorder_again_at = case when v_last_seq is not null or v_queue.reorder_again_at > v_now then v_queue.reorder_again_at end
    where q.name = v_queue.name;
    v_remaining := v_remaining - coalesce(cardinality(v_ids), 0);
  end loop;
  return p_limit - v_remaining;
end
$$;
