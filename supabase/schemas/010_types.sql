-- A requested change of state, other than a claim. _transition takes many of them at once.
create type picture_queue.change as (
  job_id uuid,
  action text,
  run_at timestamptz,      -- when a scheduled or parked job becomes claimable again
  result jsonb,            -- for complete: the result; for wake: the payload of the event
  error text,              -- shown to the owner, without internal details
  detail text,             -- internal, kept in picture_queue.history
  duration_seconds real,   -- as the worker measured it
  lease_id uuid,           -- the change requires that this lease is in force; null: no lease is required
  key text,                -- for block: the limit key the job waits for; for park: the event it waits for
  lease_expired boolean    -- the lease expired without a report: its id is cleared, so that a late report is stale
);

-- A job after a change of state. Only a few columns are passed, since passing whole rows is slower; the few callers
-- that need other columns read the row again.
create type picture_queue.changed_job as (
  id uuid,
  queue text,
  status text,
  hold text,
  lease_id uuid
);

-- A claim as a worker requests it; _claim sets has_limits and has_failed_starts.
create type picture_queue.claim as (
  worker text,
  queues text[],           -- null: every queue
  job_types text[],        -- null: every type
  max_jobs integer,
  lease_seconds real,      -- for jobs whose type and queue set no lease; null: the default of the project
  lease_id uuid,           -- also the id of the request: a repeated call has the same id
  weights real[],          -- the weights of the queues; null: all queues are claimed as one, in order of priority
  is_legacy boolean,       -- the claim is a call of claim_next_job, whose caller sends no heartbeats
  confirms_start boolean,  -- the worker confirms each start; a lease that expires before that costs no attempt
  has_limits boolean,      -- the project has limit rules or paused keys
  has_failed_starts boolean -- the start of some job has failed (failed_step)
);

-- The result of _apply_changes: the changed jobs, and which of the further steps of _transition they need.
create type picture_queue.applied as (
  changed_jobs picture_queue.changed_job[],
  sends_events boolean,    -- some jobs are in queues that send events
  has_long_history boolean, -- some jobs may have more than 50 rows of history
  has_generation boolean,  -- some jobs belong to a generation
  ended uuid[],            -- jobs that ran under limit keys and no longer do
  was_blocked uuid[],      -- jobs with blocked_on whose action was neither block nor unblock
  takes_turn boolean,      -- some jobs get a turn after the last job of their tenant
  due_at timestamptz,      -- when the first of the scheduled and parked jobs is due
  batches jsonb            -- for each change of a job in a batch: batch_id, from (old status), to (new status)
);

-- How an attempt ended, as a worker reports it.
create type picture_queue.outcome as (
  job_id uuid,
  lease_id uuid,
  outcome text,            -- completed, failed, snoozed, released, parked, cancelled
  result jsonb,
  error text,
  detail text,
  retryable boolean,
  delay_seconds real,      -- for failed, snoozed, parked: the time until the next attempt, instead of the backoff
  run_at timestamptz,      -- the time of the next attempt, as an alternative to delay_seconds
  duration_seconds real,
  event text,              -- for parked: the event that wakes the job
  pause_key text,          -- a limit key or queue to pause until the next attempt
  i bigint                 -- the position in the report, from 1
);

-- A job that may start, or has to be blocked.
create type picture_queue.candidate as (
  id uuid,
  keys text[],             -- for _admit: all limit keys of the job; returned by _admit: the limited keys, its slots
  blocked_on text          -- the key that is full or paused; null: the job may start
);

-- A job to be inserted: an item of an enqueue, with all defaults filled in.
create type picture_queue.new_job as (
  i integer,               -- the position in the call, from 1
  job_id uuid,
  job_type text,
  queue text,
  payload jsonb,
  priority integer,
  scheduled_for timestamptz,
  max_attempts integer,
  user_id uuid,
  generation_id uuid,
  idempotency_key text,
  timeout_seconds real,
  backoff jsonb,
  expires_at timestamptz,
  tags text[],
  metadata jsonb,
  limit_keys text[],
  batch_id uuid,
  depends_on uuid[],
  on_parent_failure text,
  unique_key text,
  unique_states text[],
  unique_until timestamptz,
  on_conflict text,        -- for its unique key: ignore, replace, debounce
  hold text,
  tenant text,
  rank integer,
  turn double precision
);

-- One message for Realtime.
create type picture_queue.event as (
  topic text,
  name text,
  payload jsonb
);

-- Builds a change from an action, and optionally a reason, a time or a key.
create function picture_queue._change(
  p_job_id uuid, p_action text, p_error text default null, p_run_at timestamptz default null, p_key text default null)
returns picture_queue.change
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select row(p_job_id, p_action, p_run_at, null, p_error, null, null, null, p_key, false)::picture_queue.change
$$;
