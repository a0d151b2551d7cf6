-- Returns the first 20 of these values, each up to 100 characters, and the number of the others: users cause errors
-- that list the values which an operator or a provider has chosen.
create function picture_queue._list_values(p_values text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce((
    select string_agg(left(v.value, 100), ', ' order by v.i) from unnest(p_values[:20]) with ordinality as v (value, i)), '')
    || case when cardinality(p_values) > 20 then format(' and %s others', cardinality(p_values) - 20) else '' end;
end
$$;

-- Raises the error with this code. Each code has a fixed message, since PostgREST copies the message into the HTTP
-- reason phrase. DETAIL has the field and the value, HINT the fix (null: the default hint of the code). Both are cut at
-- 4,000 characters.
create function picture_queue._raise_error(p_code text, p_detail text default null, p_hint text default null)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
  v_message text;
  v_hint text;
begin
  select e.status, e.message, e.hint into v_status, v_message, v_hint
  from (values
    ('PQ_INVALID_ARGUMENT',   '400', 'an argument is invalid', 'docs/sql.md describes each argument'),
    ('PQ_INVALID_CRON',       '400', 'invalid cron expression or time zone', 'examples: 30 9 * * mon-fri, and Europe/Berlin'),
    ('PQ_NOT_AUTHENTICATED',  '401', 'sign in first', 'send the token of a user, or a service key'),
    ('PQ_NOT_ALLOWED',        '403', 'this caller has no permission', 'use a service key'),
    ('PQ_UNKNOWN_JOB',        '404', 'no such job', 'the id is wrong, the job was pruned, or it belongs to another user'),
    ('PQ_UNKNOWN_GENERATION', '404', 'no such generation', 'list_generations() shows the existing generations'),
    ('PQ_UNKNOWN_MODEL',      '404', 'no such model', 'list_models() shows the models of this project'),
    ('PQ_UNKNOWN_QUEUE',      '404', 'no such queue', 'list_queues() shows the existing queues'),
    ('PQ_UNKNOWN_DEPENDENCY', '404', 'no such job to depend on', 'enqueue that job first'),
    ('PQ_UNKNOWN_SCHEDULE',   '404', 'no such schedule', 'list_schedules() shows the existing schedules'),
    ('PQ_UNKNOWN_BATCH',      '404', 'no such batch', 'enqueue_batch() returns the id of a batch'),
    ('PQ_UNKNOWN_LIMIT',      '404', 'no such limit', 'list_limits() shows the existing limits'),
    ('PQ_UNKNOWN_RULE',       '404', 'no such rule', 'list_input_rules() shows the existing rules'),
    ('PQ_UNKNOWN_BUDGET',     '404', 'no such budget', 'list_budgets() shows the existing budgets'),
    ('PQ_STALE_LEASE',        '409', 'the lease ended', 'stop this attempt; another worker may run the job'),
    ('PQ_FINISHED_JOB',       '409', 'the job has finished', 'get_job() shows its state'),
    ('PQ_RUNNING_JOB',        '409', 'the job has not finished', 'wait until it has finished, or cancel it'),
    ('PQ_QUEUE_DRAINING',     '409', 'the queue accepts no new jobs', 'resume_queue() ends the draining'),
    ('PQ_CONFLICT',           '409', 'the call conflicts with existing data', 'read the existing data, then change the call'),
    ('PQ_TOO_LARGE',          '413', 'too large', 'store the data elsewhere, and pass its path'),
    ('PQ_INVALID_INPUT',      '422', 'the input does not fit the model', 'list_models() shows the inputs of each model'),
    ('PQ_CYCLE',              '422', 'the dependencies form a cycle', 'remove one of the dependencies'),
    ('PQ_RATE_LIMITED',       '429', 'too many generations', 'wait, then repeat the call'),
    ('PQ_OVER_BUDGET',        '429', 'the budget is used up', 'wait for the next period, or ask the operator'),
    ('PQ_NO_CREDIT',          '429', 'not enough credits', 'grant_credits() adds credits'),
    ('PQ_BUSY',               '429', 'the database is busy, repeat the call', 'repeat the call')
  ) as e (code, status, message, hint)
  where e.code = p_code;
  raise exception using
    errcode = 'PT' || v_status,
    message = p_code || ': ' || v_message,
    -- format() writes a null value as an empty text.
    detail = coalesce(left(regexp_replace(p_detail, ' is $', ' is null'), 4000), ''),
    hint = left(coalesce(p_hint, v_hint), 4000);
end
$$;

-- Raises PQ_TOO_LARGE for a problem of size (its text ends with the limit in bytes), PQ_INVALID_ARGUMENT for any other
-- problem. Does nothing if the problem is null.
create function picture_queue._raise_problem(p_problem text, p_hint text default
  'names consist of letters, digits and _ . - (job types also :); payload and metadata are JSON objects; '
  'durations are in seconds, times are ISO 8601 from 1970 to 9998')
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_problem ~ ' bytes, the limit is [0-9]+$' then
    perform picture_queue._raise_error('PQ_TOO_LARGE', p_problem,
      'store the data elsewhere, in Supabase Storage for example, and pass its path');
  elsif p_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', p_problem, p_hint);
  end if;
end
$$;

-- Raises PQ_BUSY because another transaction holds a lock that the caller needs. Every function of the API that reads
-- or changes a table has the clause `set lock_timeout = '2s'`, which holds until the function returns, and an
-- exception handler that calls _raise_busy. Such a function has no parameter or variable of a table's row type,
-- because Postgres would lock that table before the handler can catch the error.
create function picture_queue._raise_busy(p_detail text default null) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._raise_error('PQ_BUSY', coalesce(p_detail, 'another transaction holds a row or table that this call needs'),
    'repeat the call; queue_doctor() names transactions that stay open');
  return null;
end
$$;

-- Raises one of our errors in place of another error; exception handlers `when others` call it. The function returns,
-- and the handler raises the error again, if the error is one of ours, or the error of a read-only transaction
-- (25006), for which PostgREST answers a GET with 405. A transient error becomes PQ_BUSY, any other PQ_CONFLICT: a
-- trigger of the project on public.job_queue, public.generations or public.images may raise any error.
create function picture_queue._translate_error(p_sqlstate text, p_message text, p_busy_detail text default null)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_sqlstate like 'PT%' or p_sqlstate = '25006' then
    return;
  elsif picture_queue._is_transient(p_sqlstate) then
    -- In repeatable read and serializable, a repeated call in the same transaction fails again. So name the isolation
    -- level instead of PQ_BUSY.
    perform picture_queue._check_isolation() where p_sqlstate = '40001';
    perform picture_queue._raise_busy(p_busy_detail);
  end if;
  perform picture_queue._raise_error('PQ_CONFLICT', format('the change was refused with SQLSTATE %s: %s', p_sqlstate, p_message),
    'check your own triggers and constraints on public.job_queue, public.generations and public.images');
end
$$;

-- Refuses repeatable read and serializable: with their fixed snapshot a limit could be exceeded, or a job leased
-- twice.
create function picture_queue._check_isolation() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('the transaction isolation level is %s', current_setting('transaction_isolation')),
      'use read committed: alter role … set default_transaction_isolation = ''read committed''');
  end if;
end
$$;

-- Returns the value; raises the error with this code if the value is null. Users may execute this function, since it
-- reads no table.
create function picture_queue._require(p_value jsonb, p_code text, p_detail text, p_hint text default null)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_value is null then
    perform picture_queue._raise_error(p_code, p_detail, p_hint);
  end if;
  return p_value;
end
$$;

-- Returns whether the value is a list of objects, which jsonb_to_recordset requires. PL/pgSQL is ten times as fast
-- here as SQL, which Postgres would plan at each call.
create function picture_queue._is_object_list(p_value jsonb) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(jsonb_typeof(p_value) = 'array', false)
    and not jsonb_path_exists(p_value, 'strict $[*] ? (@.type() != "object")');
end
$$;
