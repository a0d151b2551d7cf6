-- Limits and pauses of keys, and the weights of tenants.

-- What is wrong with the key of a limit; null if nothing. '<kind>:*' stands for each key of a kind.
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

-- The rule of a key, or with <kind>:* of each key of a kind: how many of its jobs may run at once, and how many may
-- start in any period. Jobs that run already count: where there are any, nothing of the key starts until maintenance
-- has counted them, since their rows must not be locked until the caller commits. Those of claims under way are
-- added within a second or two.
create function public.set_limit(
  key text, max_running integer default null, rate integer default null, period_seconds real default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._refuse_problem(coalesce(picture_queue._limit_key_problem(key, true), case
    when max_running < 1 then format('max_running is %s, not 1 or more', max_running)
    when rate < 1 then format('rate is %s, not 1 or more', rate)
    when rate > 100000 then format('rate is %s, not at most 100000', rate)
    when period_seconds <= 0 or period_seconds > 31536000 then format('period_seconds is %s, not above 0 to 31536000', period_seconds)
    when max_running is null and rate is null then 'neither max_running nor rate is given'
    when (rate is null) <> (period_seconds is null) then 'rate and period_seconds go together'
  end), 'pause_key() lets nothing start; delete_limit() ends a limit');
  insert into picture_queue.limit_rule as r (key, max_running, rate, period_seconds, created_at, count_at)
  values (set_limit.key, set_limit.max_running, set_limit.rate, set_limit.period_seconds, picture_queue._now(), picture_queue._now())
  on conflict on constraint limit_rule_pkey do update
  set max_running = excluded.max_running, rate = excluded.rate, period_seconds = excluded.period_seconds,
    created_at = excluded.created_at, count_at = excluded.count_at;
  if not exists (select from picture_queue._uncounted(array[key])) then
    update picture_queue.limit_rule r set counted = true where r.key = set_limit.key;
  end if;
  perform picture_queue._plan_maintenance(picture_queue._now());
  perform picture_queue._look_at_keys(key);
  return (select l.item from jsonb_array_elements(public.list_limits()) as l (item) where l.item ->> 'key' = set_limit.key);
exception when deadlock_detected or lock_not_available then
  return picture_queue._refuse_busy(format('key is %s: somebody else is changing it', key));
end
$$;
comment on function public.set_limit is 'Limits how many jobs of a key run at once or start in a period.';

-- Looks at a key, or at the keys of a kind, again: unblocks the jobs of the first hundred that jobs wait for, and
-- leaves the others to maintenance.
create function picture_queue._look_at_keys(p_key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_keys text[];
begin
  with recursive blocked as (
    -- The keys that jobs are blocked on, one after the other through the index.
    (select j.blocked_on as key from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null order by j.blocked_on limit 1)
    union all
    select o.key from blocked b
    cross join lateral (
      select j.blocked_on as key from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null and j.blocked_on > b.key order by j.blocked_on limit 1) o
  )
  select array_agg(b.key) into v_keys from blocked b where b.key = p_key or split_part(b.key, ':', 1) || ':*' = p_key;
  insert into picture_queue.freed_key (key, n, at) select k, 0, picture_queue._now() from unnest(v_keys) k;
  perform picture_queue._isolate('key', v_keys[:100], 100);
  if cardinality(v_keys) > 100 then
    perform picture_queue._plan_maintenance(picture_queue._now());
  end if;
end
$$;

create function public.delete_limit(key text, request_id uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  if picture_queue._first_answer('delete_limit', request_id::text) is not null then
    return;
  end if;
  perform picture_queue._keep_answer('delete_limit', request_id::text, '{}');
  delete from picture_queue.limit_rule r where r.key = delete_limit.key;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_LIMIT', format('key is %s', quote_nullable(left(key, 200))),
      'list_limits() has those there are');
  end if;
  perform picture_queue._look_at_keys(key);
exception when deadlock_detected or lock_not_available then
  perform picture_queue._refuse_busy(format('key is %s: somebody else is changing it', key));
end
$$;
comment on function public.delete_limit is 'Ends the limit of a key.';

create function public.list_limits() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', k.key, 'max_running', r.max_running, 'rate', r.rate, 'period_seconds', r.period_seconds,
    'paused', coalesce(l.paused_until > picture_queue._now(), false),
    'resume_at', case when l.paused_until > picture_queue._now() then nullif(l.paused_until, 'infinity') end,
    'running', greatest(coalesce(l.running, 0) - (
      select coalesce(sum(f.n), 0) from picture_queue.freed_key f where f.key = k.key), 0),
    'waiting', (select count(*) from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked')) order by k.key), '[]')
  from (
    select key from picture_queue.limit_rule
    union
    select key from picture_queue.limit_key where paused_until > picture_queue._now()
    union
    select key from picture_queue.freed_key where at > picture_queue._now()
  ) k
  left join picture_queue.limit_rule r on r.key = k.key
  left join picture_queue.limit_key l on l.key = k.key
$$;
comment on function public.list_limits is 'The limits, and the keys that are paused or waited for.';

-- No job of the key starts until resume_at, or until it is resumed; what runs goes on.
create function public.pause_key(key text, resume_at timestamptz default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._refuse_problem(
    coalesce(picture_queue._limit_key_problem(key, false), picture_queue._resume_at_problem(resume_at)),
    'name one key, and a resume_at to come or none');
  perform picture_queue._set_pause(key, coalesce(resume_at, 'infinity'));
  return jsonb_build_object('key', key, 'paused', true, 'resume_at', nullif(resume_at, 'infinity'));
end
$$;
comment on function public.pause_key is 'Lets no job of a key start.';

create function public.resume_key(key text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._refuse_problem(picture_queue._limit_key_problem(key, false), 'name one key');
  perform picture_queue._set_pause(key, null);
  perform picture_queue._look_at_keys(key);
  return jsonb_build_object('key', key, 'paused', false, 'resume_at', null);
end
$$;
comment on function public.resume_key is 'Ends the pause of a key.';

-- Sets until when a key is paused; refuses when somebody has it locked for two seconds.
create function picture_queue._set_pause(p_key text, p_until timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  for v_try in 1..40 loop
    exit when picture_queue._lock_keys(array[p_key]) <> '{}';
    if v_try = 40 then
      perform picture_queue._refuse_busy(format('key is %s: somebody else has it locked', p_key));
    end if;
  end loop;
  perform picture_queue._add_running(array[p_key], array[0]);
  update picture_queue.limit_key k set paused_until = p_until, version = k.version + 1 where k.key = p_key;
  perform picture_queue._plan_keys(array[p_key]);
end
$$;

-- A tenant of weight 3 gets three turns where one of weight 1 gets one.
create function public.set_tenant(tenant text, weight real) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._refuse_problem(case
    when coalesce(length(tenant), 0) not between 1 and 200 or weight is null or weight not between 0.001 and 1000
    then format('tenant is %s and weight %s', quote_nullable(left(tenant, 200)), quote_nullable(weight))
  end, 'a weight is 0.001 to 1000');
  insert into picture_queue.tenant as t (name, weight) values (set_tenant.tenant, set_tenant.weight)
  on conflict (name) do update set weight = excluded.weight;
  return jsonb_build_object('tenant', tenant, 'weight', weight);
exception when deadlock_detected or lock_not_available then
  return picture_queue._refuse_busy();
end
$$;
comment on function public.set_tenant is 'Gives a tenant its weight in queues that share fairly.';

create function public.list_tenants() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object('tenant', t.name, 'weight', t.weight) order by t.name), '[]')
  from picture_queue.tenant t
$$;
comment on function public.list_tenants is 'The tenants with a weight of their own.';
