-- Refuses a filter that has keys it does not know or values of another type; null is as good as not
-- given. It reads nothing, so users may call it.
create function picture_queue._check_filter(p_filter jsonb, p_known text[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}');
  v_unknown text;
  v_bad record;
begin
  if jsonb_typeof(v_filter) <> 'object' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'filter is not an object');
  end if;
  select min(k) into v_unknown from jsonb_object_keys(v_filter) k where k <> all (p_known);
  if v_unknown is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('filter.%s is not known', left(v_unknown, 100)),
      'known are ' || array_to_string(p_known, ', '));
  end if;
  select e.key, e.value into v_bad from jsonb_each(v_filter) e
  where e.value <> 'null' and not picture_queue._filter_fits(e.key, e.value) order by e.key limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      format('filter.%s is %s', v_bad.key, left(v_bad.value::text, 200)), 'the SQL reference has the type of each');
  end if;
end
$$;

-- The condition a filter stands for, on job_queue as j: text to be put into a query, so that each filter
-- gets the plan of its own index. p_others: keys the caller looks at itself. It reads nothing, so users
-- may call it.
create function picture_queue._jobs_where(p_filter jsonb, p_others text[] default '{}') returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_where text;
begin
  perform picture_queue._check_filter(p_filter, array['job_ids', 'queue', 'status', 'hold', 'job_type', 'tag',
    'user_id', 'tenant', 'batch_id', 'error', 'reason', 'metadata', 'created_before', 'created_after',
    'finished_before', 'finished_after'] || p_others);
  select string_agg(' and ' || picture_queue._filter_condition(e.key, e.value #>> '{}'), '' order by e.key) into v_where
  from jsonb_each(coalesce(nullif(p_filter, 'null'), '{}')) e where e.value <> 'null' and e.key <> all (p_others);
  return 'true' || coalesce(v_where, '');
end
$$;

-- Whether a value is of the type its key in a filter has.
create function picture_queue._filter_fits(p_key text, p_value jsonb) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := p_value #>> '{}';
  v_type text := jsonb_typeof(p_value);
begin
  case
    when p_key = 'metadata' then return v_type = 'object';
    when p_key = 'job_ids' then
      return v_type = 'array' and jsonb_array_length(p_value) <= 10000
        and not jsonb_path_exists(p_value, '$[*] ? (@.type() != "string")')
        and (select coalesce(bool_and(picture_queue._filter_fits('job_id', i)), true) from jsonb_array_elements(p_value) i);
    when p_key in ('limit', 'before_seq') then
      return v_type = 'number' and v_text ~ '^[0-9]{1,18}$';
    when v_type <> 'string' or length(v_text) > 2000 then return false;
    when p_key = 'status' then return v_text in ('pending', 'processing', 'completed', 'failed', 'cancelled');
    when p_key = 'hold' then return v_text in ('scheduled', 'blocked', 'waiting', 'parked');
    when p_key in ('user_id', 'batch_id', 'job_id') then
      return v_text ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$';
    when p_key in ('created_before', 'created_after', 'finished_before', 'finished_after', 'before') then
      begin
        return v_text::timestamptz is not null;
      exception when data_exception then
        return false;
      end;
    else return true;
  end case;
end
$$;

-- One condition. What is always so of such jobs is said too, since the partial indexes ask for it.
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

-- The jobs of a filter as text for the from of a query: a branch for each status, since job_queue_listed has
-- all but the running ones, and those have an index for each hold. $1, $2: the span of seq, lower bound
-- included; $3: how many of each queue and status; $4: the queues. It reads nothing, so users may call it.
create function picture_queue._jobs_by_state(p_filter jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}') - 'status';
  v_span text := ' and j.seq >= $1 and j.seq < $2 order by j.seq desc limit $3';
  v_listed text := picture_queue._jobs_where(v_filter - 'queue', '{limit,before_seq}') || v_span;
  v_running text := picture_queue._jobs_where(v_filter, '{limit,before_seq}') || v_span;
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
