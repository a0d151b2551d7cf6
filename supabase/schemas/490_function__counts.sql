-- Counts without reading all jobs: the functions add up the rows of depth and depth_change, and use short index scans.

-- Returns the time since which the oldest claimable job of a queue has waited. It reads the first 50 jobs of each of
-- the first 16 priorities. These include jobs that no worker takes, since such jobs stay at the head of the queue.
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

-- Returns the counts of each queue. finished_last_minute is exact, since the changes of the last minute are not
-- aggregated yet; finished_last_hour begins with a full minute.
create function picture_queue.counts()
returns table (queue text, pending bigint, scheduled bigint, blocked bigint, waiting bigint, processing bigint,
  parked bigint, completed bigint, failed bigint, cancelled bigint, oldest_seconds numeric,
  finished_last_minute bigint, finished_last_hour bigint, failed_last_day bigint, workers bigint)
language sql stable security definer rows 20 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with t as materialized (select picture_queue._now() as now),
  depths as materialized (
    select q.name as queue,
      coalesce(sum(d.n) filter (where d.status = 'pending' and d.hold is null), 0)::bigint as pending,
      coalesce(sum(d.n) filter (where d.hold = 'scheduled'), 0)::bigint as scheduled,
      coalesce(sum(d.n) filter (where d.hold = 'blocked'), 0)::bigint as blocked,
      coalesce(sum(d.n) filter (where d.hold = 'waiting'), 0)::bigint as waiting,
      coalesce(sum(d.n) filter (where d.status = 'processing' and d.hold is null), 0)::bigint as processing,
      coalesce(sum(d.n) filter (where d.hold = 'parked'), 0)::bigint as parked,
      coalesce(sum(d.n) filter (where d.status = 'completed'), 0)::bigint as completed,
      coalesce(sum(d.n) filter (where d.status = 'failed'), 0)::bigint as failed,
      coalesce(sum(d.n) filter (where d.status = 'cancelled'), 0)::bigint as cancelled
    from picture_queue.queue q
    left join picture_queue._depths() d on d.queue = q.name
    group by q.name
  ),
  finished as materialized (
    select f.queue, coalesce(sum(f.n) filter (where f.at > t.now - interval '1 minute'), 0)::bigint as last_minute,
      sum(f.n)::bigint as last_hour
    from t
    cross join lateral (
      select p.queue, p.n, '-infinity'::timestamptz as at from picture_queue.throughput p
      where p.minute >= date_trunc('minute', t.now - interval '1 hour')
      union all
      select c.queue, c.n, c.at from picture_queue.depth_change c
      where c.n > 0 and c.at >= date_trunc('minute', t.now - interval '1 hour')
        and c.status in ('completed', 'failed', 'cancelled')) f
    group by f.queue
  ),
  -- Jobs that failed in the last day, among the newest 10,000 failed jobs. A job that was retried since is not
  -- counted.
  last_day as materialized (
    select f.queue, count(*) as n
    from (
      select j.queue from public.job_queue j
      where j.status = 'failed' and j.finished_at is not null
        and j.finished_at > (select t.now - interval '1 day' from t)
      order by j.finished_at desc limit 10000
    ) f group by f.queue
  )
  select d.queue, d.pending, d.scheduled, d.blocked, d.waiting, d.processing, d.parked, d.completed, d.failed, d.cancelled,
    case when d.pending > 0 then
      round(greatest(extract(epoch from t.now - picture_queue._oldest_due(d.queue)), 0), 3) end,
    coalesce(f.last_minute, 0), coalesce(f.last_hour, 0), coalesce(failed.n, 0),
    (select count(*) from picture_queue.worker w
      where w.queues @> array[d.queue] and w.seen_at > t.now - interval '1 minute')
  from depths d
  cross join t
  left join finished f on f.queue = d.queue
  left join last_day failed on failed.queue = d.queue
  order by d.queue
$$;
