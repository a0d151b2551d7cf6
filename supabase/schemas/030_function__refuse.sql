-- Raises the error of that code. The message is fixed, since PostgREST copies it into the HTTP
-- reason phrase as it is; what varies goes to DETAIL (field and value) and HINT (the fix).
create function picture_queue._refuse(p_code text, p_detail text default null, p_hint text default null)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
  v_message text;
begin
  select e.status, e.message into v_status, v_message
  from (values
    ('PQ_INVALID_ARGUMENT',   '400', 'an argument is not acceptable'),
    ('PQ_INVALID_CRON',       '400', 'no such cron expression or time zone'),
    ('PQ_NOT_AUTHENTICATED',  '401', 'sign in first'),
    ('PQ_NOT_ALLOWED',        '403', 'this caller may not do that'),
    ('PQ_UNKNOWN_JOB',        '404', 'no such job'),
    ('PQ_UNKNOWN_GENERATION', '404', 'no such generation'),
    ('PQ_UNKNOWN_MODEL',      '404', 'no such model'),
    ('PQ_UNKNOWN_QUEUE',      '404', 'no such queue'),
    ('PQ_UNKNOWN_DEPENDENCY', '404', 'no such job to depend on'),
    ('PQ_UNKNOWN_SCHEDULE',   '404', 'no such schedule'),
    ('PQ_UNKNOWN_BATCH',      '404', 'no such batch'),
    ('PQ_UNKNOWN_LIMIT',      '404', 'no such limit'),
    ('PQ_STALE_LEASE',        '409', 'the lease ended'),
    ('PQ_FINISHED_JOB',       '409', 'the state of the job does not permit that'),
    ('PQ_RUNNING_JOB',        '409', 'the job is running already'),
    ('PQ_QUEUE_DRAINING',     '409', 'the queue takes no new jobs'),
    ('PQ_CONFLICT',           '409', 'that does not fit what is already there'),
    ('PQ_TOO_LARGE',          '413', 'too large'),
    ('PQ_INVALID_INPUT',      '422', 'the input does not fit the model'),
    ('PQ_CYCLE',              '422', 'the dependencies form a circle'),
    ('PQ_BUSY',               '503', 'the database is busy, repeat the call')
  ) as e (code, status, message)
  where e.code = p_code;
  raise exception using
    errcode = 'PT' || v_status,
    message = p_code || ': ' || v_message,
    detail = coalesce(p_detail, ''),
    hint = coalesce(p_hint, '');
end
$$;

-- Raises PQ_BUSY because another transaction holds what the caller must lock. A function that changes what an
-- open transaction may hold has the clause `set lock_timeout = '2s'`, which ends with the function, and returns this
-- for `lock_not_available or deadlock_detected`.
create function picture_queue._refuse_busy(
  p_detail text default 'another transaction holds a row that this call changes')
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._refuse('PQ_BUSY', p_detail, 'repeat the call; queue_doctor() names transactions that stay open');
  return null;
end
$$;

-- Raises the error of a call that could not change a job: PQ_BUSY for what passes by itself, else PQ_CONFLICT, which
-- tells what the trigger or constraint of the project said.
create function picture_queue._refuse_change(p_job_id uuid, p_sqlstate text, p_error text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if picture_queue._is_transient(p_sqlstate) then
    perform picture_queue._refuse_busy(format('job %s is locked by somebody else', p_job_id));
  end if;
  perform picture_queue._refuse('PQ_CONFLICT', format('job %s cannot be changed: %s', p_job_id, p_error),
    'look for a trigger or constraint of yours on public.job_queue');
  return null;
end
$$;

-- The value, or the error of that code where there is none. It reads nothing, so users may call it.
create function picture_queue._found(p_value jsonb, p_code text, p_detail text, p_hint text default null) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_value is null then
    perform picture_queue._refuse(p_code, p_detail, p_hint);
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
