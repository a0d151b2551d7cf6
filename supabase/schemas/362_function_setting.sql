-- The settings of the project; changes: any of its columns by name, null for the default.
create function public.set_setting(changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_changes(changes, array['max_payload_bytes', 'max_result_bytes', 'max_prompt_length',
    'max_attempts', 'timeout_seconds', 'timeout_grace_seconds', 'cancel_grace_seconds', 'lease_seconds', 'backoff_policy',
    'backoff_seconds', 'backoff_cap_seconds', 'backoff_jitter', 'unknown_queue', 'keep_completed_seconds',
    'keep_cancelled_seconds', 'keep_failed_seconds', 'archive', 'keep_archive_months', 'default_model']);
  if not exists (select from picture_queue.model m where m.model_id = coalesce(changes ->> 'default_model', m.model_id)) then
    perform picture_queue._refuse('PQ_UNKNOWN_MODEL', format('default_model is %s', changes ->> 'default_model'));
  end if;
  perform picture_queue._change_row('picture_queue.setting', 'only_row', 'true', changes);
  return public.get_settings();
exception when lock_not_available or deadlock_detected then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.set_setting is 'Changes settings of the project.';

create function public.get_settings() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select to_jsonb(s) - array['only_row', 'maintained_at'] from picture_queue.setting s $$;
comment on function public.get_settings is 'The settings of the project.';

-- Refuses changes that are not an object or name what cannot be changed.
create function picture_queue._check_changes(p_changes jsonb, p_names text[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_unknown text;
begin
  if jsonb_typeof(p_changes) is distinct from 'object' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'changes is not an object');
  end if;
  select min(k) into v_unknown from jsonb_object_keys(p_changes) k where k <> all (p_names);
  if v_unknown is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('%s is not known', v_unknown),
      'known are ' || array_to_string(p_names, ', '));
  end if;
end
$$;

-- Writes checked changes to the row of a table whose key column has that value. null stands for the column's
-- default. All are written at once, since they may fit only together; if they do not fit, each is tried beside
-- the defaults of the others, to name the one at fault.
create function picture_queue._change_row(p_table regclass, p_key_column text, p_key text, p_changes jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_change record;
  v_constraint text;
begin
  if p_changes <> '{}' then
    perform picture_queue._write_columns(p_table, p_key_column, p_key, p_changes);
  end if;
exception when data_exception or check_violation or not_null_violation then
  for v_change in select c.key, c.value from jsonb_each(p_changes) as c (key, value) order by c.key loop
    begin
      perform picture_queue._write_columns(p_table, p_key_column, p_key, (
        select jsonb_object_agg(k, case when k = v_change.key then v_change.value end) from jsonb_object_keys(p_changes) k));
    exception when data_exception or check_violation or not_null_violation then
      get stacked diagnostics v_constraint = constraint_name;
      if v_constraint <> 'queue_orders_one_way' then
        perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
          format('%s is %s', v_change.key, left(v_change.value #>> '{}', 200)), picture_queue._setting_range(v_change.key));
      end if;
    end;
  end loop;
  -- The only check that looks at two columns.
  perform picture_queue._refuse('PQ_INVALID_ARGUMENT', (
    select string_agg(format('%s is %s', c.key, c.value), ', ' order by c.key)
    from jsonb_each_text(p_changes) as c (key, value) where c.key in ('fair_share', 'aging_seconds')),
    'a queue has one of them: set fair_share to false or aging_seconds to null');
end
$$;

-- Writes these columns in one statement.
create function picture_queue._write_columns(p_table regclass, p_key_column text, p_key text, p_values jsonb)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('update %s set %s where %I::text = $1', p_table, (
    select string_agg(format('%I = %s', c.key, coalesce(quote_literal(c.value), 'default')), ', ')
    from jsonb_each_text(p_values) as c (key, value)), p_key_column)
  using p_key;
end
$$;

-- What a setting of the project or of a queue may be.
create function picture_queue._setting_range(p_name text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_name in ('timeout_grace_seconds', 'cancel_grace_seconds') then 'seconds, 0 to 86400'
    when p_name like 'keep!_%!_seconds' escape '!' then 'seconds, 60 to 3153600000'
    when p_name like '%!_seconds' escape '!' then 'seconds, above 0 and at most 31536000'
    when p_name = 'backoff_jitter' then 'a share, 0 to 1'
    when p_name = 'backoff_policy' then 'constant, linear or exponential'
    when p_name = 'unknown_queue' then 'create or refuse'
    when p_name = 'events' then 'none, status or progress'
    when p_name in ('archive', 'fair_share', 'draining') then 'true or false'
    else 'a whole number, 1 to 2147483647'
  end
$$;
