-- Settlements and refunds when a generation ends. They lock no account.

-- Settles the reservations of these generations that have ended: a completed generation costs what its pictures or its
-- seconds cost, at most the reserved amount; any other, and one that was deleted, costs nothing. Each reservation is
-- settled once, by the unique key of the ledger. Returns the number of settled reservations.
create function picture_queue._settle(p_generation_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_settled jsonb;
begin
  -- A retry that is not committed yet must not keep a reservation that is settled here.
  perform from public.generations g where g.id = any (p_generation_ids) order by g.id for no key update;
  with reservation as (
    select l.*, coalesce(g.status = 'completed', false) as completed, case l.price_unit
      when 'image' then l.price_usd * (select count(*) from public.images i where i.generation_id = l.generation_id)
      when 'second' then l.price_usd * (
        select sum((p.metrics ->> 'predict_time')::numeric) from picture_queue.prediction p
        where p.generation_id = l.generation_id and p.state = 'succeeded'
          and jsonb_typeof(p.metrics -> 'predict_time') = 'number') end as cost
    from picture_queue.ledger l
    left join public.generations g on g.id = l.generation_id
    where l.generation_id = any (p_generation_ids) and l.phase = 'reserve'
      and (g.id is null or g.status in ('completed', 'failed', 'cancelled'))
      and not exists (
        select from picture_queue.ledger e
        where e.generation_id = l.generation_id and e.round = l.round and e.phase in ('settle', 'refund'))
  ),
  ended as (
    select r.*, case when r.completed then trim_scale(
        round(greatest(least(coalesce(r.cost, r.amount_usd), r.amount_usd), 0), 6))
      else 0 end as settled
    from reservation r
  ),
  written as (
    insert into picture_queue.ledger (phase, generation_id, round, user_id, model_id, amount_usd, price_usd, price_unit,
      from_credits, counted, at)
    select p.phase, e.generation_id, e.round, e.user_id, e.model_id, p.amount, e.price_usd, e.price_unit, e.from_credits,
      e.counted, v_now
    from ended e
    cross join lateral (values
      ('settle', e.settled, e.completed),
      ('refund', e.amount_usd - e.settled, e.amount_usd > e.settled or not e.completed)) as p (phase, amount, applies)
    where p.applies
    order by e.generation_id, e.round, p.phase
    on conflict (generation_id, round, phase) do nothing
    returning generation_id, round, phase, amount_usd
  )
  select jsonb_agg(jsonb_build_object(
    'generation_id', e.generation_id, 'user_id', e.user_id,
    'cost_usd', case when e.price_unit is not null then e.settled end,
    'refund_usd', case when w.phase = 'refund' then w.amount_usd else 0 end,
    'from_credits', e.from_credits,
    -- Of the two rows of a completed generation, the settlement ends it.
    'ends', w.phase = 'settle' or not e.completed,
    'counted', e.counted, 'reserved_on', (e.at at time zone 'UTC')::date))
  into v_settled
  from written w join ended e on e.generation_id = w.generation_id and e.round = w.round;
  -- As in _reserve, the account of the project is looked up after the ledger was written.
  insert into picture_queue.account_change (key, usd, credits_usd, pending, reserved_on, at)
  select k.key, sum(s.refund_usd), sum(case when k.key <> 'project' and s.from_credits then s.refund_usd else 0 end),
    count(*) filter (where k.key <> 'project' and s.ends and s.counted), s.reserved_on, v_now
  from jsonb_to_recordset(v_settled) as s (
    user_id uuid, refund_usd numeric, from_credits boolean, ends boolean, counted boolean, reserved_on date)
  cross join lateral (values ('user:' || s.user_id), (
    (select a.key from picture_queue.account a where a.key = 'project' and s.refund_usd > 0))) as k (key)
  where k.key is not null
  group by k.key, s.reserved_on
  order by k.key, s.reserved_on;
  update public.generations g set cost_usd = s.cost_usd
  from jsonb_to_recordset(v_settled) as s (generation_id uuid, cost_usd numeric, ends boolean)
  where s.ends and g.id = s.generation_id and g.cost_usd is distinct from s.cost_usd;
  return coalesce(jsonb_array_length(jsonb_path_query_array(v_settled, '$[*] ? (@.ends == true)')), 0);
end
$$;

-- Settles generations that have ended. A failure does not fail the change of the jobs: maintenance settles them later.
create function picture_queue._settle_ended(p_generation_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._settle(p_generation_ids);
exception when others then
  insert into picture_queue.follow_up (kind, subject) select 'settlement', g from unnest(p_generation_ids) g;
end
$$;

-- Settles the generations of these follow-ups.
create function picture_queue._settle_later(p_ids bigint[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_ids bigint[];
  v_generations uuid[];
begin
  select array_agg(f.id), array_agg(f.subject) into v_ids, v_generations
  from (
    select f.id, f.subject from picture_queue.follow_up f
    where f.id = any (p_ids) and f.kind = 'settlement' order by f.id for update skip locked
  ) f;
  perform picture_queue._settle(v_generations);
  delete from picture_queue.follow_up f where f.id = any (v_ids);
  return coalesce(cardinality(v_ids), 0);
end
$$;

-- Reserves again for generations that were retried after they had ended. Raises the error of a limit if the user or the
-- project may not spend the amount; then they are not retried. A reservation that is not settled yet remains. It waits
-- longer for an account than the change of the jobs waits for other rows: starts of the user hold the account.
create function picture_queue._reserve_again(p_generation_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '500ms'
as $$
declare
  v_generation record;
begin
  -- All users are locked before the project, as in a start.
  perform picture_queue._lock_account(u.user_id)
  from (
    select distinct g.user_id from public.generations g
    where g.id = any (p_generation_ids) and g.user_id is not null order by g.user_id offset 0) u;
  for v_generation in
    select g.id, g.user_id, g.model_id, g.input
    from public.generations g
    where g.id = any (p_generation_ids) and not exists (
      select from picture_queue.ledger l
      where l.generation_id = g.id and l.phase = 'reserve' and not exists (
        select from picture_queue.ledger e
        where e.generation_id = l.generation_id and e.round = l.round and e.phase in ('settle', 'refund')))
    order by g.user_id, g.id
  loop
    perform picture_queue._reserve(v_generation.id, v_generation.user_id, v_generation.model_id,
      coalesce(picture_queue._check_spending(v_generation.user_id, v_generation.model_id, v_generation.input,
        v_generation.id, null, p_retries => true), '{"amount_usd": 0}'));
  end loop;
end
$$;

-- Adds the changes of these accounts to them, except of locked accounts. Changes without an account are deleted. As in
-- a start, the account of the project is locked last.
create function picture_queue._update_accounts(p_keys text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_key text;
begin
  delete from picture_queue.account_change c
  where c.key = any (p_keys) and not exists (select from picture_queue.account a where a.key = c.key);
  for v_key in
    select a.key from picture_queue.account a where a.key = any (p_keys)
    order by a.key = 'project', a.key for no key update skip locked
  loop
    perform picture_queue._add_to_account(v_key, 0, 0, 0);
  end loop;
  return cardinality(p_keys);
end
$$;

-- Returns what the provider charges for a prediction: the price of its pictures (of those that were asked for, if the
-- provider does not count them), or of its seconds, also if it failed. Null if that is not known. One odd number of the
-- provider must not distort all sums, so it counts at most the 1,000 pictures that save_images accepts, and a day.
create function picture_queue._prediction_cost(p_model_id text, p_input jsonb, p_state text, p_metrics jsonb)
returns numeric
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return (
    select case
      when m.price_usd_per_image is null and jsonb_typeof(p_metrics -> 'predict_time') = 'number'
        then trim_scale(round(least(greatest((p_metrics ->> 'predict_time')::numeric, 0), 86400) * s.estimate_usd_per_second, 6))
      when m.price_usd_per_image is not null and p_state = 'succeeded'
        then case jsonb_typeof(p_metrics -> 'image_count')
          when 'number' then m.price_usd_per_image * least(greatest((p_metrics ->> 'image_count')::numeric, 0), 1000)
          else (picture_queue._cost(p_model_id, p_input) ->> 'amount_usd')::numeric end
      when m.price_usd_per_image is not null or p_state in ('aborted', 'lost') then 0
    end
    from picture_queue.model m cross join picture_queue.setting s where m.model_id = p_model_id);
end
$$;
