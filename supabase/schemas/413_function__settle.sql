-- Settlements and refunds when a generation ends. They lock no account.

-- Settles the reservations of those of these generations that have ended, in any final state. Returns the number of
-- settled reservations. All rounds of a generation together cost the price of its stored pictures or of its seconds; a
-- round costs at most its reserved amount. A generation without a stored picture costs nothing, unless it completed and
-- its model has no price per picture. A generation whose row was removed costs nothing. The account of the project
-- counts the charge of the provider; for a prediction whose charge is not known it counts the reserved amount. The
-- unique key of the ledger ensures that each reservation is settled once.
create function picture_queue._settle(p_generation_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_settled jsonb;
begin
  -- Wait for a retry that is not committed yet: it would continue with a reservation that is settled here.
  perform from public.generations g where g.id = any (p_generation_ids) order by g.id for no key update;
  with reservation as (
    select l.*, coalesce(g.status = 'completed', false) as completed, i.images, o.settled_before, case l.price_unit
      when 'image' then l.price_usd * i.images
      when 'second' then l.price_usd * (
        select (p.metrics ->> 'predict_time')::numeric from picture_queue.prediction p
        where p.generation_id = l.generation_id and (p.state = 'succeeded' or g.status <> 'completed')
          and jsonb_typeof(p.metrics -> 'predict_time') = 'number'
        order by p.created_at desc limit 1) end as cost,
      (
        select sum(case when p.cost_usd is not null then p.cost_usd
          when p.prediction_id is not null or p.state = 'creating' then l.amount_usd else 0 end)
        from picture_queue.prediction p where p.generation_id = l.generation_id) as charged, o.charged_before
    from picture_queue.ledger l
    left join public.generations g on g.id = l.generation_id
    cross join lateral (select count(*) as images from public.images i where i.generation_id = l.generation_id) i
    cross join lateral (
      select coalesce(sum(o.amount_usd) filter (where o.phase = 'settle'), 0) as settled_before,
        coalesce(sum(o.provider_usd), 0) as charged_before
      from picture_queue.ledger o where o.generation_id = l.generation_id and o.round < l.round) o
    where l.generation_id = any (p_generation_ids) and l.phase = 'reserve'
      and (g.id is null or g.status in ('completed', 'failed', 'cancelled'))
      and not exists (
        select from picture_queue.ledger e
        where e.generation_id = l.generation_id and e.round = l.round and e.phase in ('settle', 'refund'))
  ),
  ended as (
    select r.*, s.settled, r.completed or s.settled > 0 as settles,
      trim_scale(round(greatest(greatest(r.charged, r.settled_before + s.settled) - r.charged_before, 0), 6)) as provider
    from reservation r
    cross join lateral (select case when r.completed or r.images > 0 then trim_scale(
        round(greatest(least(coalesce(r.cost, r.amount_usd) - r.settled_before, r.amount_usd), 0), 6))
      else 0 end as settled) s
  ),
  written as (
    insert into picture_queue.ledger (phase, generation_id, round, user_id, model_id, amount_usd, price_usd, price_unit,
      from_credits, counted, at, provider_usd)
    select p.phase, e.generation_id, e.round, e.user_id, e.model_id, p.amount, e.price_usd, e.price_unit, e.from_credits,
      e.counted, v_now, case when p.ends then e.provider end
    from ended e
    cross join lateral (values
      ('settle', e.settled, e.settles, true),
      ('refund', e.amount_usd - e.settled, e.amount_usd > e.settled or not e.settles, not e.settles)
    ) as p (phase, amount, applies, ends)
    where p.applies
    order by e.generation_id, e.round, p.phase
    on conflict (generation_id, round, phase) do nothing
    returning generation_id, round, phase, amount_usd
  )
  select jsonb_agg(jsonb_build_object(
    'generation_id', e.generation_id, 'user_id', e.user_id,
    'cost_usd', case when e.price_unit is not null then e.settled_before + e.settled end,
    'refund_usd', case when w.phase = 'refund' then w.amount_usd else 0 end,
    'uncharged_usd', case when w.phase = 'settle' or not e.settles then e.amount_usd - e.provider else 0 end,
    'from_credits', e.from_credits,
    -- A round with two rows ends with the settlement.
    'ends', w.phase = 'settle' or not e.settles,
    'counted', e.counted, 'reserved_on', (e.at at time zone 'UTC')::date))
  into v_settled
  from written w join ended e on e.generation_id = w.generation_id and e.round = w.round;
  -- The account of the project must be read after the ledger was written; see _reserve.
  insert into picture_queue.account_change (key, usd, credits_usd, pending, reserved_on, at)
  select k.key, sum(case k.key when 'project' then s.uncharged_usd else s.refund_usd end),
    sum(case when k.key <> 'project' and s.from_credits then s.refund_usd else 0 end),
    count(*) filter (where k.key <> 'project' and s.ends and s.counted), s.reserved_on, v_now
  from jsonb_to_recordset(v_settled) as s (
    user_id uuid, refund_usd numeric, uncharged_usd numeric, from_credits boolean, ends boolean, counted boolean,
    reserved_on date)
  cross join lateral (values ('user:' || s.user_id), (
    (select a.key from picture_queue.account a where a.key = 'project' and s.uncharged_usd <> 0))) as k (key)
  where k.key is not null
  group by k.key, s.reserved_on
  order by k.key, s.reserved_on;
  update public.generations g set cost_usd = s.cost_usd
  from jsonb_to_recordset(v_settled) as s (generation_id uuid, cost_usd numeric, ends boolean)
  where s.ends and g.id = s.generation_id and g.cost_usd is distinct from s.cost_usd;
  return coalesce(jsonb_array_length(jsonb_path_query_array(v_settled, '$[*] ? (@.ends == true)')), 0);
end
$$;

-- Settles generations that have ended. An error does not undo the end of the jobs: a follow-up is added, so that
-- maintenance settles the generations later.
create function picture_queue._settle_ended(p_generation_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._settle(p_generation_ids);
exception when others then
  insert into picture_queue.follow_up (kind, subject) select 'settlement', g from unnest(p_generation_ids) g;
end
$$;

-- Settles the generations of these follow-ups (their ids), and deletes the follow-ups.
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

-- Reserves the cost again for generations that are retried after they had ended. Raises the error of a limit if the
-- user or the project may not spend the amount; then the generations are not retried. A reservation that is not settled
-- yet is used again. The lock_timeout is longer than that of other changes of jobs, since each start of the user locks
-- the account.
create function picture_queue._reserve_again(p_generation_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '500ms'
as $$
declare
  v_generation record;
begin
  -- The accounts of all users are locked before the account of the project, in the order of a start.
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

-- Adds the pending changes of these accounts to their rows. Locked accounts are skipped. Changes without an account are
-- deleted. The account of the project is locked last, in the order of a start.
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

-- Returns the amount that the provider charges for a prediction; null if it is not known. A model with a price per
-- picture costs the price of the pictures: the number that the provider reports, or p_stored, the number of stored
-- pictures, if it is higher. If the provider reports no number, or a negative or fractional number, the requested
-- number counts. Other models cost the price of their seconds, even if the prediction failed. At most 1,000 pictures,
-- the maximum of save_images, and the seconds of a day count. So a wrong number of the provider cannot distort all
-- sums.
create function picture_queue._prediction_cost(
  p_model_id text, p_input jsonb, p_state text, p_metrics jsonb, p_stored bigint default 0)
returns numeric
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return (
    select case
      when m.price_usd_per_image is null and jsonb_typeof(p_metrics -> 'predict_time') = 'number'
        then trim_scale(round(greatest(least((p_metrics ->> 'predict_time')::numeric, 86400), 0) * s.estimate_usd_per_second, 6))
      when m.price_usd_per_image is not null and p_state = 'succeeded'
        then greatest(m.price_usd_per_image * p_stored, case
          when jsonb_path_exists(p_metrics, 'strict $.image_count ? (@ >= 0 && @ == @.floor())', silent => true)
            then m.price_usd_per_image * least((p_metrics ->> 'image_count')::numeric, 1000)
          else (picture_queue._cost(p_model_id, p_input) ->> 'amount_usd')::numeric end)
      when m.price_usd_per_image is not null or p_state in ('aborted', 'lost') then 0
    end
    from picture_queue.model m cross join picture_queue.setting s where m.model_id = p_model_id);
end
$$;
