-- Dependencies of new jobs. A job may depend on jobs that are there, or that stand before it in the
-- same call: so no circle can ever form.

-- Locks the parents, so that none finishes unseen until we commit, refuses what cannot be depended on,
-- and marks the jobs that have to wait.
create function picture_queue._look_at_parents(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = '' set seq_page_cost = 100
as $$
declare
  v_bad record;
  v_job picture_queue.new_job;
  v_jobs picture_queue.new_job[] := array[]::picture_queue.new_job[];
begin
  if not exists (select from unnest(p_jobs) n where n.depends_on <> '{}') then
    return p_jobs;
  end if;
  perform from public.job_queue j
  where j.id in (select unnest(n.depends_on) from unnest(p_jobs) n)
  order by j.id for share;

  select n.i, p.id, l.i is not null as is_later into v_bad
  from unnest(p_jobs) n
  cross join unnest(n.depends_on) as p (id)
  left join unnest(p_jobs) l on l.job_id = p.id and l.i >= n.i
  where not exists (select from unnest(p_jobs) e where e.job_id = p.id and e.i < n.i)
    and not exists (select from public.job_queue j where j.id = p.id and j.id <> n.job_id)
  order by n.i limit 1;
  if v_bad.is_later then
    perform picture_queue._refuse('PQ_CYCLE', format('jobs[%s] depends on %s, which does not stand before it', v_bad.i - 1, v_bad.id),
      'list parents before their children');
  elsif found then
    perform picture_queue._refuse('PQ_UNKNOWN_DEPENDENCY', format('jobs[%s]: depends_on has %s', v_bad.i - 1, v_bad.id),
      'a job can depend on jobs that are there, or stand before it in the same call');
  end if;

  foreach v_job in array p_jobs loop
    if exists (
      select from unnest(v_job.depends_on) p (id)
      left join public.job_queue j on j.id = p.id
      where j.id is null or j.finished_at is null or (j.status <> 'completed' and v_job.on_parent_failure <> 'run'))
    then
      v_job.hold := 'waiting';
    end if;
    v_jobs := v_jobs || v_job;
  end loop;
  return v_jobs;
end
$$;

-- Ties new jobs to their unfinished parents; those of which a parent has failed already end at once.
create function picture_queue._tie_to_parents(p_jobs picture_queue.new_job[], p_made public.job_queue[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_changes picture_queue.change[];
begin
  insert into picture_queue.dependency (child_id, parent_id, on_parent_failure)
  select m.id, p.id, n.on_parent_failure
  from unnest(p_made) m
  join unnest(p_jobs) n on n.job_id = m.id and n.hold = 'waiting'
  join public.job_queue p on p.id = any (n.depends_on) and p.finished_at is null
  on conflict do nothing;

  select array_agg(picture_queue._change(b.id, b.action, b.error)) into v_changes
  from (
    select distinct on (m.id) m.id, case n.on_parent_failure when 'cancel' then 'cancel' else 'abandon' end as action,
      format('Job %s, which it depends on, was %s.', p.id, p.status) as error
    from unnest(p_made) m
    join unnest(p_jobs) n on n.job_id = m.id and n.hold = 'waiting' and n.on_parent_failure <> 'run'
    join public.job_queue p on p.id = any (n.depends_on) and p.status in ('failed', 'cancelled')
    order by m.id, p.id
  ) b;
  if v_changes is not null then
    delete from picture_queue.dependency d using unnest(v_changes) c where d.child_id = c.job_id;
    perform picture_queue._transition(v_changes);
  end if;
end
$$;

-- Locks the batches that get new jobs; a finished one takes none.
create function picture_queue._check_batches(p_jobs picture_queue.new_job[]) returns void
language plpgsql set search_path = ''
as $$
declare
  v_ids uuid[] := array(select distinct n.batch_id from unnest(p_jobs) n where n.batch_id is not null);
  v_bad record;
begin
  if v_ids = '{}' then
    return;
  end if;
  perform from picture_queue.batch b where b.id = any (v_ids) order by b.id for update;
  select i.id, b.id is null as is_unknown into v_bad
  from unnest(v_ids) as i (id)
  left join picture_queue.batch b on b.id = i.id
  where b.id is null or b.finished_at is not null
  order by i.id limit 1;
  if v_bad.is_unknown then
    perform picture_queue._refuse('PQ_UNKNOWN_BATCH', format('batch_id is %s', v_bad.id));
  elsif found then
    perform picture_queue._refuse('PQ_CONFLICT', format('batch %s has finished', v_bad.id), 'start a new batch');
  end if;
end
$$;
