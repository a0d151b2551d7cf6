-- Returns the SQL condition for a filter, for a query with job_queue as j. The condition becomes part of the text of
-- the query, so that Postgres plans each filter with the index that fits. Refuses unknown keys and invalid values, and
-- ignores keys whose value is null. Keys that every job fits add no condition. So the condition of a filter that
-- selects every job is 'true'. p_caller_rules: rules for keys that the caller handles itself. It reads no table, so
-- users may execute it.
create function picture_queue._jobs_where(p_filter jsonb, p_caller_rules jsonb default '{}') returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}');
  v_where text;
begin
  perform picture_queue._check_fields('filter.', v_filter, p_caller_rules || '{
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
  from jsonb_each(v_filter) e
  where e.value <> 'null' and not p_caller_rules ? e.key and not case e.key
    when 'metadata' then e.value = '{}'
    when 'created_before' then (e.value #>> '{}')::timestamptz = 'infinity'
    when 'created_after' then (e.value #>> '{}')::timestamptz = '-infinity'
    else false end;
  return 'true' || coalesce(v_where, '');
end
$$;

-- Returns the condition for one key of a filter. It adds conditions that follow from this one, so that the planner can
-- use the partial indexes.
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
