-- The budgets of users and of the project, their spending, and the ledger of all amounts.
--
-- start_generation reserves the expected cost (_reserve). When the generation ends, _settle settles the cost of the
-- stored pictures, and refunds the rest. Each reservation, settlement and refund is a row of the ledger, which is never
-- pruned.
--
-- The account of a user has the total cost of the day and of the month. The account of the project counts the charges
-- of the provider instead, also for predictions without a stored picture, so that its budget limits the actual
-- spending.
-- The start of a generation locks the account, so that no limit is exceeded. The end of a generation does not lock the
-- account: it appends a row to account_change. Maintenance, or the next start of a generation of the same user, adds
-- this row to the account.

create table picture_queue.budget (
  key text primary key,
  usd_per_day numeric,
  usd_per_month numeric,
  per_minute integer,
  per_hour integer,
  max_pending integer,
  needs_credits boolean,
  exempts_service boolean,
  constraint budget_key_is_known
    check (key ~ '^(project|user:([*]|[0-9a-f-]{36})|plan:[A-Za-z0-9][A-Za-z0-9_.-]{0,62})$'),
  constraint budget_is_in_range check (
    least(usd_per_day, usd_per_month, per_minute, per_hour, max_pending) >= 0
    and greatest(per_minute, per_hour, max_pending) <= 10000 and greatest(usd_per_day, usd_per_month) <= 1000000000
  ),
  constraint project_budget_has_amounts_only
    check (key <> 'project' or num_nonnulls(per_minute, per_hour, max_pending, needs_credits, exempts_service) = 0)
);
comment on table picture_queue.budget is
  'What the project (project), each user (user:*), each user of a plan (plan:<name>) or a user (user:<id>) may spend.';
comment on column picture_queue.budget.exempts_service is
  'Whether per_minute, per_hour and max_pending ignore the generations that a service key starts for the user.';
-- A default budget, so that no signed-in user can spend without a limit.
insert into picture_queue.budget (key, per_minute, per_hour, max_pending) values ('user:*', 20, 200, 50);

-- The account of the project exists while the project has a budget.
create table picture_queue.account (
  key text primary key,  -- user:<id>, or project
  plan text,
  credits_usd numeric not null default 0,
  pending integer not null default 0,  -- number of generations that count for max_pending
  day date not null,  -- the latest day (UTC) on which a generation was started
  day_usd numeric not null default 0,  -- the cost of the generations that were started on this day
  month_usd numeric not null default 0,  -- the cost of the generations that were started in the month of this day
  constraint account_plan_is_plain check (plan ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$')
) with (fillfactor = 50);
comment on table picture_queue.account is 'The plan, the credits and the spending of each user, and of the project.';

create table picture_queue.account_change (
  key text not null,
  -- The refund. For the project: the reservation minus the charge of the provider, which may be negative.
  usd numeric not null,
  credits_usd numeric not null,  -- the amount that returns to the credits
  pending integer not null,  -- the number of ended generations to subtract from account.pending
  reserved_on date not null,  -- the day (UTC) on which the generations were started
  at timestamptz not null
);
comment on table picture_queue.account_change is 'Refunds of ended generations that are not added to an account yet.';
create index account_change_key on picture_queue.account_change (key);

create table picture_queue.ledger (
  id bigint generated always as identity primary key,
  phase text not null,
  generation_id uuid,  -- no foreign key: the ledger outlives generations
  round integer,  -- 1, and one more for each retry of a failed or cancelled generation
  user_id uuid,
  model_id text,
  amount_usd numeric not null,  -- negative if a grant takes credits back
  price_usd numeric,  -- the price of a picture or of a second, by price_unit
  price_unit text,
  from_credits boolean not null default false,
  counted boolean not null default false,  -- whether per_minute, per_hour and max_pending count the generation
  is_retry boolean not null default false,  -- whether the round retries an ended generation; rates do not count retries
  idempotency_key text unique,
  note text,
  at timestamptz not null,
  -- The charge of the provider for the predictions of the round; null except in the row that ends the round.
  provider_usd numeric,
  unique (generation_id, round, phase),
  constraint ledger_phase_is_known check (phase in ('reserve', 'settle', 'refund', 'grant')),
  constraint ledger_unit_is_known check (price_unit in ('image', 'second')),
  constraint ledger_amount_is_not_negative check (amount_usd >= 0 or phase = 'grant'),
  constraint ledger_row_has_subject check (
    case when phase = 'grant' then user_id is not null else num_nulls(generation_id, round) = 0 end
  )
);
comment on table picture_queue.ledger is
  'Grants of credits, and for each round of a generation at most one reservation, settlement and refund.';
create index ledger_owned on picture_queue.ledger (user_id, id);
create index ledger_started on picture_queue.ledger (user_id, at) where phase = 'reserve' and counted and not is_retry;
