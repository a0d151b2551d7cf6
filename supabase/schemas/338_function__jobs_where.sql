-- Returns the SQL condition for a filter, on job_queue as j. The condition becomes part of the text of a query, so that
-- each filter gets a plan with its own index. Refuses unknown keys and bad values; a null value counts as not given.
-- p_others: rules for keys that the caller handles itself. The function reads no table, so users may call it.
create function picture_queue._jobs_where(p_filter jsonb, p_others jsonb default '{}') returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}');
  v_where text;
begin
  perform picture_queue._check_fields('filter.', v_filter, p_others || '{
    "job_ids": ["uuids", 10000],
    "queue": ["text", 2000],
    "status": ["choice", "pending", "processing", "completed", "failed", "cancelled"],
    "hold": ["choice", "scheduled", "blocked", "waiting", "parked"],
    "job_type": ["text", 2000],
    "tag": ["text", 2000],
    "user_id": ["uuid"],
    "tenant": ["text", 2000],
    "batch_id": ["uuid"],
    "error": ["text", 2000],
    "reason": ["text", 2000],
    "metadata": ["object", 65536],
    "created_before": ["moment"],
    "created_after": ["moment"],
    "finished_before": ["moment"],
    "finished_after": ["moment"]
  }');
  select string_agg(' and ' || picture_queue._filter_condition(e.key, e.value #>> '{}'), '' order by e.key) into v_where
  from jsonb_each(v_filter) e where e.value <> 'null' and not p_others ? e.key;
  return 'true' || coalesce(v_where, '');
end
$$;

-- Returns the condition for one key. It adds conditions that are always true for such jobs, so that the planner can use
-- the partial indexes.
create function picture_queue._filter_condition(p_key text, p_value text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case p_key
    when 'job_ids' then format('j.id = any (%L::uuid[])', array(select jsonb_array_elements_text(p_value::jsonb)))
    when 'status' then format('j.status = %L', p_value) || case p_value
      when 'pending' then ''
      when 'processing' then ' and (j.hold is null or j.hold = ''parked'')'
      else ' and j.finished_at is not null' end
    when 'hold' then format('j.hold = %L', p_value) || case p_value
      when 'parked' then ' and j.status = ''processing'''
      when 'blocked' then ' and j.status = ''pending'' and j.blocked_on is not null'
      else ' and j.status = ''pending''' end
    when 'tag' then format('%L = any (j.tags)', p_value)
    when 'user_id' then format('j.user_id = %L', p_value)
    when 'batch_id' then format('j.batch_id = %L', p_value)
    when 'tenant' then format('coalesce(j.tenant, j.user_id::text) = %L', p_value)
    when 'error' then format('strpos(lower(j.error), lower(%L)) > 0', p_value)
    when 'reason' then format('picture_queue._reason(j.error) = %L', p_value)
    when 'metadata' then format('j.metadata @> %L', p_value)
    when 'created_before' then format('j.created_at < %L', p_value)
    when 'created_after' then format('j.created_at > %L', p_value)
    when 'finished_before' then format(
      'j.status in (''completed'', ''failed'', ''cancelled'') and j.finished_at < %L', p_value)
    when 'finished_after' then format(
      'j.status in (''completed'', ''failed'', ''cancelled'') and j.finished_at > %L', p_value)
    else format('j.%I = %L', p_key, p_value)
  end
$$;

-- Returns a subquery for the jobs of a filter: a branch for each status, since the index job_queue_listed has all jobs
-- except running and parked ones, for which there are other indexes. Parameters of the text: $1 and $2, the range of
-- seq, lower bound included; $3, the number of jobs for each queue and status; $4, the queues. It reads no table, so
-- users may call it.
create function picture_queue._jobs_by_state(p_filter jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}') - '{status,limit,before_seq}'::text[];
  v_span text := ' and j.seq >= $1 and j.seq < $2 order by j.seq desc limit $3';
  v_listed text := picture_queue._jobs_where(v_filter - 'queue') || v_span;
  v_running text := picture_queue._jobs_where(v_filter) || v_span;
begin
  return '(' || (
    select string_agg(format(b.branch, b.status), ' union all ')
    from (
      select s.status, 'select l.* from unnest($4) q (name) cross join lateral (select * from public.job_queue j '
        'where j.queue = q.name and j.status = %L and ' || replace(v_listed, '%', '%%') || ') l' as branch
      from unnest(array['pending', 'completed', 'failed', 'cancelled']) as s (status)
      union all
      select 'processing', '(select * from public.job_queue j where j.status = %L and ' || h.condition || ' and '
        || replace(v_running, '%', '%%') || ')'
      from unnest(array['j.hold is null', 'j.hold = ''parked''']) as h (condition)
    ) b
    where b.status = coalesce(p_filter ->> 'status', case when p_filter ->> 'hold' = 'waiting' then 'pending' end, b.status)
  ) || ') j';
end
$$;
