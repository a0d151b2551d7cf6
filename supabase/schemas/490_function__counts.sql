-- Counts that never look at all jobs: picture_queue.depth with what changed since, and short probes of
-- indexes.

-- Since when the oldest job that could be claimed waits: the eldest of the first 50 in line of each of
-- the first 16 priorities. Jobs nobody takes are at the head of their line.
create function picture_queue._oldest_due(p_queue text) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with recursive ranks as (
    (select j.rank, 1 as n from public.job_queue j
      where j.queue = p_queue and j.status = 'pending' and j.hold is null
      order by j.rank limit 1)
    union all
    select o.rank, r.n + 1
    from ranks r
    cross join lateral (
      select j.rank from public.job_queue j
      where j.queue = p_queue and j.status = 'pending' and j.hold is null and j.rank > r.rank
      order by j.rank limit 1) o
    where r.n < 16
  )
  select min(greatest(o.created_at, o.scheduled_for))
  from ranks r
  cross join lateral (
    select j.created_at, j.scheduled_for from public.job_queue j
    where j.queue = p_queue and j.status = 'pending' and j.hold is null and j.rank = r.rank
    order by j.turn, j.seq limit 50) o
$$;

-- How many jobs of each queue are in each state. A finished job is counted where it is kept.
create function picture_queue._depths()
returns table (queue text, status text, hold text, n bigint)
language sql stable rows 100 set search_path = pg_catalog, pg_temp
as $$
  select c.queue, c.status, c.hold, sum(c.n)::bigint
  from (
    select d.queue, d.status, d.hold, d.n from picture_queue.depth d
    union all
    select d.queue, d.status, d.hold, d.n::bigint from picture_queue.depth_change d
  ) c
  group by c.queue, c.status, c.hold
$$;

-- How many jobs of each queue finished since the beginning of that minute, by status.
create function picture_queue._finished_since(p_since timestamptz)
returns table (queue text, status text, n bigint)
language sql stable rows 100 set search_path = pg_catalog, pg_temp
as $$
  select c.queue, c.status, sum(c.n)::bigint
  from (
    select t.queue, t.status, t.n from picture_queue.throughput t where t.minute >= p_since
    union all
    select d.queue, d.status, d.n::bigint from picture_queue.depth_change d
    where d.n > 0 and d.at >= p_since and d.status in ('completed', 'failed', 'cancelled')
  ) c
  group by c.queue, c.status
$$;

-- One row a queue, for people, dashboards and scalers. What finished in the last minute is not folded
-- yet, so that it is exact; the hour begins with a full minute.
create function picture_queue.counts()
returns table (queue text, pending bigint, scheduled bigint, blocked bigint, waiting bigint, processing bigint,
  parked bigint, completed bigint, failed bigint, cancelled bigint, oldest_seconds numeric,
  finished_last_minute bigint, finished_last_hour bigint, failed_last_day bigint, workers bigint)
language sql stable security definer rows 20 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with depths as materialized (
    select d.queue,
      sum(d.n) filter (where d.status = 'pending' and d.hold is null) as pending,
      sum(d.n) filter (where d.hold = 'scheduled') as scheduled,
      sum(d.n) filter (where d.hold = 'blocked') as blocked,
      sum(d.n) filter (where d.hold = 'waiting') as waiting,
      sum(d.n) filter (where d.status = 'processing' and d.hold is null) as processing,
      sum(d.n) filter (where d.hold = 'parked') as parked,
      sum(d.n) filter (where d.status = 'completed') as completed,
      sum(d.n) filter (where d.status = 'failed') as failed,
      sum(d.n) filter (where d.status = 'cancelled') as cancelled
    from picture_queue._depths() d group by d.queue
  ),
  minute as materialized (
    select d.queue, sum(d.n) as n from picture_queue.depth_change d
    where d.n > 0 and d.at > (select picture_queue._now() - interval '1 minute') and d.status in ('completed', 'failed', 'cancelled')
    group by d.queue
  ),
  hour as materialized (
    select f.queue, sum(f.n) as n
    from picture_queue._finished_since(date_trunc('minute', picture_queue._now() - interval '1 hour')) f group by f.queue
  ),
  -- Jobs, not failures: what was retried since is not among them. The newest 10,000 of all queues are looked at.
  day as materialized (
    select f.queue, count(*) as n
    from (
      select j.queue from public.job_queue j
      where j.status = 'failed' and j.finished_at is not null
        and j.finished_at > (select picture_queue._now() - interval '1 day')
      order by j.finished_at desc limit 10000
    ) f group by f.queue
  )
  select q.name, coalesce(d.pending, 0)::bigint, coalesce(d.scheduled, 0)::bigint, coalesce(d.blocked, 0)::bigint,
    coalesce(d.waiting, 0)::bigint, coalesce(d.processing, 0)::bigint, coalesce(d.parked, 0)::bigint,
    coalesce(d.completed, 0)::bigint, coalesce(d.failed, 0)::bigint, coalesce(d.cancelled, 0)::bigint,
    case when d.pending > 0 then
      round(greatest(extract(epoch from picture_queue._now() - picture_queue._oldest_due(q.name)), 0), 3) end,
    coalesce(m.n, 0)::bigint, coalesce(h.n, 0)::bigint, coalesce(y.n, 0)::bigint,
    (select count(*) from picture_queue.worker w
      where w.queues @> array[q.name] and w.seen_at > (select picture_queue._now() - interval '1 minute'))
  from picture_queue.queue q
  left join depths d on d.queue = q.name
  left join minute m on m.queue = q.name
  left join hour h on h.queue = q.name
  left join day y on y.queue = q.name
  order by q.name
$$;
