-- Returns an overview for operators: the queues, the workers of the last minute, and the job types with pending jobs
-- for which no worker has a handler, at most 1,000 of each. Jobs without a worker stay at the head of their queue, so
-- it reads only the first 5,000 jobs of each queue.
create function public.queue_status() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
set lock_timeout = '2s'
as $$
begin
  return jsonb_build_object(
    'queues', (
      select coalesce(jsonb_agg(to_jsonb(h) || jsonb_build_object('paused', p.paused, 'draining', q.draining,
        'resume_at', case when p.paused then nullif(q.paused_until, 'infinity') end,
        'pause_reason', case when p.paused then q.pause_reason end) order by h.queue), '[]')
      from (select * from public.queue_health o order by o.queue limit 1000) h
      join picture_queue.queue q on q.name = h.queue
      cross join lateral (select coalesce(q.paused_until > picture_queue._now(), false) as paused) p),
    'workers', (
      select coalesce(jsonb_agg(jsonb_build_object('worker', w.name, 'queues', w.queues, 'job_types', w.job_types,
        'idle', w.idle, 'seen_at', w.seen_at,
        'seen_seconds', round(greatest(extract(epoch from picture_queue._now() - w.seen_at), 0), 1),
        'running', coalesce(l.running, 0)) order by w.name), '[]')
      from (
        select * from picture_queue.worker o
        where o.seen_at > picture_queue._now() - interval '1 minute' order by o.name limit 1000) w
      left join (
        select j.worker, count(*) as running from public.job_queue j
        where j.status = 'processing' and j.hold is null group by j.worker) l on l.worker = w.name),
    'job_types_without_worker', (
      select coalesce(jsonb_agg(jsonb_build_object('job_type', u.job_type, 'queue', u.queue, 'pending', u.pending)
        order by u.job_type, u.queue), '[]')
      from (
        select j.job_type, q.name as queue, count(*) as pending
        from picture_queue.queue q
        cross join lateral (
          select o.job_type from public.job_queue o
          where o.queue = q.name and o.status = 'pending' and o.hold is null
          order by o.rank, o.turn, o.seq limit 5000) j
        where not exists (
          select from picture_queue.worker w
          where q.name = any (w.queues) and j.job_type = any (w.job_types)
            and w.seen_at > picture_queue._now() - interval '1 minute')
        group by j.job_type, q.name order by j.job_type, q.name limit 1000
      ) u),
    'stuck', (select count(*) from public.stuck_jobs));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.queue_status is 'Queues, workers, and pending job types without a worker.';
