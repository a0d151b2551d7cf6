-- Changes settings of the project. changes: the settings by name; null resets a setting to its default.
create function public.set_setting(changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('', coalesce(changes, 'null'), picture_queue._policy_rules() || '{
    "max_payload_bytes": ["integer", 1, 2147483647],
    "max_result_bytes": ["integer", 1, 2147483647],
    "max_prompt_length": ["integer", 1, 2147483647],
    "max_user_uploads": ["integer", 0, 1000000],
    "timeout_grace_seconds": ["number", 0, 86400],
    "cancel_grace_seconds": ["number", 0, 86400],
    "unknown_queue": ["choice", "create", "refuse"],
    "keep_completed_seconds": ["number", 60, 3153600000],
    "keep_cancelled_seconds": ["number", 60, 3153600000],
    "keep_failed_seconds": ["number", 60, 3153600000],
    "archive": ["boolean"],
    "keep_archive_months": ["integer", 1, 2147483647],
    "keep_generations_days": ["integer", 1, 36500],
    "default_model": ["text", 200],
    "strip_metadata": ["boolean"],
    "estimate_usd_per_second": ["number", 0, 1]
  }');
  if not exists (
    select from picture_queue.model m
    where m.model_id = coalesce(changes ->> 'default_model', m.model_id) and m.enabled and m.unavailable_reason is null)
  then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('default_model is %s', changes ->> 'default_model'),
      'list_models() shows the models that generations can use');
  end if;
  perform picture_queue._write_row('picture_queue.setting', 'only_row', 'true', changes);
  return public.get_settings();
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_setting is 'Changes settings of the project.';

create function public.get_settings() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return (select to_jsonb(s) - 'only_row' from picture_queue.setting s);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.get_settings is 'The settings of the project.';

-- Rules for the policy fields that a project, a queue and a job type have in common, in the format of _check_fields.
create function picture_queue._policy_rules() returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select '{
    "max_attempts": ["integer", 1, 1000000000],
    "timeout_seconds": ["number", 0.001, 31536000],
    "lease_seconds": ["number", 0.001, 31536000],
    "backoff_policy": ["choice", "constant", "linear", "exponential"],
    "backoff_seconds": ["number", 0.001, 31536000],
    "backoff_cap_seconds": ["number", 0.001, 31536000],
    "backoff_jitter": ["number", 0, 1]
  }'::jsonb
$$;

-- Inserts or updates the row whose column p_key_column is p_key, with values that the caller has checked. A null value
-- sets the column to its default. If p_changes is null, it deletes the row. One statement writes all columns, since a
-- check constraint may concern several columns. Returns whether a row was inserted, updated or deleted.
create function picture_queue._write_row(p_table regclass, p_key_column text, p_key text, p_changes jsonb)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_rows integer;
begin
  perform picture_queue._check_isolation();
  execute case when p_changes is null then format('delete from %s where %I = %L', p_table, p_key_column, p_key)
    else (
      select format('insert into %1$s (%2$I%3$s) values (%4$L%5$s) on conflict (%2$I) do %6$s', p_table, p_key_column,
        string_agg(format(', %I', c.key), '' order by c.key), p_key,
        string_agg(coalesce(', ' || quote_literal(c.value), ', default'), '' order by c.key),
        coalesce('update set ' || string_agg(format('%1$I = excluded.%1$I', c.key), ', '), 'nothing'))
      from jsonb_each_text(p_changes) as c (key, value)) end;
  get diagnostics v_rows = row_count;
  return v_rows > 0;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy(format('another transaction is changing the row of %s in %s', quote_nullable(p_key), p_table));
  return null;
end
$$;
