-- Limits and pauses of keys, and the weights of tenants.

-- Returns the problem with the key of a limit; null if there is none. '<kind>:*' stands for each key of a kind.
create function picture_queue._limit_key_problem(p_key text, p_may_be_kind boolean) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when coalesce(p_key, '') !~ '^[^[:cntrl:]]{1,200}$' then format('key is %s', quote_nullable(left(p_key, 300)))
    when p_key not like '%*%' then null
    when not p_may_be_kind then format('key is %s, and only one key at a time can be paused', quote_literal(p_key))
    when p_key !~ '^[^:*]+:[*]$' then format('key is %s: a limit for each key of a kind is <kind>:*, such as user:*', quote_literal(p_key))
  end
$$;

-- Sets the rule of a key, or with <kind>:* of each key of a kind: how many of its jobs may run at once, and how many
-- may start in any period. Jobs that run already count. If the key has such jobs, no other job of the key starts until
-- maintenance has counted them: if this call counted them, their rows would stay locked until the caller commits. Jobs
-- that a claim is starting at this moment are counted within two seconds.
create function public.set_limit(
  key text, max_running integer default null, rate integer default null, period_seconds real default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(coalesce(picture_queue._limit_key_problem(key, true), case
    when max_running < 1 then format('max_running is %s, not 1 or more', max_running)
    when rate < 1 then format('rate is %s, not 1 or more', rate)
    when rate > 100000 then format('rate is %s, not at most 100000', rate)
    when period_seconds <= 0 or period_seconds > 31536000 then format('period_seconds is %s, not above 0 to 31536000', period_seconds)
    when max_running is null and rate is null then 'neither max_running nor rate is given'
    when (rate is null) <> (period_seconds is null) then 'rate and period_seconds are not given together'
  end), 'pause_key() stops all starts; delete_limit() ends a limit');
  perform picture_queue._write_row('picture_queue.limit_rule', 'key', key, jsonb_build_object(
    'max_running', max_running, 'rate', rate, 'period_seconds', period_seconds, 'created_at', picture_queue._now(),
    'counted', not exists (select from picture_queue._uncounted_jobs(array[key])), 'count_at', picture_queue._now()));
  perform picture_queue._recheck_keys(key);
  return (select l from picture_queue._limit_rows('{}', key) l);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_limit is 'Limits how many jobs of a key run at once or start in a period.';

-- Returns the first p_limit keys that block jobs, in alphabetical order. One index search finds each key, and skips
-- the remaining jobs of the previous key.
create function picture_queue._blocking_keys(p_limit integer) returns setof text
language sql stable rows 100 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with recursive blocked as (
    (select j.blocked_on as key, 1 as n from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null order by j.blocked_on limit 1)
    union all
    select o.key, b.n + 1 from blocked b
    cross join lateral (
      select j.blocked_on as key from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null and j.blocked_on > b.key order by j.blocked_on limit 1) o
    where b.n < p_limit
  )
  select b.key from blocked b
$$;

-- Unblocks jobs after the rule of a key, or of the keys of a kind, has changed: jobs of a hundred keys at once, the
-- others by maintenance, which also counts running jobs under a new rule.
create function picture_queue._recheck_keys(p_key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set lock_timeout = '2s'
as $$
begin
  insert into picture_queue.freed_key (key, n)
  -- All blocking keys: the argument is the highest integer.
  select k, 0 from picture_queue._blocking_keys(2147483647) k where k = p_key or split_part(k, ':', 1) || ':*' = p_key;
  perform picture_queue._unblock_freed_keys();
  perform picture_queue._wake_maintenance(picture_queue._now());
end
$$;

create function public.delete_limit(key text, request_id uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  if picture_queue._find_answer('delete_limit', request_id::text) is not null then
    return;
  end if;
  perform picture_queue._store_answer('delete_limit', request_id::text, '{}');
  if not picture_queue._write_row('picture_queue.limit_rule', 'key', key, null) then
    perform picture_queue._raise_error('PQ_UNKNOWN_LIMIT', format('key is %s', quote_nullable(left(key, 200))));
  end if;
  perform picture_queue._recheck_keys(key);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.delete_limit is 'Ends the limit of a key.';

-- Returns a page of the limits, sorted by key (_check_fields has the filter), or only the limit of p_key. It includes
-- keys that have a rule, are paused, or have jobs to unblock at a later time.
create function picture_queue._limit_rows(p_filter jsonb, p_key text default null) returns setof jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(p_filter, 'null'));
  return query
  select jsonb_build_object(
    'key', k.key, 'max_running', r.max_running, 'rate', r.rate, 'period_seconds', r.period_seconds,
    'paused', coalesce(l.paused_until > picture_queue._now(), false),
    'resume_at', case when l.paused_until > picture_queue._now() then nullif(l.paused_until, 'infinity') end,
    'running', greatest(coalesce(l.running, 0) - (
      select coalesce(sum(f.n), 0) from picture_queue.freed_key f where f.key = k.key), 0),
    'waiting', (select count(*) from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked'))
  from (
    select u.key
    from (
      select o.key from picture_queue.limit_rule o
      union
      select o.key from picture_queue.limit_key o where o.paused_until > picture_queue._now()
      union
      select f.key from picture_queue.freed_key f where f.at > picture_queue._now()
    ) u
    where (p_key is null or u.key = p_key) and u.key > coalesce(p_filter ->> 'after', '')
    order by u.key limit coalesce((p_filter ->> 'limit')::integer, 10000)
  ) k
  left join picture_queue.limit_rule r on r.key = k.key
  left join picture_queue.limit_key l on l.key = k.key
  order by k.key;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;

create function public.list_limits(filter jsonb default '{}') returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select coalesce(jsonb_agg(l), '[]') from picture_queue._limit_rows(filter) l $$;
comment on function public.list_limits is 'The limits, and the keys that are paused or that jobs wait for.';

-- Pauses a key until p_until, or resumes it if p_until is null. Raises PQ_BUSY if another transaction keeps the key
-- locked for two seconds.
create function picture_queue._set_key_pause(p_key text, p_until timestamptz) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(
    coalesce(picture_queue._limit_key_problem(p_key, false), picture_queue._resume_at_problem(nullif(p_until, 'infinity'))),
    'name one key, and a resume_at in the future or none');
  for v_try in 1..40 loop  -- each try waits for up to 50 milliseconds
    exit when picture_queue._lock_keys(array[p_key]) <> '{}';
    if v_try = 40 then
      perform picture_queue._raise_busy(format('another transaction has locked the key %s', p_key));
    end if;
  end loop;
  perform picture_queue._add_running(array[p_key], array[0]);  -- inserts a missing row
  update picture_queue.limit_key k set paused_until = p_until, pause_reason = null, version = k.version + 1
  where k.key = p_key;
  perform picture_queue._plan_unblocking(array[p_key]);
  perform picture_queue._recheck_keys(p_key) where p_until is null;
  return jsonb_build_object('key', p_key, 'paused', p_until is not null, 'resume_at', nullif(p_until, 'infinity'));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

-- Pauses a key until resume_at, or until resume_key is called. Running jobs continue.
create function public.pause_key(key text, resume_at timestamptz default null) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select picture_queue._set_key_pause(key, coalesce(resume_at, 'infinity')) $$;
comment on function public.pause_key is 'Pauses a limit key: none of its jobs starts.';

create function public.resume_key(key text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select picture_queue._set_key_pause(key, null) $$;
comment on function public.resume_key is 'Ends the pause of a key.';

-- Sets the weight of a tenant: a tenant of weight 3 gets three turns for each turn of a tenant of weight 1.
create function public.set_tenant(tenant text, weight real) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._raise_problem(case
    when coalesce(length(tenant), 0) not between 1 and 200
      then format('tenant is %s, not 1 to 200 characters', quote_nullable(left(tenant, 200)))
    when coalesce(weight, 0) not between 0.001 and 1000 then format('weight is %s, not 0.001 to 1000', weight)
  end, 'the weight of a tenant without one is 1');
  perform picture_queue._write_row('picture_queue.tenant', 'name', tenant, jsonb_build_object('weight', weight));
  return jsonb_build_object('tenant', tenant, 'weight', weight);
end
$$;
comment on function public.set_tenant is 'Sets the weight of a tenant for fair sharing.';

create function public.list_tenants(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(jsonb_build_object('tenant', t.name, 'weight', t.weight) order by t.name), '[]')
    from (
      select * from picture_queue.tenant o
      where o.name > coalesce(filter ->> 'after', '') order by o.name limit coalesce((filter ->> 'limit')::integer, 10000)
    ) t);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_tenants is 'The tenants that have a weight.';
