-- Raises the error of that code. The message is fixed, since PostgREST copies it into the HTTP
-- reason phrase as it is; what varies goes to DETAIL (field and value) and HINT (the fix; null: that of the code).
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
    ('PQ_INVALID_ARGUMENT',   '400', 'an argument is not acceptable', 'docs/sql.md says what each argument may be'),
    ('PQ_INVALID_CRON',       '400', 'no such cron expression or time zone', 'such as 30 9 * * mon-fri and Europe/Berlin'),
    ('PQ_NOT_AUTHENTICATED',  '401', 'sign in first', 'send the token of a user, or a service key'),
    ('PQ_NOT_ALLOWED',        '403', 'this caller may not do that', 'use a service key'),
    ('PQ_UNKNOWN_JOB',        '404', 'no such job', 'the id is wrong, the job was pruned, or it is of another user'),
    ('PQ_UNKNOWN_GENERATION', '404', 'no such generation', 'list_generations() has those there are'),
    ('PQ_UNKNOWN_MODEL',      '404', 'no such model', 'list_models() has those this project offers'),
    ('PQ_UNKNOWN_QUEUE',      '404', 'no such queue', 'list_queues() has those there are'),
    ('PQ_UNKNOWN_DEPENDENCY', '404', 'no such job to depend on', 'enqueue the job it depends on first'),
    ('PQ_UNKNOWN_SCHEDULE',   '404', 'no such schedule', 'list_schedules() has those there are'),
    ('PQ_UNKNOWN_BATCH',      '404', 'no such batch', 'enqueue_batch() answers the id of a batch'),
    ('PQ_UNKNOWN_LIMIT',      '404', 'no such limit', 'list_limits() has those there are'),
    ('PQ_STALE_LEASE',        '409', 'the lease ended', 'stop working on this job; whoever holds it now goes on'),
    ('PQ_FINISHED_JOB',       '409', 'the state of the job does not permit that', 'get_job() has its state'),
    ('PQ_RUNNING_JOB',        '409', 'the job is running already', 'wait until it has finished, or cancel it'),
    ('PQ_QUEUE_DRAINING',     '409', 'the queue takes no new jobs', 'resume_queue() ends draining'),
    ('PQ_CONFLICT',           '409', 'that does not fit what is already there', 'read what is there, then change the call'),
    ('PQ_TOO_LARGE',          '413', 'too large', 'store the data elsewhere, and pass its path'),
    ('PQ_INVALID_INPUT',      '422', 'the input does not fit the model', 'list_models() has the inputs of each model'),
    ('PQ_CYCLE',              '422', 'the dependencies form a circle', 'leave out one of the dependencies'),
    ('PQ_BUSY',               '503', 'the database is busy, repeat the call', 'repeat the call')
  ) as e (code, status, message, hint)
  where e.code = p_code;
  raise exception using
    errcode = 'PT' || v_status,
    message = p_code || ': ' || v_message,
    detail = coalesce(regexp_replace(p_detail, ' is $', ' is null'), ''),
    hint = coalesce(p_hint, v_hint);
end
$$;

-- Raises PQ_TOO_LARGE or PQ_INVALID_ARGUMENT if there is a problem; does nothing if it is null.
create function picture_queue._raise_problem(p_problem text, p_hint text default
  'names are letters, digits and _ . - (of job types also :); payload and metadata are JSON objects; '
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

-- Raises PQ_BUSY because another transaction holds what the caller must lock. Every function of the API that reads or
-- changes a table has the clause `set lock_timeout = '2s'`, which ends with the function, and a handler that calls
-- this. It has no parameter or variable of a table's row type: Postgres locks that table before the handler begins.
create function picture_queue._raise_busy(p_detail text default null) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._raise_error('PQ_BUSY', coalesce(p_detail, 'another transaction holds a row or table that this call needs'),
    'repeat the call; queue_doctor() names transactions that stay open');
  return null;
end
$$;

-- Raises the error that a call ended with as one of ours. For the handler `when others`, which raises ours as they
-- are, and that of a read-only transaction: PostgREST answers it, to a GET, with 405. PQ_BUSY stands for what passes by
-- itself, PQ_CONFLICT for the rest, since a trigger of the project on public.job_queue, public.generations or
-- public.images may raise anything.
create function picture_queue._translate_error(p_sqlstate text, p_message text, p_busy text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_sqlstate like 'PT%' or p_sqlstate = '25006' then
    return;
  elsif picture_queue._is_transient(p_sqlstate) then
    -- With a fixed snapshot a repeated call in the same transaction fails again.
    perform picture_queue._check_isolation() where p_sqlstate = '40001';
    perform picture_queue._raise_busy(p_busy);
  end if;
  perform picture_queue._raise_error('PQ_CONFLICT', format('the change was refused with SQLSTATE %s: %s', p_sqlstate, p_message),
    'look for a trigger or constraint of yours on public.job_queue, public.generations or public.images');
end
$$;

-- Requires read committed: with a fixed snapshot a limit could be exceeded or a job leased twice.
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

-- Returns the value; raises the error of that code if it is null. It reads nothing, so users may call it.
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

-- Whether it is a list of objects, which jsonb_to_recordset asks for.
create function picture_queue._is_list(p_value jsonb) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_typeof(p_value) = 'array', false)
    and not jsonb_path_exists(p_value, 'strict $[*] ? (@.type() != "object")')
$$;
