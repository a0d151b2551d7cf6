-- The settings of the project; changes: any of its columns by name, null for the default.
create function public.set_setting(changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('', coalesce(changes, 'null'), picture_queue._policy_rules() || '{
    "max_payload_bytes": ["integer", 1, 2147483647],
    "max_result_bytes": ["integer", 1, 2147483647],
    "max_prompt_length": ["integer", 1, 2147483647],
    "timeout_grace_seconds": ["number", 0, 86400],
    "cancel_grace_seconds": ["number", 0, 86400],
    "unknown_queue": ["choice", "create", "refuse"],
    "keep_completed_seconds": ["number", 60, 3153600000],
    "keep_cancelled_seconds": ["number", 60, 3153600000],
    "keep_failed_seconds": ["number", 60, 3153600000],
    "archive": ["boolean"],
    "keep_archive_months": ["integer", 1, 2147483647],
    "default_model": ["text", 200]
  }');
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
as $$ select to_jsonb(s) - array['only_row', 'maintained_at', 'has_deferred'] from picture_queue.setting s $$;
comment on function public.get_settings is 'The settings of the project.';

-- The rules of what the project, a queue and a job type may say about attempts.
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

-- Writes checked changes to the row of a table whose key column has that value. null stands for the column's
-- default. All are written at once, since they may fit only together.
create function picture_queue._change_row(p_table regclass, p_key_column text, p_key text, p_changes jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_changes <> '{}' then
    execute format('update %s set %s where %I::text = $1', p_table, (
      select string_agg(format('%I = %s', c.key, coalesce(quote_literal(c.value), 'default')), ', ')
      from jsonb_each_text(p_changes) as c (key, value)), p_key_column)
    using p_key;
  end if;
end
$$;
