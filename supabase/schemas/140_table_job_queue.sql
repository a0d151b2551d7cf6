-- The jobs. lease_id stays on the row after a report has ended the lease, so that a repeated report is recognised;
-- lease_expires_at shows whether a lease is in force. The table has no check constraints: Postgres parses each
-- constraint again in every statement that writes a row, which would take as long as the rest of an enqueue. Instead,
-- the table picture_queue.state_transition, the input checks and _transition keep invalid rows out, and queue_doctor()
-- reports invalid rows.
create table public.job_queue (
  id uuid primary key default gen_random_uuid(),
  seq bigint generated always as identity,
  queue text not null default 'default',
  job_type text not null,
  payload jsonb not null default '{}',
  priority integer not null default 0,
  status text not null default 'pending',
  -- Why a job cannot be claimed: scheduled, blocked, waiting (status pending), or parked (status processing).
  hold text,
  attempt integer not null default 0,
  max_attempts integer not null default 3,
  timeout_seconds real,
  backoff jsonb,
  scheduled_for timestamptz,
  expires_at timestamptz,
  tags text[],
  metadata jsonb not null default '{}',
  -- Jobs of a queue are claimed in the order of rank, turn, seq. rank is the negated priority. turn is the time, in
  -- epoch seconds, at which the job first became due; aging subtracts from it, and fair share replaces it.
  rank integer not null default 0,
  turn double precision not null default 0,
  tenant text,
  limit_keys text[],
  -- The limit keys under which the job occupies a slot, from its claim until its end.
  slots text[],
  -- The limit key that blocked the job last. Only the next start clears it, not an unblock, a delay, an end or a retry.
  blocked_on text,
  parked_on text,
  -- The time at which the job parked last. An event wakes only jobs that parked before it was sent.
  parked_at timestamptz,
  event jsonb,  -- the payload of the external event that woke the job
  unique_key text,
  unique_states text[],
  unique_until timestamptz,
  batch_id uuid,
  user_id uuid,
  generation_id uuid,
  idempotency_key text,
  progress smallint not null default 0,
  progress_event_at timestamptz,
  message text,
  result jsonb,
  error text,
  version bigint not null default 1,
  lease_id uuid,
  -- null: there is no lease. A past time: the lease has expired, but a report is accepted until the sweep.
  lease_expires_at timestamptz,
  lease_seconds real,
  -- True: claim_next_job granted the lease.
  lease_is_legacy boolean not null default false,
  -- The number of consecutive claims whose start no worker has confirmed. 0: the start is confirmed, or needs none.
  unconfirmed_claims smallint not null default 0,
  worker text,
  cancel_requested_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz
) with (
  -- Free space in each page, so that updates by heartbeats and progress can be HOT; and frequent vacuums, because most
  -- rows are updated several times.
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.05
);
comment on table public.job_queue is 'The jobs: written by functions only, read by their owners.';

-- The claimable jobs, in the order of claims. All entries of this index and of job_queue_listed differ, so
-- deduplication is off: on a full page, Postgres would search for equal entries and find none, which costs half a
-- microsecond per new job.
create index job_queue_claimable on public.job_queue (queue, rank, turn, seq, job_type) with (deduplicate_items = off)
  where status = 'pending' and hold is null;
-- Scheduled and parked jobs by the time at which they become claimable.
create index job_queue_due on public.job_queue (scheduled_for) where hold in ('scheduled', 'parked');
-- Leases in force: for repeated claims, and for the sweep of expired leases, which reads the whole index.
create index job_queue_leased on public.job_queue (lease_id)
  where status = 'processing' and hold is null;
-- Finds the last turn of a tenant in queues with fair_share.
create index job_queue_tenant on public.job_queue (queue, tenant, rank, turn)
  where status = 'pending' and hold is null and tenant is not null;
-- Blocked jobs of a limit key in the order of claims, and unblocked jobs that are not claimed yet.
create index job_queue_blocked on public.job_queue (blocked_on, hold, queue, job_type, rank, turn, seq)
  where status = 'pending' and blocked_on is not null;
create index job_queue_parked on public.job_queue (parked_on, parked_at) where hold = 'parked';
create index job_queue_expiring on public.job_queue (expires_at)
  where status = 'pending' and expires_at is not null;
-- Finished jobs by age: for lists of failed jobs, and for pruning.
create index job_queue_finished on public.job_queue (status, finished_at) where finished_at is not null;
-- The jobs of a queue in one state by age: for lists, purges, and changes by filter. Running jobs are not in this
-- index, so that a claim writes no entry to it; job_queue_leased and job_queue_parked have these few jobs. seq is
-- ascending, because Postgres fills pages completely only in an index that grows at its end.
create index job_queue_listed on public.job_queue (queue, status, seq) with (deduplicate_items = off)
  where status <> 'processing';
create index job_queue_owned on public.job_queue (user_id, seq desc) where user_id is not null;
create index job_queue_batch on public.job_queue (batch_id, seq) where batch_id is not null;
create unique index job_queue_idempotency on public.job_queue (idempotency_key, job_type, user_id)
  nulls not distinct where idempotency_key is not null;
create unique index job_queue_unique on public.job_queue (unique_key) where status = any(unique_states);

-- No statistics are kept for columns that name the owner of a job or hold the owner's text. PostgREST makes an
-- estimated count (count=planned) from statistics, regardless of row level security: a user could learn from the
-- estimate whether a guessed value exists, and find the id of a job by bisection (id=lt.). Queries search these columns
-- by a separate index or not at all. Array columns are included, since Postgres also keeps statistics of elements.
alter table public.job_queue
  alter id set statistics 0, alter tags set statistics 0, alter limit_keys set statistics 0,
  alter slots set statistics 0,
  alter user_id set statistics 0, alter tenant set statistics 0, alter generation_id set statistics 0,
  alter batch_id set statistics 0, alter idempotency_key set statistics 0, alter unique_key set statistics 0,
  alter parked_on set statistics 0, alter blocked_on set statistics 0, alter message set statistics 0,
  alter error set statistics 0;
