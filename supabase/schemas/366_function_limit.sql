-- Limits and pauses of keys, and the weights of tenants.

-- The rule of a key, or with <kind>:* of each key of a kind: how many of its jobs may run at once,
-- and how many may start in any period. What runs already counts from the first moment: claims that
-- do not know a new rule are waited for.
create function public.set_limit(
  key text, max_running integer default null, rate integer default null, period_seconds real default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := case
    when coalesce(key, '') !~ '^[^[:cntrl:]]{1,200}$' then format('key is %s', quote_nullable(key))
    when max_running < 1 then format('max_running is %s, not 1 or more', max_running)
    when rate < 1 then format('rate is %s, not 1 or more', rate)
    when rate > 100000 then format('rate is %s, not at most 100000', rate)
    when period_seconds <= 0 or period_seconds > 31536000 then format('period_seconds is %s, not above 0 to 31536000', period_seconds)
    when max_running is null and rate is null then 'neither max_running nor rate is given'
    when (rate is null) <> (period_seconds is null) then 'rate and period_seconds go together'
  end;
begin
  if v_problem is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem, 'pause_key() lets nothing start; delete_limit() ends a limit');
  end if;
  perform pg_catalog.pg_advisory_xact_lock(1903326069, 0);
  insert into picture_queue.limit_rule as r (key, max_running, rate, period_seconds)
  values (set_limit.key, set_limit.max_running, set_limit.rate, set_limit.period_seconds)
  on conflict on constraint limit_rule_pkey do update
  set max_running = excluded.max_running, rate = excluded.rate, period_seconds = excluded.period_seconds;
  perform picture_queue._seat_running(key);
  perform picture_queue._look_at_keys(key);
  return (select l.item from jsonb_array_elements(public.list_limits()) as l (item) where l.item ->> 'key' = set_limit.key);
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
  return null;
end
$$;
comment on function public.set_limit is 'Limits how many jobs of a key run at once or start in a period.';

-- Gives the running jobs of a key, or of the keys of a kind, their slots.
create function picture_queue._seat_running(p_key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- Locked first, in the order of ids: what is just being reported must not get a slot that nobody frees.
  perform from public.job_queue j
  where j.status = 'processing' and j.hold is null and exists (
    select from unnest(picture_queue._keys(j.queue, j.job_type, j.user_id, j.limit_keys)) k
    where k = p_key or (p_key like '%:*' and k like replace(left(p_key, -1), '_', '\_') || '%'))
  order by j.id for update;
  with seats as (
    select j.id, array_agg(k order by k) as keys
    from public.job_queue j
    cross join lateral unnest(picture_queue._keys(j.queue, j.job_type, j.user_id, j.limit_keys)) k
    where j.status = 'processing' and j.hold is null
      and (k = p_key or (p_key like '%:*' and k like replace(left(p_key, -1), '_', '\_') || '%'))
    group by j.id
  ),
  seated as (
    insert into picture_queue.slot (key, job_id)
    select unnest(s.keys), s.id from seats s
    on conflict do nothing
  )
  update public.job_queue j
  set slots = array(select unnest(j.slots) union select unnest(s.keys))
  from seats s
  where j.id = s.id;
end
$$;

-- Has the next claim look at a key, or at the keys of a kind, again.
create function picture_queue._look_at_keys(p_key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  update picture_queue.limit_key l set due_at = picture_queue._now()
  where l.key = p_key or (p_key like '%:*' and l.key like replace(left(p_key, -1), '_', '\_') || '%');
  perform picture_queue._wake((select array_agg(q.name) from picture_queue.queue q), 'enqueue');
end
$$;

create function public.delete_limit(key text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from picture_queue.limit_rule r where r.key = delete_limit.key;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_LIMIT', format('key is %s', quote_nullable(left(key, 200))),
      'list_limits() has those there are');
  end if;
  perform picture_queue._look_at_keys(key);
end
$$;
comment on function public.delete_limit is 'Ends the limit of a key.';

-- The rules, and the keys that are paused or that jobs wait for.
create function public.list_limits() returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'key', k.key, 'max_running', r.max_running, 'rate', r.rate, 'period_seconds', r.period_seconds,
    'paused', coalesce(l.paused_until > picture_queue._now(), false),
    'resume_at', case when l.paused_until > picture_queue._now() then nullif(l.paused_until, 'infinity') end,
    'running', (select count(*) from picture_queue.slot s where s.key = k.key),
    'waiting', (select count(*) from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked')) order by k.key), '[]')
  from (select key from picture_queue.limit_rule union select key from picture_queue.limit_key) k
  left join picture_queue.limit_rule r on r.key = k.key
  left join picture_queue.limit_key l on l.key = k.key
$$;
comment on function public.list_limits is 'The limits, and the keys that are paused or waited for.';

-- No job of the key starts until resume_at, or until it is resumed; what runs goes on.
create function public.pause_key(key text, resume_at timestamptz default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(key, '') !~ '^[^[:cntrl:]]{1,200}$' or resume_at <= picture_queue._now() then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      format('key is %s and resume_at %s', quote_nullable(key), quote_nullable(resume_at)), 'resume_at must be to come');
  end if;
  perform picture_queue._lock_keys(array[key]);
  insert into picture_queue.limit_key as l (key, paused_until, due_at)
  values (pause_key.key, coalesce(resume_at, 'infinity'), coalesce(resume_at, 'infinity'))
  on conflict on constraint limit_key_pkey do update set paused_until = excluded.paused_until, due_at = excluded.due_at;
  return jsonb_build_object('key', key, 'paused', true, 'resume_at', resume_at);
end
$$;
comment on function public.pause_key is 'Lets no job of a key start.';

create function public.resume_key(key text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if key is null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'key is NULL');
  end if;
  perform picture_queue._lock_keys(array[key]);
  update picture_queue.limit_key l set paused_until = null where l.key = resume_key.key;
  perform picture_queue._look_at_keys(key);
  return jsonb_build_object('key', key, 'paused', false, 'resume_at', null);
end
$$;
comment on function public.resume_key is 'Ends the pause of a key.';

-- A tenant of weight 3 gets three turns where one of weight 1 gets one.
create function public.set_tenant(tenant text, weight real) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(length(tenant), 0) not between 1 and 200 or weight is null or weight not between 0.001 and 1000 then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      format('tenant is %s and weight %s', quote_nullable(left(tenant, 200)), quote_nullable(weight)),
      'a weight is 0.001 to 1000');
  end if;
  insert into picture_queue.tenant as t (name, weight) values (set_tenant.tenant, set_tenant.weight)
  on conflict (name) do update set weight = excluded.weight;
  return jsonb_build_object('tenant', tenant, 'weight', weight);
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
