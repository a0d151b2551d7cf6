-- Queues: their settings, pausing, draining, purging.

-- Creates a queue if there is none, and changes its settings; null resets a setting to its default. If fair_share or
-- aging_seconds changes, the jobs of the queue get new places in the order of claims: the oldest 10,000 at once, the
-- others by maintenance.
create function public.set_queue(queue text, changes jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_old_queue record;
begin
  changes := coalesce(changes, '{}');
  perform picture_queue._check_fields('', changes, picture_queue._policy_rules() || '{
    "events": ["choice", "none", "status", "progress"],
    "fair_share": ["boolean"],
    "aging_seconds": ["number", 0.001, 31536000],
    "breaker_failures": ["integer", 1, 2147483647],
    "breaker_seconds": ["number", 0.001, 31536000],
    "draining": ["boolean"]
  }');
  perform picture_queue._raise_problem(case when coalesce(queue, '') !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'
    then format('queue is %s', quote_nullable(left(queue, 100))) end);
  perform picture_queue._write_row('picture_queue.queue', 'name', queue, '{}');
  select * into v_old_queue from picture_queue.queue q where q.name = set_queue.queue for no key update;
  perform picture_queue._write_row('picture_queue.queue', 'name', queue, changes);
  update picture_queue.queue q set reorder_after = 0, reorder_again_at = picture_queue._now() + interval '1 minute'
  where q.name = set_queue.queue
    and (q.fair_share, q.aging_seconds) is distinct from (v_old_queue.fair_share, v_old_queue.aging_seconds);
  if found then
    perform picture_queue._reorder_queues(array[queue], 10000);
  end if;
  return picture_queue._queue(queue);
exception
  when check_violation then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', (
      select string_agg(format('%s is %s', c.key, c.value), ', ' order by c.key)
      from jsonb_each_text(changes) as c (key, value) where c.key in ('fair_share', 'aging_seconds')),
      'a queue has one of them: set fair_share to false or aging_seconds to null');
    return null;
  when lock_not_available or deadlock_detected then
    return picture_queue._raise_busy();
end
$$;
comment on function public.set_queue is 'Creates a queue or changes its settings.';

-- Returns the numbers of jobs by queue and state. Finished jobs count until they are pruned.
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

-- Returns a page of the queues, sorted by name (_check_fields has the filter), or only the queue p_queue, with counts
-- of unfinished jobs.
create function picture_queue._queues(p_filter jsonb, p_queue text default null) returns setof jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(p_filter, 'null'));
  return query
  with states as materialized (
    select d.queue, jsonb_object_agg(coalesce(d.hold, d.status), d.n) as jobs from picture_queue._depths() d
    where d.status in ('pending', 'processing') and d.n <> 0 group by d.queue
  )
  select to_jsonb(q) - '{paused_until,reorder_after,reorder_again_at}'::text[] || jsonb_build_object(
    'paused', coalesce(q.paused_until > n.now, false),
    'resume_at', case when q.paused_until > n.now then nullif(q.paused_until, 'infinity') end,
    'pause_reason', case when q.paused_until > n.now then q.pause_reason end,
    'jobs', coalesce(s.jobs, '{}'))
  from picture_queue.queue q
  cross join (select picture_queue._now() as now offset 0) n
  left join states s on s.queue = q.name
  where (p_queue is null or q.name = p_queue) and q.name > coalesce(p_filter ->> 'after', '')
  order by q.name limit coalesce((p_filter ->> 'limit')::integer, 10000);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;

-- Returns one queue; refuses an unknown name.
create function picture_queue._queue(p_queue text) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select picture_queue._require((select q from picture_queue._queues('{}', coalesce(p_queue, '')) q),
    'PQ_UNKNOWN_QUEUE', format('queue is %s', left(quote_nullable(p_queue), 100)))
$$;

create function public.list_queues(filter jsonb default '{}') returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select coalesce(jsonb_agg(q), '[]') from picture_queue._queues(filter) q $$;
comment on function public.list_queues is 'The queues, their settings, and how many jobs each has.';

-- Returns the problem with the end of a pause; null if there is none. It refuses times after 9998, which clients
-- cannot read.
create function picture_queue._resume_at_problem(p_at timestamptz) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return case when p_at <= picture_queue._now() then format('resume_at is %s, which is past', p_at)
    when p_at > '9998-12-31T23:59Z' then format('resume_at is %s, not a time to 9998', p_at) end;
end
$$;

-- Pauses a queue: no jobs are claimed from it until resume_at, or until it is resumed. Running jobs continue.
create function public.pause_queue(queue text, resume_at timestamptz default null, reason text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._queue(queue);
  perform picture_queue._raise_problem(picture_queue._resume_at_problem(resume_at), 'name a time in the future, or none');
  perform picture_queue._write_row('picture_queue.queue', 'name', queue, jsonb_build_object(
    'paused_until', coalesce(resume_at, 'infinity'), 'pause_reason', left(reason, 500)));
  return picture_queue._queue(queue);
end
$$;
comment on function public.pause_queue is 'Stops claims from a queue.';

create function public.resume_queue(queue text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._queue(queue);
  perform picture_queue._write_row('picture_queue.queue', 'name', queue,
    '{"paused_until": null, "pause_reason": null, "draining": false}');
  perform picture_queue._write_row('picture_queue.breaker', 'queue', queue, null);
  perform picture_queue._wake_workers(array[queue], 'enqueue');
  return picture_queue._queue(queue);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.resume_queue is 'Ends the pause or the draining of a queue.';

create function public.drain_queue(queue text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select public.set_queue(picture_queue._queue(queue) ->> 'name', '{"draining": true}') $$;
comment on function public.drain_queue is 'Refuses new jobs for a queue and runs the existing ones.';

-- Cancels the pending jobs of a queue, the oldest 10,000 in a call; running and parked jobs continue. As with
-- cancel_job, a job with a prediction in progress is claimed once more, so that its handler cancels the prediction.
-- With preview the call only counts. more: as in change_jobs.
create function public.purge_queue(queue text, preview boolean default false, request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
set seq_page_cost = 100
as $$
declare
  v_matched bigint;
  v_changed integer := 0;
  v_more boolean := false;
  v_answer jsonb := picture_queue._find_answer('purge_queue', request_id::text);
begin
  perform picture_queue._check_isolation();
  if v_answer is not null then
    return v_answer;
  end if;
  v_matched := (
    select coalesce(sum(j.n::bigint), 0) from jsonb_each_text(picture_queue._queue(queue) -> 'jobs') as j (state, n)
    where j.state in ('pending', 'scheduled', 'blocked', 'waiting'));
  if not coalesce(preview, false) then
    select c.changed, c.more into v_changed, v_more
    from picture_queue._change_matching('purge', array[format('j.queue = %L and j.status = ''pending''', queue)], v_matched,
      10000, 'order by j.seq') c;
  end if;
  return picture_queue._store_answer('purge_queue', request_id::text, jsonb_build_object(
    'matched', v_matched, 'changed', v_changed, 'more', v_more));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.purge_queue is 'Cancels the pending jobs of a queue.';
