"""Queries that find errors in the ledger and in the accounts.

A round of a generation is one reservation, and the settlement and refund that end this reservation.
Each retry of the generation begins another round.
"""

#: Rounds with one of these errors: the round has ended, but its settled and refunded amounts do not
#: add up to the reserved amount; the generation has finished, but the round has not ended; or the
#: generation has not finished, but its last round has ended.
UNBALANCED = """
select coalesce(jsonb_agg(
  to_jsonb(rounds) || jsonb_build_object('status', generations.status)), '[]')
from (
  select generation_id, round,
    round = max(round) over (partition by generation_id) as is_last,
    sum(case phase when 'reserve' then amount_usd else -amount_usd end) as rest,
    bool_or(phase <> 'reserve') as ended
  from picture_queue.ledger where phase <> 'grant' group by generation_id, round
) rounds
left join generations on generations.id = rounds.generation_id
where case when rounds.is_last and generations.status in ('pending', 'processing')
  then rounds.ended else rounds.rest <> 0 or not rounds.ended end
"""
#: Accounts that differ from the sums of the ledger. The query compares the sum of all rows with the
#: cost of the current month, so it needs a ledger without rows of earlier months.
WRONG_ACCOUNTS = """
select coalesce(jsonb_agg(
  jsonb_build_object('account', accounts.account, 'ledger', to_jsonb(sums))), '[]')
from (
  select key, picture_queue._read_account(key) as account from picture_queue.account) accounts
cross join lateral (
  -- The account of the project counts the reservation, and the provider's charge once it is known.
  select coalesce(sum(case
      when accounts.key <> 'project'
        then entry.amount_usd * case entry.phase when 'reserve' then 1 when 'refund' then -1 end
      when entry.phase = 'reserve' then entry.amount_usd
      when entry.provider_usd is not null then entry.provider_usd - (
        select reserved.amount_usd from picture_queue.ledger reserved
        where reserved.generation_id = entry.generation_id and reserved.round = entry.round
          and reserved.phase = 'reserve') end), 0) as usd,
    coalesce(sum(entry.amount_usd * case
      when entry.phase = 'grant' then 1 when not entry.from_credits then 0
      when entry.phase = 'reserve' then -1 when entry.phase = 'refund' then 1 end), 0) as credits,
    count(*) filter (where entry.phase = 'reserve' and entry.counted and not exists (
      select from picture_queue.ledger ending
      where ending.generation_id = entry.generation_id and ending.round = entry.round
        and ending.phase in ('settle', 'refund'))) as pending
  from picture_queue.ledger entry
  -- The key of a user's account is user:<user id>.
  where accounts.key = 'project' or entry.user_id = substr(accounts.key, 6)::uuid) sums
where (accounts.account ->> 'month_usd')::numeric <> sums.usd or accounts.key <> 'project'
  and ((accounts.account ->> 'credits_usd')::numeric, (accounts.account ->> 'pending')::bigint)
    <> (sums.credits, sums.pending)
"""
#: Generations with a wrong cost. Until a generation finishes, its cost must be the amount that its
#: last round reserved, and afterwards the sum of the settled amounts of all rounds.
WRONG_COSTS = """
select coalesce(jsonb_agg(
  jsonb_build_object('id', generation.id, 'cost', generation.cost_usd,
    'status', generation.status)), '[]')
from generations generation
where exists (
    select from picture_queue.ledger entry
    where entry.generation_id = generation.id and entry.price_unit is not null)
  and generation.cost_usd is distinct from (
    select case when generation.status in ('pending', 'processing')
      then max(entry.amount_usd) filter (where entry.phase = 'reserve' and entry.round = (
        select max(last_entry.round) from picture_queue.ledger last_entry
        where last_entry.generation_id = generation.id))
      else coalesce(sum(entry.amount_usd) filter (where entry.phase = 'settle'), 0) end
    from picture_queue.ledger entry
    where entry.generation_id = generation.id)
"""
