-- Functions for operators over budgets, accounts and the ledger. Users can read their own account.

-- Returns the problem with the key of a budget; null if there is none.
create function picture_queue._budget_key_problem(p_key text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case when coalesce(p_key, '')
      !~ '^(project|user:([*]|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})|plan:[A-Za-z0-9][A-Za-z0-9_.-]{0,62})$'
    then format('key is %s', quote_nullable(left(p_key, 300))) end
$$;

-- Creates the account of the project, with the sums of the ledger. The table lock waits for transactions that have
-- written to the ledger, so that the sums include them. Later transactions find the account, since _reserve and _settle
-- look for it after they have written to the ledger.
create function picture_queue._open_project_account() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_today date := (picture_queue._now() at time zone 'UTC')::date;
begin
  -- This waits for a transaction that deletes the account.
  perform from picture_queue.account a where a.key = 'project' for update;
  if found then
    return;
  end if;
  lock table picture_queue.ledger in share row exclusive mode;
  delete from picture_queue.account_change c where c.key = 'project';
  insert into picture_queue.account (key, day, day_usd, month_usd)
  select 'project', v_today, coalesce(sum(s.usd) filter (where s.day = v_today), 0), coalesce(sum(s.usd), 0)
  from (
    select coalesce(e.provider_usd, l.amount_usd) as usd, (l.at at time zone 'UTC')::date as day
    from picture_queue.ledger l
    left join picture_queue.ledger e on e.generation_id = l.generation_id and e.round = l.round
      and e.phase in ('settle', 'refund') and e.provider_usd is not null
    where l.phase = 'reserve' and l.at >= date_trunc('month', v_today::timestamp) at time zone 'UTC'
  ) s
  where date_trunc('month', s.day) = date_trunc('month', v_today)
  on conflict do nothing;
end
$$;

-- Creates or changes a budget. A null value removes a field, so that the next budget applies to this field. The order
-- is user:<id>, plan:<name>, user:*.
create function public.set_budget(key text, changes jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_key text := case when key ~* '^user:' then lower(key) else key end;
begin
  changes := coalesce(changes, '{}');
  perform picture_queue._check_fields('', changes, '{
    "usd_per_day": ["number", 0, 1000000000],
    "usd_per_month": ["number", 0, 1000000000]
  }'::jsonb || case when v_key = 'project' then '{}' else '{
    "per_minute": ["integer", 0, 10000],
    "per_hour": ["integer", 0, 10000],
    "max_pending": ["integer", 0, 10000],
    "needs_credits": ["boolean"],
    "exempts_service": ["boolean"]
  }'::jsonb end);
  perform picture_queue._raise_problem(picture_queue._budget_key_problem(v_key),
    'a key is project, user:* (each user), user:<id> or plan:<name>');
  perform picture_queue._open_project_account() where v_key = 'project';
  perform picture_queue._write_row('picture_queue.budget', 'key', v_key, changes);
  return (select to_jsonb(b) from picture_queue.budget b where b.key = v_key);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_budget is 'Sets what the project, a plan or a user may spend.';

create function public.delete_budget(key text, request_id uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_key text := case when key ~* '^user:' then lower(key) else key end;
begin
  if picture_queue._find_answer('delete_budget', request_id::text) is not null then
    return;
  end if;
  perform picture_queue._store_answer('delete_budget', request_id::text, '{}');
  if not picture_queue._write_row('picture_queue.budget', 'key', v_key, null) then
    perform picture_queue._raise_error('PQ_UNKNOWN_BUDGET', format('key is %s', quote_nullable(left(key, 200))));
  end if;
  delete from picture_queue.account a where v_key = 'project' and a.key = 'project';
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.delete_budget is 'Deletes a budget.';

create function public.list_budgets(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(to_jsonb(b) order by b.key), '[]')
    from (
      select * from picture_queue.budget o
      where o.key > coalesce(filter ->> 'after', '') order by o.key limit coalesce((filter ->> 'limit')::integer, 10000)
    ) b);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_budgets is 'The budgets of the project, of plans and of users.';

-- Returns the account of a user in the format of the API, even if the user has no account yet.
create function picture_queue._show_account(p_user_id uuid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_account jsonb := picture_queue._read_account('user:' || p_user_id);
begin
  return jsonb_build_object(
    'user_id', p_user_id, 'plan', v_account ->> 'plan', 'credits_usd', coalesce(v_account -> 'credits_usd', '0'),
    'pending', coalesce(v_account -> 'pending', '0'), 'spent_today_usd', coalesce(v_account -> 'day_usd', '0'),
    'spent_this_month_usd', coalesce(v_account -> 'month_usd', '0'),
    'budget', picture_queue._user_budget(p_user_id, v_account ->> 'plan'));
end
$$;

-- Returns the account of the caller, or for a service key the account of any user.
create function picture_queue.get_account(p_user_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user uuid := case when v_is_service then p_user_id else picture_queue._caller_id() end;
begin
  if v_user is null and v_is_service then
    perform picture_queue._raise_problem('user_id is null', 'name the user');
  elsif v_user is null then
    perform picture_queue._raise_error('PQ_NOT_AUTHENTICATED', 'the token names no user');
  elsif p_user_id <> v_user then
    perform picture_queue._raise_error('PQ_NOT_ALLOWED', format('user_id is %s, which is not the caller', p_user_id),
      'omit it: the account of the caller is returned');
  end if;
  return picture_queue._show_account(v_user);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.get_account(user_id uuid default null) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.get_account(user_id) $$;
comment on function public.get_account is 'The credits, the spending and the budget of the caller.';

-- Lists the accounts by user id. A user has an account after the first start of a generation, or with a plan or
-- credits.
-- filter: plan; limit and after as in other lists.
create function public.list_accounts(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'),
    '{"limit": ["integer", 1, 10000], "after": ["uuid"], "plan": ["text", 63]}');
  return (
    select coalesce(jsonb_agg(picture_queue._show_account(substr(a.key, 6)::uuid) order by a.key), '[]')
    from (
      select o.key from picture_queue.account o
      where o.key like 'user:%' and o.key > 'user:' || coalesce(lower(filter ->> 'after'), '')
        and (filter ->> 'plan' is null or o.plan = filter ->> 'plan')
      order by o.key limit coalesce((filter ->> 'limit')::integer, 10000)
    ) a);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_accounts is 'The credits, the spending and the budget of users.';

create function public.set_account(user_id uuid, plan text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(case
    when user_id is null then 'user_id is null'
    when plan !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then format('plan is %s', quote_literal(left(plan, 100))) end);
  perform picture_queue._lock_account(user_id);
  update picture_queue.account a set plan = set_account.plan where a.key = 'user:' || set_account.user_id;
  return picture_queue._show_account(user_id);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy(format('another transaction holds the account of user %s', user_id));
end
$$;
comment on function public.set_account is 'Sets the plan of a user; null: none.';

-- Adds credits to the account of a user. A negative amount takes back credits that are left. A call with the
-- idempotency key of an earlier call changes nothing.
create function public.grant_credits(
  user_id uuid, usd numeric, idempotency_key text default null, note text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_grant record;
  v_credits numeric;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(case
    when user_id is null then 'user_id is null'
    when usd is null or usd = 0 or abs(usd) > 1000000000 or usd <> round(usd, 6)
      then format('usd is %s, not a number up to 1000000000 with 6 decimals, other than 0', left(usd::text, 50))
    when length(idempotency_key) not between 1 and 255
      then format('idempotency_key has %s characters, not 1 to 255', length(idempotency_key))
    when length(note) > 500 then format('note has %s characters, at most 500 are possible', length(note)) end,
    'name the user and the amount');
  perform picture_queue._lock_account(user_id);
  select l.user_id, l.amount_usd into v_grant from picture_queue.ledger l
  where l.idempotency_key = grant_credits.idempotency_key;
  if not found then
    v_credits := (picture_queue._read_account('user:' || user_id) ->> 'credits_usd')::numeric;
    if usd < 0 and v_credits + usd < 0 then
      perform picture_queue._raise_error('PQ_CONFLICT', format('usd is %s, and credits_usd is %s', usd, trim_scale(v_credits)),
        'take back at most the credits that are left');
    end if;
    insert into picture_queue.ledger (phase, user_id, amount_usd, idempotency_key, note, at)
    values ('grant', user_id, usd, idempotency_key, note, picture_queue._now());
    perform picture_queue._add_to_account('user:' || user_id, 0, usd, 0);
  elsif (v_grant.user_id, v_grant.amount_usd) <> (user_id, usd) then
    perform picture_queue._raise_error('PQ_CONFLICT', format('idempotency_key is %s, of a grant of %s to user %s',
      quote_literal(left(idempotency_key, 100)), trim_scale(v_grant.amount_usd), v_grant.user_id), 'use a new key for each grant');
  end if;
  return picture_queue._show_account(user_id);
exception
  when unique_violation then
    perform picture_queue._raise_error('PQ_CONFLICT', format('idempotency_key is %s, of a grant to another user',
      quote_literal(left(idempotency_key, 100))), 'use a new key for each grant');
    return null;
  when lock_not_available or deadlock_detected then
    return picture_queue._raise_busy(format('another transaction holds the account of user %s', user_id));
end
$$;
comment on function public.grant_credits is 'Adds credits to the account of a user.';

-- Lists the ledger, newest first. filter: user_id; generation_id; before_id (id of the last row of the previous page);
-- limit (1 to 1000, default 100).
create function public.list_ledger(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set seq_page_cost = 100
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'), '{
    "user_id": ["uuid"],
    "generation_id": ["uuid"],
    "before_id": ["integer", 0, 9223372036854775807],
    "limit": ["integer", 1, 1000]
  }');
  return (
    select coalesce(jsonb_agg(to_jsonb(l) - '{from_credits,counted}'::text[] order by l.id desc), '[]')
    from (
      select * from picture_queue.ledger o
      where o.id < coalesce((filter ->> 'before_id')::bigint, 9223372036854775807)
        and (filter ->> 'user_id' is null or o.user_id = (filter ->> 'user_id')::uuid)
        and (filter ->> 'generation_id' is null or o.generation_id = (filter ->> 'generation_id')::uuid)
      order by o.id desc limit coalesce((filter ->> 'limit')::integer, 100)
    ) l);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_ledger is 'The reservations, settlements, refunds and grants, newest first.';
