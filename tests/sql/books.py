"""Queries that find errors in the books: the ledger and the accounts."""

#: Rounds that have ended although reserve - settle - refund is not 0, rounds that should have ended
#: and have not, and live generations whose last round has ended.
UNBALANCED = """
select coalesce(jsonb_agg(to_jsonb(r) || jsonb_build_object('status', g.status)), '[]')
from (
  select l.generation_id, l.round,
    l.round = max(l.round) over (partition by l.generation_id) as is_last,
    sum(case l.phase when 'reserve' then l.amount_usd else -l.amount_usd end) as rest,
    bool_or(l.phase <> 'reserve') as ended
  from picture_queue.ledger l where l.phase <> 'grant' group by l.generation_id, l.round
) r
left join generations g on g.id = r.generation_id
where case when r.is_last and g.status in ('pending', 'processing') then r.ended
  else r.rest <> 0 or not r.ended end
"""
#: Accounts that differ from the sums of the ledger. All rows must be of the current month.
WRONG_ACCOUNTS = """
select coalesce(jsonb_agg(jsonb_build_object('account', a.account, 'ledger', to_jsonb(s))), '[]')
from (
  select k.key, picture_queue._read_account(k.key) as account from picture_queue.account k) a
cross join lateral (
  -- The account of the project has what the provider charges, once that is known.
  select coalesce(sum(case when a.key <> 'project'
        then l.amount_usd * case l.phase when 'reserve' then 1 when 'refund' then -1 end
      when l.phase = 'reserve' then l.amount_usd
      when l.provider_usd is not null then l.provider_usd - (
        select r.amount_usd from picture_queue.ledger r
        where r.generation_id = l.generation_id and r.round = l.round and r.phase = 'reserve')
      end), 0) as usd,
    coalesce(sum(l.amount_usd * case when l.phase = 'grant' then 1 when not l.from_credits then 0
      when l.phase = 'reserve' then -1 when l.phase = 'refund' then 1 end), 0) as credits,
    count(*) filter (where l.phase = 'reserve' and l.counted and not exists (
      select from picture_queue.ledger e
      where e.generation_id = l.generation_id and e.round = l.round
        and e.phase in ('settle', 'refund'))) as pending
  from picture_queue.ledger l
  where a.key = 'project' or l.user_id = substr(a.key, 6)::uuid) s
where (a.account ->> 'month_usd')::numeric <> s.usd or a.key <> 'project'
  and ((a.account ->> 'credits_usd')::numeric, (a.account ->> 'pending')::bigint)
    <> (s.credits, s.pending)
"""
#: Generations whose cost is not the reserved amount while they are live, all settled ones after.
WRONG_COSTS = """
select coalesce(jsonb_agg(
  jsonb_build_object('id', g.id, 'cost', g.cost_usd, 'status', g.status)), '[]')
from generations g
where exists (
    select from picture_queue.ledger l where l.generation_id = g.id and l.price_unit is not null)
  and g.cost_usd is distinct from (
    select case when g.status in ('pending', 'processing') then max(l.amount_usd) filter (
        where l.phase = 'reserve' and l.round = (
          select max(o.round) from picture_queue.ledger o where o.generation_id = g.id))
      else coalesce(sum(l.amount_usd) filter (where l.phase = 'settle'), 0) end
    from picture_queue.ledger l
    where l.generation_id = g.id)
"""
