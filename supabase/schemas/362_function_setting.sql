-- The settings of the project; changes: any of its columns by name, null for the default.
create function public.set_setting(changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
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

-- Writes checked changes to the row of a table whose key column has that value, one column at a time,
-- so that a value that is not acceptable is named. null stands for the column's default.
create function picture_queue._change_row(p_table regclass, p_key_column text, p_key text, p_changes jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_change record;
begin
  for v_change in select c.key, c.value from jsonb_each_text(p_changes) as c (key, value) order by c.key loop
    begin
      execute format('update %s set %I = %s where %I::text = $1', p_table, v_change.key,
        coalesce(quote_literal(v_change.value), 'default'), p_key_column)
      using p_key;
    exception when data_exception or check_violation or not_null_violation then
      perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('%s is %s', v_change.key, v_change.value),
        'times are in seconds, above 0; the SQL reference has the range of each');
    end;
  end loop;
end
$$;
