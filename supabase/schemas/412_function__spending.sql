-- Checks and reservations when a generation starts.

-- Returns the problem with the name of a plan; null if there is none, or no plan. Accounts, budgets and rules over
-- inputs have the same names.
create function picture_queue._plan_problem(p_plan text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case when p_plan !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'
    then format('plan is %s', left(quote_literal(p_plan), 100)) end
$$;

-- Returns the expected cost of a generation: amount_usd, price_usd and price_unit. The number of pictures is the
-- highest of the inputs for it, also of those that the model does not list, since its list may be incomplete. Without a
-- price the cost is an estimate from the typical seconds of the model (price_unit is second); without both, price_unit
-- is null.
create function picture_queue._cost(p_model_id text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_cost jsonb;
begin
  select jsonb_build_object(
    'amount_usd', coalesce(trim_scale(round(requested.outputs * case
      when m.price_usd_per_image is not null then m.price_usd_per_image
      else m.typical_seconds::numeric * s.estimate_usd_per_second end, 6)), 0),
    'price_usd', coalesce(m.price_usd_per_image, case when m.typical_seconds > 0 then s.estimate_usd_per_second end),
    'price_unit', case when m.price_usd_per_image is not null then 'image' when m.typical_seconds > 0 then 'second' end)
  into v_cost
  from picture_queue.model m
  cross join picture_queue.setting s
  left join lateral (
    select r.rule -> 'default' as value from jsonb_array_elements(m.inputs) as r (rule)
    where r.rule ->> 'name' = m.max_outputs_param limit 1) model_default on true
  cross join lateral (
    select greatest(least(coalesce(max(case jsonb_typeof(n.value) when 'number' then (n.value #>> '{}')::numeric
      when 'string' then picture_queue._text_number(n.value #>> '{}') end), 1), 1000), 1) as outputs
    from (
      select coalesce(p_input -> m.max_outputs_param, model_default.value) as value
      union all
      -- The same names as in 710_data_input_rules.sql, which has a cap for each.
      select g.value from jsonb_each(p_input) as e (name, value)
      cross join lateral jsonb_path_query(e.value, 'lax $[*]') as g (value)
      where lower(e.name) in ('num_outputs', 'num_images', 'number_of_images', 'max_images')
    ) n) requested
  where m.model_id = p_model_id;
  return v_cost;
end
$$;

-- Returns the current account with this key: the sum of its row and of the changes that are not added yet. The spending
-- of a day or month that has ended is 0. Null if there is no account.
create function picture_queue._read_account(p_key text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_today date := (picture_queue._now() at time zone 'UTC')::date;
  v_account jsonb;
begin
  select jsonb_build_object('key', a.key, 'plan', a.plan, 'day', d.day,
    'credits_usd', a.credits_usd + changes.credits_usd, 'pending', a.pending - changes.pending,
    'day_usd', case when a.day = d.day then a.day_usd else 0 end - changes.day_usd,
    'month_usd', case when date_trunc('month', a.day) = date_trunc('month', d.day) then a.month_usd else 0 end
      - changes.month_usd)
  into v_account
  from picture_queue.account a
  cross join lateral (select greatest(a.day, v_today) as day) d
  cross join lateral (
    select coalesce(sum(o.credits_usd), 0) as credits_usd, coalesce(sum(o.pending), 0) as pending,
      coalesce(sum(o.usd) filter (where o.reserved_on = d.day), 0) as day_usd,
      coalesce(sum(o.usd) filter (where date_trunc('month', o.reserved_on) = date_trunc('month', d.day)), 0) as month_usd
    from picture_queue.account_change o where o.key = a.key) changes
  where a.key = p_key;
  return v_account;
end
$$;

-- Adds amounts, and up to a thousand of the pending changes, to an account that the caller has locked.
create function picture_queue._add_to_account(p_key text, p_usd numeric, p_credits_usd numeric, p_pending integer)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_today date := (picture_queue._now() at time zone 'UTC')::date;
begin
  with taken as (
    delete from picture_queue.account_change c
    where c.ctid = any (array(select o.ctid from picture_queue.account_change o where o.key = p_key limit 1000))
    returning c.usd, c.credits_usd, c.pending, c.reserved_on
  )
  update picture_queue.account a
  set day = d.day, credits_usd = a.credits_usd + p_credits_usd + c.credits_usd, pending = a.pending + p_pending - c.pending,
    day_usd = case when a.day = d.day then a.day_usd else 0 end + p_usd - c.day_usd,
    month_usd = case when date_trunc('month', a.day) = date_trunc('month', d.day) then a.month_usd else 0 end
      + p_usd - c.month_usd
  from picture_queue.account l
  cross join lateral (select greatest(l.day, v_today) as day) d
  cross join lateral (
    select coalesce(sum(t.credits_usd), 0) as credits_usd, coalesce(sum(t.pending), 0) as pending,
      coalesce(sum(t.usd) filter (where t.reserved_on = d.day), 0) as day_usd,
      coalesce(sum(t.usd) filter (where date_trunc('month', t.reserved_on) = date_trunc('month', d.day)), 0) as month_usd
    from taken t) c
  where a.key = p_key and l.key = p_key;
end
$$;

-- Locks the account of a user until the transaction ends, and creates it if needed. The caller must read the account in
-- a later statement. Only then does it see the changes of the transactions that held the lock before.
create function picture_queue._lock_account(p_user_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  perform from picture_queue.account a where a.key = 'user:' || p_user_id for no key update;
  if not found then
    insert into picture_queue.account (key, day)
    values ('user:' || p_user_id, (picture_queue._now() at time zone 'UTC')::date) on conflict do nothing;
    perform from picture_queue.account a where a.key = 'user:' || p_user_id for no key update;
  end if;
end
$$;

-- Returns the budget of a user, without the fields that have no value. For each field, the budget of the user takes
-- precedence over the budget of the plan, which takes precedence over the budget user:*.
create function picture_queue._user_budget(p_user_id uuid, p_plan text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return (coalesce((select jsonb_strip_nulls(to_jsonb(b)) from picture_queue.budget b where b.key = 'user:*'), '{}')
    || coalesce((select jsonb_strip_nulls(to_jsonb(b)) from picture_queue.budget b where b.key = 'plan:' || p_plan), '{}')
    || coalesce((
      select jsonb_strip_nulls(to_jsonb(b)) from picture_queue.budget b where b.key = 'user:' || p_user_id), '{}')) - 'key';
end
$$;

-- Raises an error of a limit. DETAIL ends with the time at which the call may succeed, if it is known.
create function picture_queue._raise_limit(p_code text, p_detail text, p_hint text, p_retry_at timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_seconds numeric := case when p_retry_at is not null
    then round(greatest(extract(epoch from p_retry_at - picture_queue._now()), 0.001), 3) end;
begin
  perform picture_queue._raise_error(p_code, p_detail || case when v_seconds is null then ''
    else format('; retry_after is %s s, at %s', v_seconds,
      to_char(p_retry_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) end, p_hint);
end
$$;

-- Refuses a generation that exceeds an amount of a budget. p_account: the account as _read_account returns it. The
-- error does not tell end users how much the project spends.
create function picture_queue._check_amounts(p_account jsonb, p_budget jsonb, p_amount numeric, p_unit text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_field text;
  v_day date := (p_account ->> 'day')::date;
  v_spent numeric;
  v_hidden boolean := p_account ->> 'key' = 'project' and not picture_queue._is_service();
begin
  foreach v_field in array '{usd_per_month,usd_per_day}'::text[] loop
    v_spent := (p_account ->> case v_field when 'usd_per_day' then 'day_usd' else 'month_usd' end)::numeric;
    if p_budget ->> v_field is null then
      continue;
    elsif p_unit is null then
      perform picture_queue._raise_error('PQ_OVER_BUDGET', 'the cost of this model is not known, and a budget is set',
        'choose a model that has a price or typical_seconds in list_models()');
    elsif v_spent + p_amount > (p_budget ->> v_field)::numeric then
      perform picture_queue._raise_limit('PQ_OVER_BUDGET',
        case when v_hidden then format('%s of the project is used up', v_field)
          else format('%s is %s, of which %s is spent, and this generation costs %s', v_field, p_budget ->> v_field,
            trim_scale(v_spent), trim_scale(p_amount)) end,
        'wait for the next period, choose a cheaper model or fewer pictures, or ask the operator for a larger budget',
        case v_field when 'usd_per_day' then v_day + 1 else (date_trunc('month', v_day) + interval '1 month')::date end
          ::timestamp at time zone 'UTC');
    end if;
  end loop;
end
$$;

-- Returns how many generations a user may start now under the rates and max_pending; null: any number.
create function picture_queue._starts_left(p_user_id uuid, p_account jsonb, p_budget jsonb) returns integer
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_left integer := (p_budget ->> 'max_pending')::integer - (p_account ->> 'pending')::integer;
  v_field text;
  v_rate integer;
begin
  foreach v_field in array '{per_hour,per_minute}'::text[] loop
    v_rate := (p_budget ->> v_field)::integer;
    v_left := least(v_left, v_rate - (
      select count(*) from (
        select from picture_queue.ledger l
        where l.user_id = p_user_id and l.phase = 'reserve' and l.counted and not l.is_retry
          and l.at > v_now - case v_field when 'per_hour' then interval '1 hour' else interval '1 minute' end
        order by l.at desc limit coalesce(v_rate, 0)) started));
  end loop;
  return greatest(v_left, case when v_left is not null then 0 end);
end
$$;

-- Refuses a start that exceeds the rates or max_pending of a user. p_started: how many generations the call starts
-- before this one and has not reserved yet.
create function picture_queue._check_rates(
  p_user_id uuid, p_account jsonb, p_budget jsonb, p_started integer default 0) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_field text;
  v_rate integer;
  v_period interval;
  v_first timestamptz;
begin
  if (p_account ->> 'pending')::integer + p_started >= (p_budget ->> 'max_pending')::integer then
    perform picture_queue._raise_error('PQ_RATE_LIMITED',
      format('max_pending is %s, and %s generations have not ended', p_budget ->> 'max_pending',
        (p_account ->> 'pending')::integer + p_started),
      'wait until a generation has ended, or cancel one');
  end if;
  foreach v_field in array '{per_hour,per_minute}'::text[] loop
    v_rate := (p_budget ->> v_field)::integer;
    v_period := case v_field when 'per_hour' then interval '1 hour' else interval '1 minute' end;
    -- The oldest of the latest v_rate starts. The next start is possible when v_period has passed since then. A call
    -- that starts more than v_rate generations is never possible.
    v_first := case when v_rate > p_started then (
      select l.at from picture_queue.ledger l
      where l.user_id = p_user_id and l.phase = 'reserve' and l.counted and not l.is_retry and l.at > v_now - v_period
      order by l.at desc offset v_rate - p_started - 1 limit 1) end;
    if v_rate <= p_started or v_first is not null then
      perform picture_queue._raise_limit('PQ_RATE_LIMITED', format('%s is %s, and as many generations were started in the '
        'last %s', v_field, v_rate, case v_field when 'per_hour' then 'hour' else 'minute' end),
        'wait, or ask the operator for a higher rate', v_first + v_period);
    end if;
  end loop;
end
$$;

-- Locks the account of a user until the transaction ends, and returns it with the budget of the user. is_counted:
-- whether the rates and max_pending count generations that the caller starts.
create function picture_queue._open_account(
  p_user_id uuid, out account jsonb, out budget jsonb, out is_counted boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- In a repeatable read transaction, the sums could lack the changes of other transactions.
  perform picture_queue._check_isolation();
  perform picture_queue._lock_account(p_user_id);
  account := picture_queue._read_account('user:' || p_user_id);
  budget := picture_queue._user_budget(p_user_id, account ->> 'plan');
  is_counted := not (coalesce((budget ->> 'exempts_service')::boolean, false) and picture_queue._is_service());
end
$$;

-- Refuses a generation that exceeds an amount of the budget of a user, or the credits of a user who needs credits.
-- p_account and p_budget: as _open_account returns them. p_cost: as _cost returns it.
create function picture_queue._check_funds(p_account jsonb, p_budget jsonb, p_cost jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_amount numeric := (p_cost ->> 'amount_usd')::numeric;
begin
  perform picture_queue._check_amounts(p_account, p_budget, v_amount, p_cost ->> 'price_unit');
  if not coalesce((p_budget ->> 'needs_credits')::boolean, false) then
    return;
  elsif p_cost ->> 'price_unit' is null then
    perform picture_queue._raise_error('PQ_NO_CREDIT', 'the cost of this model is not known, and the user needs credits',
      'choose a model that has a price or typical_seconds in list_models()');
  elsif (p_account ->> 'credits_usd')::numeric < v_amount then
    perform picture_queue._raise_error('PQ_NO_CREDIT', format('credits_usd is %s, and this generation costs %s',
      trim_scale((p_account ->> 'credits_usd')::numeric), trim_scale(v_amount)));
  end if;
end
$$;

-- Checks the rates, budgets and credits of a user before a generation is inserted, and locks the account of the user
-- until the transaction ends. Returns the expected cost for _reserve. A repeated call is not refused if the first call
-- has committed in the meantime. p_input: all inputs as the provider will get them. p_retries: whether an ended
-- generation is retried; no rate limits such retries.
create function picture_queue._check_spending(
  p_user_id uuid, p_model_id text, p_input jsonb, p_generation_id uuid, p_job_type text,
  p_idempotency_key text default null, p_retries boolean default false)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_cost jsonb := picture_queue._cost(p_model_id, p_input);
  v_user record;
begin
  if p_user_id is null then
    return v_cost;
  end if;
  v_user := picture_queue._open_account(p_user_id);
  v_cost := v_cost || jsonb_build_object('counted', v_user.is_counted, 'is_retry', p_retries,
    'from_credits', coalesce((v_user.budget ->> 'needs_credits')::boolean, false));
  if not p_retries and (
    exists (select from public.generations g where g.id = p_generation_id)
    or p_idempotency_key is not null and exists (
      select from public.job_queue j
      where j.idempotency_key = p_idempotency_key and j.job_type = p_job_type and j.user_id = p_user_id))
  then
    return v_cost || '{"unchecked": true}';
  end if;
  if v_user.is_counted and not p_retries then
    perform picture_queue._check_rates(p_user_id, v_user.account, v_user.budget);
  end if;
  perform picture_queue._check_funds(v_user.account, v_user.budget, v_cost);
  return v_cost;
end
$$;

-- Locks the account of the project until the transaction ends, and returns it; null if there is none. All starts in the
-- project wait for this lock, so a start takes it last, after its rows of the ledger: set_budget locks the ledger while
-- it creates the account. So a transaction that has written to the ledger either is included in the sums of the new
-- account, or sees the account here.
create function picture_queue._lock_project() returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  perform from picture_queue.account a where a.key = 'project' for no key update;
  if not found then
    return null;
  end if;
  perform picture_queue._check_isolation();
  return picture_queue._read_account('project');
end
$$;

-- Writes the reservation of a generation into the ledger. The caller adds it to the accounts.
create function picture_queue._write_reservation(p_generation_id uuid, p_user_id uuid, p_model_id text, p_cost jsonb)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  insert into picture_queue.ledger (phase, generation_id, round, user_id, model_id, amount_usd, price_usd, price_unit,
    from_credits, counted, is_retry, at)
  values ('reserve', p_generation_id, 1 + coalesce((
      select max(l.round) from picture_queue.ledger l where l.generation_id = p_generation_id), 0),
    p_user_id, p_model_id, (p_cost ->> 'amount_usd')::numeric, (p_cost ->> 'price_usd')::numeric, p_cost ->> 'price_unit',
    coalesce((p_cost ->> 'from_credits')::boolean, false), coalesce((p_cost ->> 'counted')::boolean, false),
    coalesce((p_cost ->> 'is_retry')::boolean, false), picture_queue._now());
end
$$;

-- Reserves the expected cost of an inserted generation: writes a row of the ledger, and adds the cost to the accounts
-- of the user and of the project. Refuses a generation that exceeds the budget of the project.
create function picture_queue._reserve(p_generation_id uuid, p_user_id uuid, p_model_id text, p_cost jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_amount numeric := (p_cost ->> 'amount_usd')::numeric;
  v_counted boolean := coalesce((p_cost ->> 'counted')::boolean, false);
  v_from_credits boolean := coalesce((p_cost ->> 'from_credits')::boolean, false);
  v_project jsonb;
begin
  if (p_cost ->> 'unchecked')::boolean then
    perform picture_queue._raise_busy('the generation that this call repeats was deleted at the same time');
  end if;
  perform picture_queue._write_reservation(p_generation_id, p_user_id, p_model_id, p_cost);
  update public.generations g
  set cost_usd = case when p_cost ->> 'price_unit' is not null then v_amount end,
    cost_is_estimate = coalesce(p_cost ->> 'price_unit' = 'second', false)
  where g.id = p_generation_id and p_cost ->> 'price_unit' is not null;
  if p_user_id is not null then
    perform picture_queue._add_to_account('user:' || p_user_id, v_amount,
      case when v_from_credits then -v_amount else 0 end, v_counted::integer);
  end if;
  v_project := picture_queue._lock_project();
  if v_project is not null then
    perform picture_queue._check_amounts(v_project, (
      select to_jsonb(b) from picture_queue.budget b where b.key = 'project'), v_amount, p_cost ->> 'price_unit');
    perform picture_queue._add_to_account('project', v_amount, 0, 0);
  end if;
end
$$;
