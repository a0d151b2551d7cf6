create function picture_queue._backoff_problem(p_backoff jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select p.problem from (
    select format('options.backoff.%s is not known', k) as problem from jsonb_object_keys(p_backoff) k
    where k not in ('policy', 'base_seconds', 'cap_seconds', 'jitter')
    union all
    select format('options.backoff.policy is %s, not constant, linear or exponential', p_backoff -> 'policy')
    where p_backoff ->> 'policy' not in ('constant', 'linear', 'exponential')
    union all
    select format('options.backoff.%s is %s, not %s to %s', r.name, p_backoff -> r.name, r.low, r.high)
    from (values ('base_seconds', 0.001, 31536000), ('cap_seconds', 0.001, 31536000), ('jitter', 0, 1)) as r (name, low, high)
    where jsonb_typeof(p_backoff -> r.name) <> 'null' and case jsonb_typeof(p_backoff -> r.name)
      when 'number' then (p_backoff ->> r.name)::numeric not between r.low and r.high else true end
  ) p
  where p.problem is not null limit 1
$$;

create function picture_queue._unique_problem(p_unique jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select p.problem from (
    select format('options.unique.%s is not known', k) as problem from jsonb_object_keys(p_unique) k
    where k not in ('by', 'period_seconds', 'states', 'on_conflict')
    union all
    select format('options.unique.on_conflict is %s, not ignore, replace or debounce', p_unique -> 'on_conflict')
    where p_unique ->> 'on_conflict' not in ('ignore', 'replace', 'debounce')
    union all
    select format('options.unique.period_seconds is %s, not 1 to 31536000', p_unique -> 'period_seconds')
    where jsonb_typeof(p_unique -> 'period_seconds') <> 'null' and case jsonb_typeof(p_unique -> 'period_seconds')
      when 'number' then (p_unique ->> 'period_seconds')::numeric not between 1 and 31536000 else true end
    union all
    select format('options.unique.%s is %s, not a list of names', r.name, p_unique -> r.name)
    from (values ('by'), ('states')) as r (name)
    where jsonb_typeof(p_unique -> r.name) <> 'null' and (jsonb_typeof(p_unique -> r.name) <> 'array'
      or jsonb_path_exists(p_unique -> r.name, '$[*] ? (@.type() != "string")'))
    union all
    select format('options.unique.states is %s: states are pending (always), processing, completed, failed, cancelled',
      p_unique -> 'states')
    where jsonb_typeof(p_unique -> 'states') = 'array' and not (p_unique -> 'states' ? 'pending'
      and p_unique -> 'states' <@ '["pending", "processing", "completed", "failed", "cancelled"]')
    union all
    -- What ends with the start cannot come back with the end: there may be another job by then.
    select format('options.unique.states is %s: with a state after processing goes processing', p_unique -> 'states')
    where jsonb_typeof(p_unique -> 'states') = 'array' and not p_unique -> 'states' ? 'processing'
      and p_unique -> 'states' ?| '{completed,failed,cancelled}'
  ) p
  where p.problem is not null limit 1
$$;

-- Whether a text is a time; nothing else can tell.
create function picture_queue._is_time(p_text text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return p_text::timestamptz is not null;
exception when data_exception then
  return false;
end
$$;

-- What is wrong with the options of a job: the field, the value and the rule; null if nothing.
create function picture_queue._options_problem(p_options jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when jsonb_typeof(p_options) <> 'object' then 'options is not an object' else (
    select format('options.%s is not known', k) from jsonb_object_keys(p_options) k
    where k not in ('delay_seconds', 'timeout_seconds', 'expires_at', 'expires_in_seconds', 'backoff', 'tags',
      'metadata', 'tenant', 'limit_keys', 'depends_on', 'on_parent_failure', 'batch_id', 'unique')
    union all
    select format('options.%s is %s, not %s to %s', r.name, p_options -> r.name, r.low, r.high)
    from (values ('delay_seconds', 0, 315360000), ('timeout_seconds', 0.001, 31536000),
      ('expires_in_seconds', 0.001, 315360000)) as r (name, low, high)
    where jsonb_typeof(p_options -> r.name) <> 'null' and case jsonb_typeof(p_options -> r.name)
      when 'number' then (p_options ->> r.name)::numeric not between r.low and r.high else true end
    union all
    select format('options.%s is of type %s, not %s', r.name, jsonb_typeof(p_options -> r.name), r.kind)
    from (values ('metadata', 'object'), ('backoff', 'object'), ('unique', 'object'), ('tags', 'array'),
      ('limit_keys', 'array'), ('depends_on', 'array'), ('tenant', 'string'), ('on_parent_failure', 'string'),
      ('batch_id', 'string'), ('expires_at', 'string')) as r (name, kind)
    where jsonb_typeof(p_options -> r.name) not in (r.kind, 'null')
    union all
    select format('options.%s has %s entries, at most %s of 1 to %s characters are possible',
      r.name, jsonb_array_length(p_options -> r.name), r.entries, r.length)
    from (values ('tags', 20, 64), ('limit_keys', 8, 200), ('depends_on', 1000, 36)) as r (name, entries, length)
    where jsonb_typeof(p_options -> r.name) = 'array' and (
      jsonb_array_length(p_options -> r.name) > r.entries
      or exists (select from jsonb_array_elements(p_options -> r.name) e
        where jsonb_typeof(e) <> 'string' or length(e #>> '{}') not between 1 and r.length))
    union all
    select format('options.%s has %s, which is no uuid', r.name, r.value)
    from (
      select 'depends_on' as name, e as value from jsonb_array_elements(
        case jsonb_typeof(p_options -> 'depends_on') when 'array' then p_options -> 'depends_on' else '[]' end) e
      union all
      select 'batch_id', p_options -> 'batch_id' where jsonb_typeof(p_options -> 'batch_id') = 'string'
    ) r
    where r.value #>> '{}' !~* '^[{]?([0-9a-f]{4}-?){8}[}]?$'
    union all
    select format('options.expires_at is %s, which is no time', p_options -> 'expires_at')
    where jsonb_typeof(p_options -> 'expires_at') = 'string' and not picture_queue._is_time(p_options ->> 'expires_at')
    union all
    select format('options.tenant has %s characters, not 1 to 200', length(p_options ->> 'tenant'))
    where length(p_options ->> 'tenant') not between 1 and 200
    union all
    select format('options.on_parent_failure is %s, not cancel, fail or run', p_options -> 'on_parent_failure')
    where p_options ->> 'on_parent_failure' not in ('cancel', 'fail', 'run')
    union all
    select picture_queue._backoff_problem(p_options -> 'backoff') where jsonb_typeof(p_options -> 'backoff') = 'object'
    union all
    select picture_queue._unique_problem(p_options -> 'unique') where jsonb_typeof(p_options -> 'unique') = 'object'
    limit 1
  ) end
$$;

-- What is wrong with one item of a bulk enqueue: the field, the value and the rule; null if nothing.
create function picture_queue._job_problem(p_item jsonb) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case
    when jsonb_typeof(p_item) <> 'object' then 'a job must be an object'
    when not p_item ?& array['job_type'] then 'job_type is missing'
    when p_item ->> 'job_type' is null or p_item ->> 'job_type' !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'
      then format('job_type is %s', coalesce(p_item -> 'job_type', 'null'))
    when p_item ->> 'queue' !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then format('queue is %s', p_item -> 'queue')
    when jsonb_typeof(p_item -> 'payload') not in ('object', 'null')
      then format('payload is of type %s, not an object', jsonb_typeof(p_item -> 'payload'))
    when case when p_item ->> 'priority' ~ '^-?[0-9]{1,10}$'
        then (p_item ->> 'priority')::bigint not between -1000000000 and 1000000000 else p_item ->> 'priority' is not null end
      then format('priority is %s, not -1000000000 to 1000000000', p_item ->> 'priority')
    when case when p_item ->> 'max_attempts' ~ '^-?[0-9]{1,10}$'
        then (p_item ->> 'max_attempts')::bigint not between 1 and 1000 else p_item ->> 'max_attempts' is not null end
      then format('max_attempts is %s, not 1 to 1000', p_item ->> 'max_attempts')
    when p_item ->> 'scheduled_for' is not null and case when picture_queue._is_time(p_item ->> 'scheduled_for')
        then (p_item ->> 'scheduled_for')::timestamptz not between '1970-01-01' and '9999-01-01' else true end
      then format('scheduled_for is %s', p_item ->> 'scheduled_for')
    when p_item ->> 'scheduled_for' is not null and p_item #>> '{options,delay_seconds}' is not null
      then 'scheduled_for and options.delay_seconds are both given'
    when length(p_item ->> 'idempotency_key') not between 1 and 255
      then format('idempotency_key has %s characters, not 1 to 255', length(p_item ->> 'idempotency_key'))
    else (
      select p.problem from (
        select format('%s is %s, which is no uuid', u.name, p_item -> u.name) as problem
        from (values ('job_id'), ('user_id'), ('generation_id')) as u (name)
        where p_item ->> u.name !~* '^[{]?([0-9a-f]{4}-?){8}[}]?$'
        union all
        select format('%s is not known', k) from jsonb_object_keys(p_item) k
        where k not in ('job_type', 'payload', 'priority', 'queue', 'scheduled_for', 'max_attempts', 'user_id',
          'idempotency_key', 'job_id', 'generation_id', 'options')
        union all
        select picture_queue._options_problem(p_item -> 'options') where jsonb_typeof(p_item -> 'options') <> 'null'
      ) p
      where p.problem is not null limit 1)
  end
$$;

-- Refuses the first item that is not acceptable, naming its place, the field and the value. An item
-- that is plainly right is seen at a glance; the others, or all (p_closely), are looked at closely.
-- (A pattern that counts, as {0,127}, takes ten times as long as one that does not.)
create function picture_queue._check_jobs(p_jobs jsonb, p_closely boolean default false) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select max_payload_bytes from picture_queue.setting);
  v_bad record;
begin
  if jsonb_typeof(p_jobs) is distinct from 'array' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'jobs is not a list', 'pass a JSON array of objects');
  end if;
  select b.problem, b.i into v_bad
  from (
    (select p.problem, e.i
    from jsonb_array_elements(p_jobs) with ordinality as e (item, i)
    cross join lateral (select picture_queue._job_problem(e.item) as problem) p
    where (p_closely or not coalesce(jsonb_typeof(e.item) = 'object'
        and e.item - '{job_type,payload,queue,job_id,user_id,options}'::text[] = '{}'
        and e.item ->> 'job_type' ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$' and length(e.item ->> 'job_type') <= 128
        and coalesce(jsonb_typeof(e.item -> 'payload') = 'object', true)
        and coalesce(e.item ->> 'queue' ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' and length(e.item ->> 'queue') <= 63, true), false))
      and p.problem is not null
    order by e.i limit 1)
    union all
    -- The options of many jobs are often the same: each once.
    (select p.problem, o.i
    from (
      select e.item -> 'options' as options, min(e.i) as i
      from jsonb_array_elements(p_jobs) with ordinality as e (item, i)
      where jsonb_typeof(e.item -> 'options') <> 'null'
      group by e.item -> 'options'
      offset 0
    ) o
    cross join lateral (select picture_queue._options_problem(o.options) as problem) p
    where p.problem is not null
    order by o.i limit 1)
  ) b
  order by b.i limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      case when jsonb_array_length(p_jobs) > 1 then format('jobs[%s]: ', v_bad.i - 1) else '' end || v_bad.problem,
      'names are letters, digits and _ . - ; payload and metadata are JSON objects; times are in seconds');
  end if;
  -- The whole is never smaller than a part, and is measured once.
  if octet_length(p_jobs::text) > v_limit then
    select max(octet_length((e.item -> 'payload')::text)) as bytes into v_bad from jsonb_array_elements(p_jobs) as e (item);
    if v_bad.bytes > v_limit then
      perform picture_queue._refuse('PQ_TOO_LARGE',
        format('payload has %s bytes, the limit is %s', v_bad.bytes, v_limit),
        'store the data elsewhere, in Supabase Storage for example, and put its path into the payload');
    end if;
  end if;
end
$$;
