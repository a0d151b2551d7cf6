-- Find names and operators in pg_catalog only. Otherwise checks and policies could use an operator
-- that another user has created in another schema, and would run it with the rights of the owner.
-- The last statement restores the search_path.
select
  pg_catalog.set_config(
    'picture_queue.search_path', pg_catalog.current_setting('search_path'), false),
  pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);


-- 000_schema.sql

-- picture-queue: a job queue inside your own Postgres.
--
-- Nouns. A *job* has a type and a payload and belongs to a *queue*. A *worker* claims jobs; each claim is an *attempt*
-- and grants a *lease*, which heartbeats extend. A *generation* is a request for pictures; it has one job, and its
-- *images* come from *predictions* at a provider.
--
-- The path of a job. enqueue_job writes a row through _enqueue, which sends an event and wakes idle workers.
-- claim_jobs picks rows and leases them. The worker calls report_progress and heartbeat_jobs while the job runs, and
-- report_jobs when the job has ended. _transition makes each change of state that a row of
-- picture_queue.state_transition permits, and _emit sends the event of the change. Work for other jobs that follows
-- from a change (children, batches, limits) is recorded as follow-ups. One worker calls maintain_jobs in a loop. It
-- processes the follow-ups, jobs that are due, expired leases and schedules.
--
-- The path of a picture. start_generation checks the input against picture_queue.model and enqueues a job of type
-- generate-image. The worker calls begin_prediction, record_prediction, save_images and finish_prediction, each under
-- its lease. While the prediction runs, the job may be parked, and receive_prediction applies a webhook of the
-- provider. _transition copies the state of the job to generations.
--
-- Schemas and names. The schema public has the functions, tables and views for users. The schema picture_queue has the
-- rest, and the API does not expose it. The name of a function that only our own functions call begins with an
-- underscore. Parameters of public functions have no prefix, those of private functions have p_, variables have v_.
--
-- Idioms. Sessions cache plans. A plan may be made while a table is empty, and be used when the table is full. With
-- the following forms such a plan still uses the right index:
-- - `set seq_page_cost = 100` on functions that are called often: the plan uses an index even while the table is
--   empty;
-- - `where id = any (array)` in addition to a join or instead of a join: the plan finds the rows by their primary key;
-- - `offset 0` in a subselect: the planner does not merge the subselect into the outer query, and evaluates it once;
-- - `(select true from … limit 1)` instead of exists: the plan searches an index for each row, and never makes a join;
-- - `= any (array(select … for update skip locked))`: the statement changes only rows that no other transaction has
--   locked, and does not wait for the others.
--
-- Advisory locks. Each lock has two numbers. The first number says what the second number stands for, in most cases as
-- a hash: 1903326068 a limit key, 1903326070 an external event, 1903326071 pruning, 1903326072 a lease, 1903326073 a
-- worker, 1903326074 the uploads of a user.
do $$
begin
  if to_regnamespace('picture_queue') is not null then
    raise exception 'picture-queue is in this database already'
      using hint = 'Upgrade it with the tool that `picture-queue doctor` names, such as `picture-queue migrate`.';
  elsif to_regclass('public.job_queue') is not null then
    raise exception 'public.job_queue exists already, and does not belong to picture-queue'
      using hint = '`picture-queue adopt --preview` shows how its jobs would be copied.';
  end if;
end
$$;

create schema picture_queue;
comment on schema picture_queue is 'The private objects of picture-queue: settings, policies, functions.';


-- 010_types.sql

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


-- 020_function__now.sql

-- Returns the current time. All functions call _now instead of now(), and tests replace it to set the time. It is
-- stable, so that its result can be searched in an index. A function with a set search_path cannot be inlined; a call
-- of PL/pgSQL that is not inlined takes a third of the time of a call of SQL.
create function picture_queue._now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$ begin return clock_timestamp(); end $$;


-- 030_function__raise_error.sql

-- Returns the first 20 of these values, each up to 100 characters, and the number of the others: users cause errors
-- that list the values which an operator or a provider has chosen.
create function picture_queue._list_values(p_values text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce((
    select string_agg(left(v.value, 100), ', ' order by v.i) from unnest(p_values[:20]) with ordinality as v (value, i)), '')
    || case when cardinality(p_values) > 20 then format(' and %s others', cardinality(p_values) - 20) else '' end;
end
$$;

-- Raises the error with this code. Each code has a fixed message, since PostgREST copies the message into the HTTP
-- reason phrase. DETAIL has the field and the value, HINT the fix (null: the default hint of the code). Both are cut at
-- 4,000 characters.
create function picture_queue._raise_error(p_code text, p_detail text default null, p_hint text default null)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_status text;
  v_message text;
  v_hint text;
begin
  select e.status, e.message, e.hint into v_status, v_message, v_hint
  from (values
    ('PQ_INVALID_ARGUMENT',   '400', 'an argument is invalid', 'docs/sql.md describes each argument'),
    ('PQ_INVALID_CRON',       '400', 'invalid cron expression or time zone', 'examples: 30 9 * * mon-fri, and Europe/Berlin'),
    ('PQ_NOT_AUTHENTICATED',  '401', 'sign in first', 'send the token of a user, or a service key'),
    ('PQ_NOT_ALLOWED',        '403', 'this caller has no permission', 'use a service key'),
    ('PQ_UNKNOWN_JOB',        '404', 'no such job', 'the id is wrong, the job was pruned, or it belongs to another user'),
    ('PQ_UNKNOWN_GENERATION', '404', 'no such generation', 'list_generations() shows the existing generations'),
    ('PQ_UNKNOWN_MODEL',      '404', 'no such model', 'list_models() shows the models of this project'),
    ('PQ_UNKNOWN_QUEUE',      '404', 'no such queue', 'list_queues() shows the existing queues'),
    ('PQ_UNKNOWN_DEPENDENCY', '404', 'no such job to depend on', 'enqueue that job first'),
    ('PQ_UNKNOWN_SCHEDULE',   '404', 'no such schedule', 'list_schedules() shows the existing schedules'),
    ('PQ_UNKNOWN_BATCH',      '404', 'no such batch', 'enqueue_batch() returns the id of a batch'),
    ('PQ_UNKNOWN_LIMIT',      '404', 'no such limit', 'list_limits() shows the existing limits'),
    ('PQ_UNKNOWN_RULE',       '404', 'no such rule', 'list_input_rules() shows the existing rules'),
    ('PQ_UNKNOWN_BUDGET',     '404', 'no such budget', 'list_budgets() shows the existing budgets'),
    ('PQ_STALE_LEASE',        '409', 'the lease ended', 'stop this attempt; another worker may run the job'),
    ('PQ_FINISHED_JOB',       '409', 'the job has finished', 'get_job() shows its state'),
    ('PQ_RUNNING_JOB',        '409', 'the job has not finished', 'wait until it has finished, or cancel it'),
    ('PQ_QUEUE_DRAINING',     '409', 'the queue accepts no new jobs', 'resume_queue() ends the draining'),
    ('PQ_CONFLICT',           '409', 'the call conflicts with existing data', 'read the existing data, then change the call'),
    ('PQ_TOO_LARGE',          '413', 'too large', 'store the data elsewhere, and pass its path'),
    ('PQ_INVALID_INPUT',      '422', 'the input does not fit the model', 'list_models() shows the inputs of each model'),
    ('PQ_CYCLE',              '422', 'the dependencies form a cycle', 'remove one of the dependencies'),
    ('PQ_RATE_LIMITED',       '429', 'too many generations', 'wait, then repeat the call'),
    ('PQ_OVER_BUDGET',        '429', 'the budget is used up', 'wait for the next period, or ask the operator'),
    ('PQ_NO_CREDIT',          '429', 'not enough credits', 'grant_credits() adds credits'),
    ('PQ_BUSY',               '429', 'the database is busy, repeat the call', 'repeat the call')
  ) as e (code, status, message, hint)
  where e.code = p_code;
  raise exception using
    errcode = 'PT' || v_status,
    message = p_code || ': ' || v_message,
    -- format() writes a null value as an empty text.
    detail = coalesce(left(regexp_replace(p_detail, ' is $', ' is null'), 4000), ''),
    hint = left(coalesce(p_hint, v_hint), 4000);
end
$$;

-- Raises PQ_TOO_LARGE for a problem of size (its text ends with the limit in bytes), PQ_INVALID_ARGUMENT for any other
-- problem. Does nothing if the problem is null.
create function picture_queue._raise_problem(p_problem text, p_hint text default
  'names consist of letters, digits and _ . - (job types also :); payload and metadata are JSON objects; '
  'durations are in seconds, times are ISO 8601 from 1970 to 9998')
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_problem ~ ' bytes, the limit is [0-9]+$' then
    perform picture_queue._raise_error('PQ_TOO_LARGE', p_problem,
      'store the data elsewhere, in Supabase Storage for example, and pass its path');
  elsif p_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', p_problem, p_hint);
  end if;
end
$$;

-- Raises PQ_BUSY because another transaction holds a lock that the caller needs. Every function of the API that reads
-- or changes a table has the clause `set lock_timeout = '2s'`, which holds until the function returns, and an
-- exception handler that calls _raise_busy. Such a function has no parameter or variable of a table's row type,
-- because Postgres would lock that table before the handler can catch the error.
create function picture_queue._raise_busy(p_detail text default null) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._raise_error('PQ_BUSY', coalesce(p_detail, 'another transaction holds a row or table that this call needs'),
    'repeat the call; queue_doctor() names transactions that stay open');
  return null;
end
$$;

-- Raises one of our errors in place of another error; exception handlers `when others` call it. The function returns,
-- and the handler raises the error again, if the error is one of ours, or the error of a read-only transaction
-- (25006), for which PostgREST answers a GET with 405. A transient error becomes PQ_BUSY, any other PQ_CONFLICT: a
-- trigger of the project on public.job_queue, public.generations or public.images may raise any error.
create function picture_queue._translate_error(p_sqlstate text, p_message text, p_busy_detail text default null)
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_sqlstate like 'PT%' or p_sqlstate = '25006' then
    return;
  elsif picture_queue._is_transient(p_sqlstate) then
    -- In repeatable read and serializable, a repeated call in the same transaction fails again. So name the isolation
    -- level instead of PQ_BUSY.
    perform picture_queue._check_isolation() where p_sqlstate = '40001';
    perform picture_queue._raise_busy(p_busy_detail);
  end if;
  perform picture_queue._raise_error('PQ_CONFLICT', format('the change was refused with SQLSTATE %s: %s', p_sqlstate, p_message),
    'check your own triggers and constraints on public.job_queue, public.generations and public.images');
end
$$;

-- Refuses repeatable read and serializable: with their fixed snapshot a limit could be exceeded, or a job leased
-- twice.
create function picture_queue._check_isolation() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('the transaction isolation level is %s', current_setting('transaction_isolation')),
      'use read committed: alter role … set default_transaction_isolation = ''read committed''');
  end if;
end
$$;

-- Returns the value; raises the error with this code if the value is null. Users may execute this function, since it
-- reads no table.
create function picture_queue._require(p_value jsonb, p_code text, p_detail text, p_hint text default null)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_value is null then
    perform picture_queue._raise_error(p_code, p_detail, p_hint);
  end if;
  return p_value;
end
$$;

-- Returns whether the value is a list of objects, which jsonb_to_recordset requires. PL/pgSQL is ten times as fast
-- here as SQL, which Postgres would plan at each call.
create function picture_queue._is_object_list(p_value jsonb) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(jsonb_typeof(p_value) = 'array', false)
    and not jsonb_path_exists(p_value, 'strict $[*] ? (@.type() != "object")');
end
$$;


-- 040_function__caller.sql

-- Returns whether the caller acts for the project rather than for one of its users: with a service key, or over a
-- direct connection without a token and with the rights of service_role or of the owner of the tables. It reads the
-- token and the role of the session, but not current_user, which in a security definer function is the owner.
create function picture_queue._is_service() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_token jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
  v_role text := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
  return coalesce(v_token ->> 'role' = 'service_role',
    pg_has_role(v_role, 'service_role', 'usage') or pg_has_role(v_role, n.nspowner, 'usage'))
  from pg_catalog.pg_namespace n where n.oid = 'picture_queue'::regnamespace;
end
$$;

-- Returns the user that the caller's token names; null for a service key, and for a token of another issuer whose sub
-- is no uuid.
create function picture_queue._caller_id() returns uuid
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when t.sub ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then t.sub::uuid end
  from (select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub' as sub) t
$$;


-- 100_table_setting.sql

create table picture_queue.setting (
  only_row boolean primary key default true constraint setting_has_one_row check (only_row),
  max_payload_bytes integer not null default 65536,  -- 64 KiB
  max_result_bytes integer not null default 1048576,  -- 1 MiB
  max_prompt_length integer not null default 4000,
  max_user_uploads integer not null default 100,
  max_attempts integer not null default 3,
  timeout_seconds real not null default 600,
  timeout_grace_seconds real not null default 30,
  cancel_grace_seconds real not null default 30,
  lease_seconds real not null default 30,
  backoff_policy text not null default 'exponential',
  backoff_seconds real not null default 5,
  backoff_cap_seconds real not null default 3600,
  backoff_jitter real not null default 0.2,
  unknown_queue text not null default 'create',
  keep_completed_seconds real not null default 604800,  -- 7 days
  keep_cancelled_seconds real not null default 604800,  -- 7 days
  keep_failed_seconds real not null default 2592000,  -- 30 days
  archive boolean not null default false,
  keep_archive_months integer not null default 12,
  keep_generations_days integer,
  default_model text not null default 'black-forest-labs/flux-schnell',
  strip_metadata boolean not null default true,
  -- The price of a second of the hardware (A100 80 GB). It estimates the cost of models that have no price per picture.
  estimate_usd_per_second numeric not null default 0.0014,
  constraint setting_is_in_range check (
    estimate_usd_per_second between 0 and 1
    and least(max_payload_bytes, max_result_bytes, max_prompt_length, max_attempts, keep_archive_months) > 0
    and max_user_uploads >= 0
    and least(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000  -- a year
    and least(timeout_grace_seconds, cancel_grace_seconds) >= 0
    and greatest(timeout_grace_seconds, cancel_grace_seconds) <= 86400  -- a day
    and least(keep_completed_seconds, keep_cancelled_seconds, keep_failed_seconds) >= 60
    and greatest(keep_completed_seconds, keep_cancelled_seconds, keep_failed_seconds) <= 3153600000  -- 100 years
    and backoff_jitter between 0 and 1
    and keep_generations_days between 1 and 36500
  ),
  constraint setting_backoff_policy_is_known check (backoff_policy in ('constant', 'linear', 'exponential')),
  constraint setting_unknown_queue_is_known check (unknown_queue in ('create', 'refuse'))
);
comment on table picture_queue.setting is 'Defaults and limits of the whole project, in one row.';
comment on column picture_queue.setting.unknown_queue is
  'Whether an enqueue to an unknown queue creates the queue (create) or is refused (refuse).';
comment on column picture_queue.setting.keep_generations_days is
  'After how many days finished generations are deleted with their pictures; null: never.';
comment on column picture_queue.setting.strip_metadata is
  'Whether workers remove EXIF, comments and other metadata from the pictures that they store.';
insert into picture_queue.setting default values;


-- 105_table_migration.sql

-- If the Supabase CLI applies the migrations, it lists them in supabase_migrations.schema_migrations, and this table is
-- empty.
create table picture_queue.migration (
  name text primary key,
  digest text not null,
  applied_at timestamptz not null default now()
);
comment on table picture_queue.migration is
  'The migrations that `picture-queue migrate` applied, by the names of their files.';


-- 110_table_queue.sql

create table picture_queue.queue (
  name text primary key,
  events text not null default 'progress',
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_policy text,
  backoff_seconds real,
  backoff_cap_seconds real,
  backoff_jitter real,
  fair_share boolean not null default false,
  aging_seconds real,
  breaker_failures integer,
  breaker_seconds real not null default 60,
  paused_until timestamptz,
  pause_reason text,
  draining boolean not null default false,
  -- Maintenance reorders the jobs after a change of fair_share or aging_seconds. Jobs up to this seq have their new
  -- rank and turn; null: all jobs have them.
  reorder_after bigint,
  -- When to reorder all jobs once more, since transactions that were open at the change may have enqueued some in the
  -- old order.
  reorder_again_at timestamptz,
  created_at timestamptz not null default now(),
  constraint queue_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
  constraint queue_events_is_known check (events in ('none', 'status', 'progress')),
  constraint queue_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds, aging_seconds,
      breaker_failures, breaker_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds, aging_seconds,
      breaker_seconds) <= 31536000  -- a year
    and backoff_jitter between 0 and 1
  ),
  constraint queue_backoff_policy_is_known check (backoff_policy in ('constant', 'linear', 'exponential')),
  constraint queue_has_fair_share_or_aging check (not (fair_share and aging_seconds is not null))
);
comment on table picture_queue.queue is 'The queues and their policies; null: the default in setting applies.';
comment on column picture_queue.queue.events is
  'Which events are sent: none, status (changes of status), or progress (changes of status and of progress).';
comment on column picture_queue.queue.fair_share is 'Whether tenants take turns within a priority.';
comment on column picture_queue.queue.aging_seconds is
  'The seconds of waiting that raise the priority by one; null: waiting does not raise it.';
comment on column picture_queue.queue.breaker_failures is
  'The number of failures in a row for one reason after which the queue is paused for breaker_seconds; null: never.';
comment on column picture_queue.queue.paused_until is
  'No job is claimed until this time; infinity: until the queue is resumed.';
comment on column picture_queue.queue.draining is 'Whether new jobs are refused; the jobs of the queue are still run.';
insert into picture_queue.queue (name) values ('default');

create table picture_queue.breaker (
  queue text primary key references picture_queue.queue (name) on delete cascade,
  reason text not null,
  failures integer not null
);
comment on table picture_queue.breaker is 'Failures in a row for one reason, of queues with breaker_failures.';


-- 120_table_job_type.sql

create table picture_queue.job_type (
  name text primary key,
  queue text,
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_policy text,
  backoff_seconds real,
  backoff_cap_seconds real,
  backoff_jitter real,
  capabilities jsonb,  -- for job types of generations: what the provider supports; null: unknown
  constraint job_type_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'),
  constraint job_type_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000  -- a year
    and backoff_jitter between 0 and 1
  ),
  constraint job_type_backoff_policy_is_known check (backoff_policy in ('constant', 'linear', 'exponential'))
);
comment on table picture_queue.job_type is
  'The policies of job types, registered by workers; null: the policy of the queue or the default in setting applies.';


-- 130_table_worker.sql

create table picture_queue.worker (
  name text primary key,
  queues text[] not null,
  job_types text[] not null,
  idle boolean not null default false,
  seen_at timestamptz not null default now(),
  -- The position in each queue ([rank, turn, seq]) at which claims of the worker begin to scan the index, until
  -- positions_until. They skip the entries before it, which are dead or belong to jobs that the worker cannot claim.
  start_positions jsonb,
  positions_until timestamptz not null default '-infinity'
);
comment on table picture_queue.worker is 'Workers, their queues and job types, and when they called last.';
-- A claim looks up its worker; an enqueue looks up an idle worker with a recent heartbeat. Both scans begin at the
-- newest version of the row. So they do not read the dead versions that vacuum cannot remove while an old snapshot
-- exists.
create index worker_newest on picture_queue.worker (name, seen_at desc);
create index worker_idle on picture_queue.worker (seen_at) where idle;


-- 140_table_job_queue.sql

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


-- 141_table_follow_up.sql

-- Work for other jobs that follows from a change of a job. The rows are written in the transaction of the change. The
-- same transaction processes the first few, maintenance the rest, in bounded steps. If a step fails, the others still
-- run.
create table picture_queue.follow_up (
  id bigint generated always as identity primary key,
  kind text not null,
  subject uuid not null,  -- the id of the parent, child, batch or generation
  -- For a batch: by how much its counts change. For a child: a transaction that finished a parent before the child was
  -- committed did not see the child. So maintenance checks the child until all transactions with ids below "before"
  -- have ended; "checks" counts the checks.
  data jsonb,
  due_at timestamptz not null default '-infinity',
  constraint follow_up_kind_is_known check (kind in ('parent', 'child', 'batch', 'settlement'))
);
comment on table picture_queue.follow_up is
  'Work that follows from changes of jobs: children of a parent, a new child, counts of a batch, a settlement.';
create index follow_up_subject on picture_queue.follow_up (subject);
create index follow_up_due on picture_queue.follow_up (due_at, id);

-- Steps that failed for one subject, such as a job. The step skips the subject until retry_at and processes the others;
-- a report is retried when the worker repeats it. A success deletes the row, except for the kinds claim and report,
-- whose rows are pruned.
create table picture_queue.failed_step (
  kind text not null,
  subject text not null,
  failures integer not null default 1,
  last_error text not null,
  first_at timestamptz not null,
  retry_at timestamptz not null,
  primary key (kind, subject)
);
comment on table picture_queue.failed_step is
  'Steps of maintenance, claims and reports that failed for one subject, to be tried again; queue_doctor() shows them.';
create index failed_step_retry on picture_queue.failed_step (retry_at);

create table picture_queue.lease_extension (
  -- No foreign key: its check would wait for the lock on the row of the job.
  job_id uuid primary key,
  lease_id uuid not null,
  lease_expires_at timestamptz not null
);
comment on table picture_queue.lease_extension is
  'Leases that a heartbeat extended here, because another transaction had locked the row of the job.';

create table picture_queue.maintenance (
  only_row boolean primary key default true constraint maintenance_has_one_row check (only_row),
  worker text,
  leased_until timestamptz not null default '-infinity',
  round_began_at timestamptz not null default '-infinity',
  -- When the next round is to begin. Work that becomes due earlier wakes the worker that holds the lease.
  next_round_at timestamptz not null default '-infinity',
  sweep_at timestamptz not null default '-infinity',  -- when to search for expired leases
  aggregate_at timestamptz not null default '-infinity',  -- when to add depth_change to depth, the counts of jobs
  prune_at timestamptz not null default '-infinity',  -- when to delete old rows
  -- Whether the latest round aggregated and pruned; if so, the next round does not.
  was_housekeeping boolean not null default false,
  step_size integer not null default 100,  -- subjects of a step: more after quick rounds, fewer after slow rounds
  worker_call_id bigint  -- the last request of call_worker() to pg_net
);
comment on table picture_queue.maintenance is
  'The worker that does the maintenance of the project, until when, and the times of its next steps.';
insert into picture_queue.maintenance default values;


-- 142_table_dependency_batch.sql

create table picture_queue.dependency (
  child_id uuid not null references public.job_queue (id) on delete cascade,
  parent_id uuid not null,
  on_parent_failure text not null default 'cancel',
  primary key (child_id, parent_id),
  constraint on_parent_failure_is_known check (on_parent_failure in ('cancel', 'fail', 'run'))
);
comment on table picture_queue.dependency is 'The unfinished jobs that waiting jobs depend on.';
create index dependency_parent on picture_queue.dependency (parent_id);

create table picture_queue.failed_dependency (
  child_id uuid not null references public.job_queue (id) on delete cascade,
  parent_id uuid not null,
  on_parent_failure text not null,
  primary key (child_id, parent_id)
);
comment on table picture_queue.failed_dependency is
  'Dependencies on parents that failed or were cancelled. A retry of the child makes it wait for them again.';

create table picture_queue.batch (
  id uuid primary key,
  user_id uuid,  -- the owner of a batch of generations; null: the project
  total integer not null default 0,
  completed integer not null default 0,
  failed integer not null default 0,
  cancelled integer not null default 0,
  callback jsonb,
  callback_job_id uuid,
  callback_error text,  -- why the callback could not be enqueued
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint batch_counts_fit check (
    least(total, completed, failed, cancelled) >= 0 and completed + failed + cancelled <= total)
);
comment on table picture_queue.batch is
  'Batches of jobs, the counts of their finished jobs, and the callback to enqueue when all have finished. Chains and '
  'batches of generations are batches of their jobs.';
create index batch_finished on picture_queue.batch (finished_at) where finished_at is not null;
-- Finished batches whose callback has not been enqueued yet.
create index batch_callback on picture_queue.batch (finished_at)
  where finished_at is not null and callback is not null and callback_job_id is null and callback_error is null;


-- 144_table_limit.sql

-- Limits. A job runs under the keys 'global', 'queue:<name>', 'type:<job type>', 'user:<id>' and the keys that its
-- enqueue names, such as 'model:flux'. A rule applies to one key, or to each key of a kind ('user:*'). The rule of a
-- key takes precedence over the rule of its kind.
create table picture_queue.limit_rule (
  key text primary key,
  max_running integer,
  rate integer,
  period_seconds real,
  created_at timestamptz not null default now(),
  -- Whether the jobs that were running when the rule was set have been counted. Until then no job of these keys starts.
  counted boolean not null default false,
  -- When to count the running jobs again. A claim that began before the rule was set does not see the rule, so it may
  -- start jobs without counting them.
  count_at timestamptz,
  constraint limit_key_is_plain check (key ~ '^[^[:cntrl:]]{1,200}$'),
  constraint limit_is_positive check (least(max_running, rate, period_seconds) > 0),
  constraint limit_has_maximum_or_rate check (max_running is not null or rate is not null),
  constraint rate_has_a_period check ((rate is null) = (period_seconds is null))
);
comment on table picture_queue.limit_rule is
  'How many jobs of a key may run at once (max_running), or start within any period_seconds (rate).';

-- A transaction that changes a row of limit_key, or reads it to decide which jobs may start, holds the advisory lock
-- of the key (_lock_keys). Because of this lock no key gets two rows, so the table needs no unique index. Each change
-- increases the column version. So the index returns the current tuple of a key first, even while an old snapshot
-- keeps vacuum from removing dead tuples.
create table picture_queue.limit_key (
  key text not null,
  running integer not null default 0,
  paused_until timestamptz,
  pause_reason text,  -- from the handler that paused the key; null if an operator paused it
  version bigint not null default 0
);
comment on table picture_queue.limit_key is 'The number of running jobs of each limited key, and the end of its pause.';
create index limit_key_newest on picture_queue.limit_key (key, version desc);
create index limit_key_paused on picture_queue.limit_key (paused_until) where paused_until is not null;

create table picture_queue.start (
  key text not null,
  at timestamptz not null
);
comment on table picture_queue.start is 'The latest job starts of each key that has a rate.';
create index start_key on picture_queue.start (key, at);

-- A row with n > 0 says that n jobs of this key ended. A row with n = 0 says that the pause or the period of the key
-- ends at this time, so that jobs that wait for the key may start. Rows are only appended, so that a transaction that
-- ends a job does not wait for the lock of the key. _unblock_keys deletes the rows, subtracts n from
-- limit_key.running, and unblocks jobs.
create table picture_queue.freed_key (
  key text not null,
  n integer not null default 1,
  at timestamptz not null default picture_queue._now()
);
comment on table picture_queue.freed_key is
  'When to unblock jobs of limit keys: jobs of the key have ended, or its pause or period ends.';
-- Claims read only recent rows by this index. So they do not read old entries that vacuum cannot remove while an old
-- snapshot exists.
create index freed_key_at on picture_queue.freed_key (at);
create index freed_key_key on picture_queue.freed_key (key, at);

create table picture_queue.tenant (
  name text primary key,
  weight real not null,
  constraint tenant_weight_is_in_range check (weight between 0.001 and 1000)
);
comment on table picture_queue.tenant is 'The weights of tenants in queues with fair_share; 1 without a row.';


-- 146_table_schedule.sql

-- Schedules of recurring jobs: by a cron expression in a time zone, or at an interval counted from created_at. The
-- column job is an item of enqueue_jobs without the fields that only one job can have, such as job_id.
create table picture_queue.schedule (
  name text primary key,
  cron text,
  every_seconds double precision,
  timezone text not null default 'UTC',
  job jsonb not null,
  missed text not null default 'once',
  paused boolean not null default false,
  next_at timestamptz,
  last_at timestamptz,
  last_job_id uuid,
  last_error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint schedule_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'),
  constraint schedule_has_cron_or_interval check ((cron is null) <> (every_seconds is null)),
  constraint schedule_interval_is_in_range check (every_seconds between 1 and 31536000),
  constraint schedule_missed_is_known check (missed in ('skip', 'once', 'all')),
  constraint schedule_job_is_object check (jsonb_typeof(job) = 'object'),
  constraint schedule_has_next_unless_paused check ((next_at is null) = paused)
);
comment on table picture_queue.schedule is 'Schedules of recurring jobs, by cron or at an interval.';
comment on column picture_queue.schedule.missed is
  'Which missed ticks enqueue a job: skip (only the latest, if under two minutes late), once (only the latest), all.';
comment on column picture_queue.schedule.last_at is 'The latest tick that enqueued a job; last_job_id is that job.';
comment on column picture_queue.schedule.last_error is 'Why the latest tick enqueued no job; null if it did.';
create index schedule_due on picture_queue.schedule (next_at) where not paused;


-- 147_table_log_event_answer.sql

create table picture_queue.log (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.job_queue (id) on delete cascade,
  attempt integer not null,
  at timestamptz not null,
  level text not null,
  message text not null,
  constraint level_is_known check (level in ('debug', 'info', 'warning', 'error'))
);
comment on table picture_queue.log is 'Log lines of jobs, the last 200 of each job.';
create index log_job on picture_queue.log (job_id, id);

create table picture_queue.external_event (
  name text primary key,
  payload jsonb,
  -- The time at which the event was sent. If no job was parked on the event then, it becomes the time at which
  -- maintenance or a report first finds parked jobs. The event wakes only jobs that parked before this time.
  sent_at timestamptz not null,
  -- When to search again for jobs parked on the event; null: no job was parked on it when it was sent.
  check_at timestamptz
);
comment on table picture_queue.external_event is
  'External events that have not woken all their jobs, or that no job has waited for yet; kept for a day.';
create index external_event_check on picture_queue.external_event (check_at) where check_at is not null;

-- The answers of calls with a request id, so that a client can repeat a call whose answer was lost.
create table picture_queue.answer (
  call text not null,
  id text not null,
  answer jsonb,
  at timestamptz not null,
  constraint answer_pkey primary key (call, id)
);
comment on table picture_queue.answer is 'Answers of calls that must not run twice, kept for a day.';
create index answer_at on picture_queue.answer (at);


-- 148_table_depth.sql

-- The number of jobs in each state. _transition appends changes to depth_change, maintenance adds these to depth, and
-- queries add up both tables. So the counts are exact, no query reads all jobs, and no caller waits for the lock of a
-- counter.
create table picture_queue.depth (
  queue text not null,
  status text not null,
  hold text,
  n bigint not null,
  unique nulls not distinct (queue, status, hold)
);
comment on table picture_queue.depth is 'Numbers of jobs by queue and state, without the rows of depth_change.';

create table picture_queue.depth_change (
  queue text not null,
  status text not null,
  hold text,
  n integer not null,
  at timestamptz not null
);
comment on table picture_queue.depth_change is 'Changes of the numbers of jobs that are not added to depth yet.';

create table picture_queue.throughput (
  queue text not null,
  minute timestamptz not null,
  status text not null,
  n bigint not null,
  primary key (queue, minute, status)
);
comment on table picture_queue.throughput is 'Jobs finished per minute, kept for two days.';
create index throughput_minute on picture_queue.throughput (minute);


-- 150_table_generations.sql

create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid,
  job_id uuid not null,
  -- Null for a generation outside of a batch or chain. batch_position is the position of the request in the call, and
  -- batch_step the step in the chain of this request; both start at 0.
  batch_id uuid,
  batch_position integer,
  batch_step integer,
  kind text not null default 'text-to-image',
  model_id text not null,
  model_version text,
  prompt text not null,
  input jsonb not null default '{}',
  status text not null default 'pending',
  error text,
  favourite boolean not null default false,
  missing_images jsonb not null default '[]',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  -- The reserved cost, and the actual cost once the generation has ended. Null if the cost of the model is not known.
  cost_usd numeric,
  cost_is_estimate boolean not null default false,
  deleted boolean not null default false,
  constraint status_is_known
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled'))
);
comment on table public.generations is
  'Requests for pictures; status, error and finished_at are copied from the job.';
comment on column public.generations.missing_images is
  'Pictures of a completed generation that were made and could not be stored: a list of {n, reason}.';
comment on column public.generations.model_version is 'The version of the model in the catalogue at the start.';
comment on column public.generations.deleted is
  'Whether the generation was deleted. A deleted row is hidden; it is removed after its files.';
-- deleted is a boolean instead of a time, since the planner estimates that `deleted_at is null` matches few rows until
-- the table is analyzed.
create index generations_owned on public.generations (user_id, created_at desc, id desc);
create index generations_favourite on public.generations (user_id, created_at desc, id desc) where favourite;
create index generations_listed on public.generations (created_at desc, id desc) where not deleted;
-- For lists of all users with a filter that few rows fit. There is no index of status: with one, no change of status
-- could be a HOT update, and each would write to all indexes. A list by status alone reads a million rows in a second.
create index generations_of_model on public.generations (model_id, created_at desc, id desc) where not deleted;
create index generations_of_kind on public.generations (kind, created_at desc, id desc) where not deleted;
create index generations_favourite_listed on public.generations (created_at desc, id desc)
  where favourite and not deleted;
create index generations_job on public.generations (job_id);
create index generations_batch on public.generations (batch_id, batch_position, batch_step) where batch_id is not null;
-- The words of the prompt, and the id of the owner as another word. So the search of an owner reads no rows of other
-- owners. With fastupdate, an insert might have to write the pending entries of other inserts, and each search would
-- read them.
create index generations_words on public.generations
using gin ((to_tsvector('simple'::regconfig, left(prompt, 20000)) || coalesce(user_id::text, '')::tsvector))
with (fastupdate = off);
-- start_generation with options.reuse finds an equal generation by this hash.
create index generations_equal on public.generations (
  md5(coalesce(user_id::text, '') || ' ' || model_id || ' ' || coalesce(model_version, '') || ' ' || input::text
    || ' ' || prompt));
-- The planner gets no statistics of these columns, for the reason given for job_queue: the row estimates in a query
-- plan would reveal values of other users.
alter table public.generations
  alter id set statistics 0, alter user_id set statistics 0, alter job_id set statistics 0, alter kind set statistics 0,
  alter batch_id set statistics 0,
  alter prompt set statistics 0, alter error set statistics 0, alter missing_images set statistics 0,
  alter model_version set statistics 0, alter favourite set statistics 0;
alter index public.generations_words alter column 1 set statistics 0;
alter index public.generations_equal alter column 1 set statistics 0;

create table public.images (
  id uuid primary key default gen_random_uuid(),
  generation_id uuid not null references public.generations (id) on delete cascade,
  user_id uuid,
  n integer not null,
  path text not null,
  mime_type text not null,
  width integer,
  height integer,
  bytes bigint,
  sha256 text,
  blurhash text,
  thumbnail_path text,
  created_at timestamptz not null default now(),
  deleted boolean not null default false,
  constraint n_is_positive check (n >= 1),
  unique (generation_id, n)
);
comment on table public.images is 'The pictures of a generation, in the bucket "pictures" under path.';
comment on column public.images.thumbnail_path is 'The path of a small WebP in the same bucket; null if there is none.';
create index images_owned on public.images (user_id, created_at desc);
alter table public.images
  alter id set statistics 0, alter user_id set statistics 0, alter generation_id set statistics 0,
  alter path set statistics 0, alter sha256 set statistics 0, alter blurhash set statistics 0,
  alter thumbnail_path set statistics 0;


-- 152_table_spending.sql

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


-- 160_table_model.sql

-- start_generation checks inputs against this table. 700_data_models.sql fills it with the models of the package, and
-- set_model adds and changes models of the project.
create table picture_queue.model (
  model_id text primary key,
  provider text not null default 'replicate',
  kind text not null,
  also_kinds jsonb not null default '[]',
  official boolean,
  version text,
  typical_seconds real,
  price_usd_per_image numeric,
  max_outputs_param text,
  output text,
  progress_in_logs text,
  inputs jsonb not null,
  inputs_complete boolean not null default true,  -- if false, inputs that are not listed are passed on unchecked
  unavailable_reason text,                        -- null: projects can offer the model
  enabled boolean not null default true,
  changed_at timestamptz,                         -- when set_model last changed the row; null: it is unchanged
  constraint model_kind_is_known check (
    kind in ('text-to-image', 'image-variation', 'image-edit', 'upscale', 'background-removal', 'vector')),
  constraint also_kinds_is_list check (jsonb_typeof(also_kinds) = 'array'),
  -- The name of the provider is part of limit keys and job types.
  constraint provider_name_is_plain check (provider ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
  constraint inputs_is_list check (jsonb_typeof(inputs) = 'array')
);
comment on table picture_queue.model is 'Models and their inputs: name, type, format, bounds, required.';


-- 162_table_input_rule.sql

-- The operator's rules over the inputs of generations; 710_data_input_rules.sql has the default ones. model and input
-- are patterns, in which * stands for any characters.
create table picture_queue.input_rule (
  model text not null,
  plan text,  -- null: the rule applies to the users of each plan
  input text not null,
  action text not null,
  value jsonb,
  -- Of several rules for an input, the one with the highest specificity applies.
  specificity integer[] not null generated always as (array[
    (plan is not null)::integer, (strpos(model, '*') = 0)::integer, length(model),
    (strpos(input, '*') = 0)::integer, length(input)]) stored,
  -- The patterns in the syntax of `like … escape '!'`; names of inputs are compared without regard to case.
  model_like text not null generated always as (replace(replace(model, '_', '!_'), '*', '%')) stored,
  input_like text not null generated always as (replace(replace(lower(input), '_', '!_'), '*', '%')) stored,
  constraint input_rule_key unique nulls not distinct (model, plan, input, action),
  constraint input_rule_model_is_pattern check (model ~ '^[A-Za-z0-9._:/*-]{1,200}$'),
  constraint input_rule_input_is_pattern check (input ~ '^[A-Za-z0-9_.*-]{1,100}$'),
  constraint input_rule_plan_is_plain check (plan ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
  constraint input_rule_action_is_known check (action in ('lock', 'default', 'cap', 'refuse', 'allow')),
  constraint input_rule_has_value check (case action
    when 'cap' then jsonb_typeof(value) = 'number' and value is not null
    when 'refuse' then value is null or jsonb_typeof(value) = 'array'
    when 'allow' then value is null
    else value is not null end)
);
comment on table picture_queue.input_rule is 'Rules over inputs: locked, default, highest and refused values.';


-- 170_table_prediction.sql

-- Predictions at a provider, each of which may cost money. A worker commits the row before it creates the prediction,
-- and writes the id that the provider returns into the row at once. So another worker can resume the prediction instead
-- of paying for another.
create table picture_queue.prediction (
  id uuid primary key default gen_random_uuid(),
  job_id uuid not null,
  generation_id uuid not null references public.generations (id) on delete cascade,
  attempt integer not null,
  provider text not null default 'replicate',
  model_id text not null,
  input jsonb not null,
  state text not null default 'creating',
  prediction_id text,
  -- The latest status that a webhook reported: starting, processing, or a final status of the provider.
  status text,
  error text,
  metrics jsonb,
  cost_usd numeric,  -- the amount that the provider charges, by the price of the model or by metrics.predict_time
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint prediction_id_is_unique unique (provider, prediction_id),
  constraint state_is_known
    check (state in ('creating', 'created', 'succeeded', 'failed', 'canceled', 'aborted', 'lost')),
  constraint status_is_known
    check (status in ('starting', 'processing', 'succeeded', 'failed', 'canceled', 'aborted')),
  constraint created_has_an_id check (state <> 'created' or prediction_id is not null)
);
comment on table picture_queue.prediction is 'One row per prediction at a provider, committed before its creation.';
create unique index prediction_live on picture_queue.prediction (generation_id)
  where state in ('creating', 'created');
create index prediction_generation on picture_queue.prediction (generation_id, created_at);
create index prediction_recent on picture_queue.prediction (provider, created_at) where prediction_id is not null;
-- For the search for a lost prediction: rows whose prediction may exist, although its id is not recorded.
create index prediction_unrecorded on picture_queue.prediction (provider, created_at)
  where prediction_id is null and state in ('creating', 'lost', 'canceled');


-- 172_table_deleted_generation.sql

-- A generation is deleted in three steps. First the row is marked as deleted, which hides it, and a job is enqueued
-- that deletes the files. Then the worker deletes the files and calls record_deleted_files. Last, maintenance deletes
-- the row. So no file remains without a row that names it, whichever step fails.
create table picture_queue.deleted_generation (
  generation_id uuid primary key references public.generations (id) on delete cascade,
  deleted_at timestamptz not null,
  -- The job that deletes the files.
  job_id uuid,
  -- When to enqueue another job, if this job has ended and the files are not deleted.
  enqueue_at timestamptz not null,
  -- When to delete the row of the generation; null: the files are not deleted yet.
  remove_at timestamptz
);
comment on table picture_queue.deleted_generation is 'Deleted generations whose row, and perhaps files, still exist.';
create index deleted_generation_enqueue on picture_queue.deleted_generation (enqueue_at) where remove_at is null;
create index deleted_generation_remove on picture_queue.deleted_generation (remove_at) where remove_at is not null;


-- 180_table_history.sql

-- All changes of state except claim and complete, since the row of the job shows these two. The actions fail, back_off
-- and expire end a failed attempt. The table is internal: owners see only job_queue.error.
create table picture_queue.history (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.job_queue (id) on delete cascade,
  at timestamptz not null,
  action text not null,
  status text not null,
  hold text,
  attempt integer not null,
  worker text,
  started_at timestamptz,
  duration_seconds real,
  error text,
  detail text
);
comment on table picture_queue.history is
  'Changes of state of a job with their internal detail, the last 50 of each job.';
create index history_job on picture_queue.history (job_id, id);


-- 185_table_archive.sql

-- A partition holds the jobs that finished in a month (UTC). It is created when it is needed, and dropped after
-- keep_archive_months.
create table picture_queue.archive (
  id uuid not null,
  seq bigint not null,
  queue text not null,
  job_type text not null,
  status text not null,
  priority integer not null,
  payload jsonb not null,
  result jsonb,
  error text,
  tags text[],
  metadata jsonb not null,
  tenant text,
  batch_id uuid,
  user_id uuid,
  generation_id uuid,
  attempt integer not null,
  worker text,
  created_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz not null,
  primary key (id, finished_at)
) partition by range (finished_at);
comment on table picture_queue.archive is
  'Jobs that were pruned while the setting archive was on, by the month in which they finished.';
create index archive_owned on picture_queue.archive (user_id) where user_id is not null;


-- 190_table_state_transition.sql

-- The state machine: an action moves a job from one state to another. An action that has no row for the state of the
-- job does nothing. attempt_delta: a claim adds one to the attempts; an action that ends the attempt for a reason
-- outside of the job subtracts it again.
create table picture_queue.state_transition (
  action text not null,
  from_status text not null,
  from_hold text,
  to_status text not null,
  to_hold text,
  attempt_delta integer not null default 0,
  unique nulls not distinct (action, from_status, from_hold),
  constraint status_is_known
    check (to_status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint hold_fits_status check (
    to_hold is null
    or (to_status = 'pending' and to_hold in ('scheduled', 'blocked', 'waiting'))
    or (to_status = 'processing' and to_hold = 'parked')
  )
);
comment on table picture_queue.state_transition is 'The permitted changes of state; read by _transition.';

insert into picture_queue.state_transition (action, from_status, from_hold, to_status, to_hold, attempt_delta) values
  ('claim',    'pending',    null,        'processing', null,         1),
  ('complete', 'processing', null,        'completed',  null,         0),
  ('fail',     'processing', null,        'failed',     null,         0),
  ('back_off', 'processing', null,        'pending',    'scheduled',  0),  -- retry after an error
  ('expire',   'processing', null,        'pending',    null,         0),  -- the lease expired
  ('snooze',   'processing', null,        'pending',    'scheduled', -1),
  ('release',  'processing', null,        'pending',    null,        -1),
  ('park',     'processing', null,        'processing', 'parked',     0),
  ('wake',     'processing', 'parked',    'pending',    null,        -1),  -- the attempt that parked is not counted
  ('promote',  'pending',    'scheduled', 'pending',    null,         0),
  ('delay',    'pending',    null,        'pending',    'scheduled',  0),  -- a debounce or a replacement
  ('delay',    'pending',    'scheduled', 'pending',    'scheduled',  0),
  ('delay',    'pending',    'blocked',   'pending',    'scheduled',  0),
  ('block',    'pending',    null,        'pending',    'blocked',    0),  -- a limit key of the job has no capacity
  ('unblock',  'pending',    'blocked',   'pending',    null,         0),
  ('ready',    'pending',    'waiting',   'pending',    null,         0),  -- its parents have finished
  ('wait',     'pending',    null,        'pending',    'waiting',    0),  -- retried before its parents have finished
  ('await',    'pending',    'waiting',   'pending',    'scheduled',  0),  -- its parents have finished; it is not due
  ('abandon',  'pending',    null,        'failed',     null,         0),  -- expired, or a parent failed
  ('abandon',  'pending',    'scheduled', 'failed',     null,         0),
  ('abandon',  'pending',    'blocked',   'failed',     null,         0),
  ('abandon',  'pending',    'waiting',   'failed',     null,         0),
  ('cancel',   'pending',    null,        'cancelled',  null,         0),
  ('cancel',   'pending',    'scheduled', 'cancelled',  null,         0),
  ('cancel',   'pending',    'blocked',   'cancelled',  null,         0),
  ('cancel',   'pending',    'waiting',   'cancelled',  null,         0),
  ('cancel',   'processing', null,        'cancelled',  null,         0),
  ('retry',    'failed',     null,        'pending',    null,         0),
  ('retry',    'cancelled',  null,        'pending',    null,         0);


-- 195_each_table.sql

-- Returns the tables of picture-queue, including the partitions of the archive.
create function picture_queue._our_tables() returns setof pg_catalog.pg_class
language sql stable rows 40 set search_path = pg_catalog, pg_temp
as $$
  select c from pg_catalog.pg_class c
  where c.relkind in ('r', 'p') and (c.relnamespace = 'picture_queue'::regnamespace
    or c.oid in ('public.job_queue'::regclass, 'public.generations'::regclass, 'public.images'::regclass))
$$;

-- Enable row level security and set the replica identity of each table above.
--
-- Row level security: API roles without BYPASSRLS see no rows of a table without a policy (800_policies.sql). Replica
-- identity: under a publication `for all tables`, Postgres refuses updates and deletes of a table without one. For a
-- table without a primary key, the whole row is the identity, which Postgres writes to the WAL for updates and deletes
-- only. A primary key would add an index entry to each insert, and every enqueue, claim and report inserts a row into
-- depth_change.
do $$
declare
  v_table regclass;
  v_has_key boolean;
begin
  for v_table, v_has_key in
    select c.oid, exists (select from pg_catalog.pg_index i where i.indrelid = c.oid and i.indisprimary)
    from picture_queue._our_tables() c
  loop
    execute format('alter table %s enable row level security', v_table);
    if not v_has_key then
      execute format('alter table %s replica identity full', v_table);
    end if;
  end loop;
end
$$;


-- 196_function__grants.sql

-- The privileges of other roles on our objects.

-- Returns the functions of picture-queue. In the schema public, these are the functions of our owner whose body refers
-- to our objects.
create function picture_queue._our_functions() returns table (oid oid, is_public boolean)
language sql stable rows 200 set search_path = pg_catalog, pg_temp
as $$
  select p.oid, p.pronamespace = 'public'::regnamespace
  from pg_catalog.pg_proc p
  where p.pronamespace = 'picture_queue'::regnamespace
    or (p.pronamespace = 'public'::regnamespace and p.prosrc ~ 'picture_queue[.]|public[.](job_queue|generations|queue_health)'
      and p.proowner = (select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'picture_queue'))
$$;

-- Returns the names of the functions in both schemas that users may execute.
create function picture_queue._user_functions() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select '{cancel_job,get_job,list_jobs,get_generation,list_generations,picture_queue_version,start_generation,
    cancel_generation,start_generations,generation_batch,cancel_generation_batch,list_models,job_position,explain_jobs,
    get_account,may_upload,may_read_picture,delete_generation,set_favourite,
    search_generations,_generation_filter,version,_raise_error,_require,_jobs_where,
    _filter_condition,_reason,_check_fields,_fields_problem,_value_problem,_with_images}'::text[]
$$;

-- Returns every privilege on our objects that a role other than the owner has, with the words of a GRANT statement. It
-- leaves out types, which every role may use, and privileges that a role has as a member of another role.
create function picture_queue._grants() returns table (
  object oid, kind text, name text, "column" name, role text, privilege text, is_grantable boolean)
language sql stable rows 200 set search_path = pg_catalog, pg_temp
as $$
  with relations as (
    select c.oid, case c.relkind when 'S' then 'sequence' else 'table' end as kind, c.relowner, c.relacl
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and (c.relnamespace = 'picture_queue'::regnamespace or c.oid in (
      select to_regclass(n.name) from (values ('public.job_queue'), ('public.generations'), ('public.images'),
        ('public.queue_health'), ('public.failed_jobs_recent'), ('public.stuck_jobs'),
        (pg_get_serial_sequence('public.job_queue', 'seq'))) as n (name)))
  ),
  objects (oid, kind, name, "column", owner, acl) as (
    select n.oid, 'schema', n.nspname::text, null::name, n.nspowner, n.nspacl
    from pg_catalog.pg_namespace n where n.nspname = 'picture_queue'
    union all
    select r.oid, r.kind, r.oid::regclass::text, null, r.relowner, r.relacl from relations r
    union all
    select r.oid, r.kind, r.oid::regclass::text, a.attname, r.relowner, a.attacl
    from relations r join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attacl is not null
    union all
    -- Without an ACL every role may execute a function.
    select p.oid, 'function', p.oid::regprocedure::text, null, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    from picture_queue._our_functions() f join pg_catalog.pg_proc p on p.oid = f.oid
  )
  select o.oid, o.kind, o.name, o."column", coalesce(quote_ident(r.rolname), 'public'), a.privilege_type, a.is_grantable
  from objects o
  cross join lateral aclexplode(o.acl) a
  left join pg_catalog.pg_roles r on r.oid = a.grantee
  where a.grantee <> o.owner
$$;

-- Returns the statement that revokes a privilege. The arguments are columns of _grants; p_column is null except for a
-- privilege on a column.
create function picture_queue._revoke_statement(
  p_privilege text, p_column text, p_kind text, p_name text, p_role text)
returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select format('revoke %s%s on %s %s from %s cascade;', p_privilege, ' (' || quote_ident(p_column) || ')', p_kind, p_name,
    p_role)
$$;

-- Revokes all privileges of other roles on our objects, or on the object with this name (as _grants writes it). It is
-- called before our own grants, since the default privileges of a project may give any role privileges on each new
-- object.
create function picture_queue._revoke_grants(p_name text default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  for v_statement in
    select distinct picture_queue._revoke_statement('all', g."column", g.kind, g.name, g.role)
    from picture_queue._grants() g where p_name is null or g.name = p_name
  loop
    execute v_statement;
  end loop;
end
$$;


-- 197_function__trust.sql

-- Our functions must not run code of other roles, such as triggers. If such code executes `set search_path` without
-- `local`, the new search_path also holds for the rest of our function. Postgres would then find the next operator of
-- our function in a schema of the other role, and run it with the rights of our owner.

-- Returns whether code of a role may run inside our functions: the role has all rights of the current role, which is
-- our owner. With p_trusts_platform, the roles of Supabase, whose names begin with supabase_, are trusted too.
create function picture_queue._is_trusted(p_role oid, p_trusts_platform boolean default false) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(pg_has_role(p_role, current_user, 'member'), false) or p_trusts_platform and coalesce(
    (select left(r.rolname, 9) = 'supabase_' from pg_catalog.pg_roles r where r.oid = p_role), false)
$$;

-- Returns a table of an extension or of the platform; null if there is no such table, or if code of another role would
-- run when it is read or written: it is a view, or belongs to a role that is not trusted.
create function picture_queue._find_table(p_name text, p_trusts_platform boolean default false) returns regclass
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return c.oid from pg_catalog.pg_class c
  where c.oid = to_regclass(p_name) and c.relkind in ('r', 'p') and picture_queue._is_trusted(c.relowner, p_trusts_platform);
end
$$;

-- Returns the foreign keys that Postgres follows when rows of these tables are deleted: the foreign keys that refer to
-- these tables, and, where a deletion cascades (cascade, set null, set default), the foreign keys that refer to the
-- next table.
create function picture_queue._foreign_keys_to(p_tables oid[]) returns setof pg_catalog.pg_constraint
language sql stable rows 20 set search_path = pg_catalog, pg_temp
as $$
  with recursive reached (constraint_oid, next_table) as (
    select c.oid, case when c.confdeltype in ('c', 'n', 'd') then c.conrelid end
    from pg_catalog.pg_constraint c where c.contype = 'f' and c.confrelid = any (p_tables)
    union
    select c.oid, case when c.confdeltype in ('c', 'n', 'd') then c.conrelid end
    from reached r
    join pg_catalog.pg_constraint c on c.contype = 'f' and c.confrelid = r.next_table
  )
  select c from pg_catalog.pg_constraint c where c.oid in (select r.constraint_oid from reached r)
$$;

-- Returns why rows of these tables must not be deleted: a table of another role refers to them, and its triggers or
-- the functions of its indexes would run. Returns null if no such table refers to them.
create function picture_queue._untrusted_reference(p_tables oid[]) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select format('table %s of role %s refers to %s', c.conrelid::regclass, t.relowner::regrole, c.confrelid::regclass)
  from picture_queue._foreign_keys_to(p_tables) c
  join pg_catalog.pg_class t on t.oid = c.conrelid
  where not picture_queue._is_trusted(t.relowner)
  order by 1 limit 1
$$;

-- Refuses to delete jobs while a table of another role refers to them. Until the end of the transaction, the lock
-- keeps other roles from adding such a foreign key; a deletion takes the same lock.
create function picture_queue._check_references() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_reference text;
begin
  lock table public.job_queue in row exclusive mode;
  v_reference := picture_queue._untrusted_reference(array['public.job_queue'::regclass]);
  if v_reference is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', v_reference, 'queue_doctor() shows how to drop the foreign key');
  end if;
end
$$;


-- 200_function__backoff.sql

-- Returns the seconds until the next attempt of a job: the delay of the policy (constant, linear, exponential), at
-- most the cap, multiplied by a random factor from 1 - jitter to 1 + jitter. The factor spreads the retries of jobs
-- that failed at the same time. Each value is resolved in this order: job, job type, queue, project.
create function picture_queue._backoff_of(p_job public.job_queue) returns real
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  -- 2^30 seconds is beyond any cap; the bound keeps the power from overflowing.
  select (least(b.base * case b.policy
      when 'constant' then 1
      when 'linear' then greatest(p_job.attempt, 1)
      else 2 ^ least(greatest(p_job.attempt, 1) - 1, 30) end, b.cap)
    * (1 - b.jitter + 2 * b.jitter * random()))::real
  from picture_queue.setting s
  left join picture_queue.job_type t on t.name = p_job.job_type
  left join picture_queue.queue q on q.name = p_job.queue
  cross join lateral (
    select coalesce(p_job.backoff ->> 'policy', t.backoff_policy, q.backoff_policy, s.backoff_policy) as policy,
      coalesce((p_job.backoff ->> 'base_seconds')::real, t.backoff_seconds, q.backoff_seconds, s.backoff_seconds) as base,
      coalesce((p_job.backoff ->> 'cap_seconds')::real, t.backoff_cap_seconds, q.backoff_cap_seconds,
        s.backoff_cap_seconds) as cap,
      coalesce((p_job.backoff ->> 'jitter')::real, t.backoff_jitter, q.backoff_jitter, s.backoff_jitter) as jitter) b
$$;


-- 205_function__answer.sql

-- Answers of calls that must take effect only once: a call with the request id of an earlier call returns the earlier
-- answer.

-- Returns the answer that an earlier call with this id gave; null if there was none, or if the id is null. If the
-- earlier call is still in progress, it waits until that transaction ends.
create function picture_queue._find_answer(p_call text, p_id text) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  if p_id is null then
    return null;
  end if;
  insert into picture_queue.answer (call, id, at) values (p_call, p_id, picture_queue._now()) on conflict do nothing;
  return (select a.answer from picture_queue.answer a where a.call = p_call and a.id = p_id);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

-- Stores the answer for repeated calls, if the call has an id, and returns the answer. _find_answer has inserted the
-- row.
create function picture_queue._store_answer(p_call text, p_id text, p_answer jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if p_id is not null then
    update picture_queue.answer a set answer = p_answer where a.call = p_call and a.id = p_id;
  end if;
  return p_answer;
end
$$;


-- 210_function__broadcast.sql

-- Sends events over Realtime. This version does nothing, so that the queue runs on a Postgres without Realtime;
-- 950_supabase_realtime.sql replaces it where Realtime is installed.
create function picture_queue._broadcast(p_events picture_queue.event[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  null;
end
$$;


-- 220_function__emit.sql

-- Sends an event for each of these jobs, on the topic of the owner, or on the topic of the job if the job has no
-- owner. The event holds the visible state of the job without its result.
create function picture_queue._emit(p_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_events picture_queue.event[];
begin
  select array_agg(row(
      coalesce('pq:user:' || j.user_id, 'pq:job:' || j.id),
      'job',
      jsonb_build_object(
        'job_id', j.id, 'job_type', j.job_type, 'queue', j.queue, 'status', j.status, 'hold', j.hold,
        'progress', j.progress, 'message', j.message, 'attempt', j.attempt, 'version', j.version,
        'at', j.updated_at)
      || case when j.generation_id is null then '{}' else jsonb_build_object('generation_id', j.generation_id) end
      || case when j.error is null then '{}' else jsonb_build_object('error', j.error) end
    )::picture_queue.event order by j.seq)
  into v_events
  from public.job_queue j
  left join picture_queue.queue q on q.name = j.queue
  where j.id = any (p_ids) and coalesce(q.events, 'progress') <> 'none';
  if v_events is not null then
    perform picture_queue._broadcast(v_events);
  end if;
end
$$;

-- Wakes the workers of these queues, with one message for each queue. The reason 'enqueue' stands for all ways by
-- which jobs become claimable; it sends the message only if a worker of the queue is idle, with a call in the last
-- minute. Workers that use the API receive it over Realtime, workers with a database connection by NOTIFY.
create function picture_queue._wake_workers(p_queues text[], p_reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_since timestamptz := picture_queue._now() - interval '1 minute';
  v_events picture_queue.event[];
begin
  select array_agg(row(
      'pq:queue:' || name, 'wake', jsonb_build_object('queue', name, 'reason', p_reason)
    )::picture_queue.event)
  into v_events
  from (select distinct unnest(p_queues)) as q (name)
  where p_reason <> 'enqueue' or (
    select true from picture_queue.worker w
    where w.idle and q.name = any (w.queues) and w.seen_at > v_since
    order by w.seen_at desc limit 1);
  if v_events is not null then
    perform picture_queue._broadcast(v_events);
    perform pg_catalog.pg_notify('picture_queue', e.payload::text) from unnest(v_events) e;
  end if;
end
$$;


-- 230_function__transition.sql

-- Makes all changes of state except claims (_start), many at a time. It skips a change that
-- picture_queue.state_transition does not permit, and a change that names a lease which is not in force; it returns
-- only the jobs that it changed. An expired lease stays in force until maintenance sweeps it. Unless every change
-- names its lease, the caller must hold the row locks, taken in the order of ids or with skip locked. The function
-- writes the rows, their history (of all actions but complete), the counts and the events. It records work for other
-- jobs as follow-ups, and processes the first 20 at once unless p_does_follow_ups is false.
create function picture_queue._transition(p_changes picture_queue.change[], p_does_follow_ups boolean default true)
returns picture_queue.changed_job[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_ids uuid[] := array(select c.job_id from unnest(p_changes) c);
  v_applied picture_queue.applied;
  v_has_children boolean := false;
begin
  if p_changes is null then
    return null;
  end if;
  v_applied := picture_queue._apply_changes(p_changes, v_ids, v_now);
  -- Rarely, fewer jobs changed than requested. If a permitted change did not happen, a trigger of the project returned
  -- null. Then raise an error: without one, the caller would repeat the change forever.
  if coalesce(cardinality(v_applied.changed_jobs), 0) < cardinality(p_changes) and exists (
    select from unnest(p_changes) c
    join public.job_queue j on j.id = any (v_ids) and j.id = c.job_id
    join picture_queue.state_transition e on e.action = c.action and e.from_status = j.status and e.from_hold is not distinct from j.hold
    where (c.lease_id is null or j.lease_id = c.lease_id and j.lease_expires_at is not null)
      and j.id not in (select done.id from unnest(v_applied.changed_jobs) done))
  then
    raise exception 'a trigger on public.job_queue prevented the change of a job';
  elsif v_applied.changed_jobs is null then
    return null;
  end if;
  -- This statement runs after the change, so it sees children that were committed in the meantime. The search takes a
  -- tenth of the time of a report, so it is skipped while the table is empty.
  if pg_relation_size('picture_queue.dependency') > 0 then
    v_has_children := exists (select from picture_queue.dependency d where d.parent_id = any (v_ids));
  end if;
  v_ids := array(select j.id from unnest(v_applied.changed_jobs) j);
  if v_applied.due_at < v_now + interval '2 seconds' then  -- the next round begins within two seconds anyway
    perform picture_queue._wake_maintenance(v_applied.due_at);
  end if;
  if v_applied.takes_turn then
    perform picture_queue._assign_turns(v_ids);
  end if;
  if num_nonnulls(v_applied.ended, v_applied.was_blocked) > 0 then
    perform picture_queue._record_freed_keys(v_applied.ended, v_applied.was_blocked);
  end if;
  if v_applied.has_long_history then
    perform picture_queue._trim_history(v_ids);
  end if;
  if v_applied.has_generation then
    perform picture_queue._mirror_generations(v_ids);
  end if;
  if v_applied.sends_events then
    perform picture_queue._emit(v_ids);
  end if;
  if v_has_children or v_applied.batches is not null then
    perform picture_queue._record_follow_ups(v_applied.changed_jobs, v_applied.batches, p_does_follow_ups);
  end if;
  return v_applied.changed_jobs;
end
$$;

-- Changes the rows, and writes their history and the counts. Returns the changed jobs, and which further steps of
-- _transition they need.
create function picture_queue._apply_changes(p_changes picture_queue.change[], p_ids uuid[], p_now timestamptz)
returns picture_queue.applied
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_applied picture_queue.applied;
begin
  with changed as (
    update public.job_queue j set
      status = c.to_status, hold = c.to_hold, attempt = j.attempt + c.attempt_delta,
      max_attempts = case when c.retries then greatest(j.max_attempts, j.attempt + 1) else j.max_attempts end,
      scheduled_for = case when c.retries or c.wakes then null
        when c.to_hold in ('scheduled', 'parked') and c.action <> 'await' then c.run_at else j.scheduled_for end,
      -- The id of an expired lease is cleared, so that a late report is stale rather than a repetition.
      lease_id = case when c.lease_expired then null else j.lease_id end,
      lease_expires_at = null,
      -- The worker reported, so the start is confirmed, unless the lease expired.
      unconfirmed_claims = case when c.retries or c.from_status = 'processing' and c.lease_expired is not true then 0
        else j.unconfirmed_claims end,
      blocked_on = case when c.action = 'block' then c.key else j.blocked_on end,
      parked_on = case when c.parks then c.key else j.parked_on end,
      parked_at = case when c.parks then p_now else j.parked_at end,
      -- A parked job has started, so it must not expire after it is woken; nor must a job whose retry was requested.
      expires_at = case when c.parks or c.retries then null else j.expires_at end,
      event = case when c.wakes then c.result when c.parks then null else j.event end,
      finished_at = case when c.to_status in ('completed', 'failed', 'cancelled') then p_now end,
      cancel_requested_at = case when c.retries then null else j.cancel_requested_at end,
      progress = case when c.completes then 100 when c.starts_over then 0 else j.progress end,
      message = case when c.completes or c.starts_over then null else j.message end,
      result = case when c.completes then c.result when c.retries then null else j.result end,
      -- A job that expires between two attempts keeps its last error.
      error = case when c.action = 'abandon' then coalesce(case when j.attempt > 0 then j.error end, c.error)
        when c.errs then c.error when c.completes or c.retries then null
        when c.action = 'cancel' then coalesce(c.error, j.error) else j.error end,
      version = j.version + 1, updated_at = p_now
    from (
      -- With offset 0 Postgres evaluates these conditions once for each change, not once for each column that uses
      -- them.
      select c.*, e.from_status, e.from_hold, e.to_status, e.to_hold, e.attempt_delta,
        c.action = 'complete' as completes, c.action = 'retry' as retries, c.action = 'park' as parks, c.action = 'wake' as wakes,
        c.action in ('back_off', 'expire', 'retry') as starts_over,
        c.action in ('fail', 'back_off', 'expire') as errs
      from unnest(p_changes) c join picture_queue.state_transition e on e.action = c.action offset 0
    ) c
    where j.id = any (p_ids) and j.id = c.job_id and c.from_status = j.status and c.from_hold is not distinct from j.hold
      -- A report is fenced by its lease.
      and (c.lease_id is null or j.lease_id = c.lease_id and j.lease_expires_at is not null)
    returning j.id, j.lease_id, c.action, c.from_status, c.from_hold, j.status, j.hold, j.queue, j.tenant, j.batch_id,
      j.generation_id, j.version, j.slots, j.blocked_on, j.attempt, j.worker, j.started_at, j.scheduled_for, j.error, c.detail,
      c.duration_seconds
  ),
  written_history as (
    insert into picture_queue.history
      (job_id, at, action, status, hold, attempt, worker, started_at, duration_seconds, error, detail)
    select j.id, p_now, j.action, j.status, j.hold, j.attempt, j.worker,
      case when j.from_status = 'processing' then j.started_at end,
      case when j.from_status = 'processing' and j.from_hold is null
        then coalesce(j.duration_seconds, extract(epoch from p_now - j.started_at)) end,
      case when j.action in ('fail', 'back_off', 'expire', 'abandon') then j.error end, left(j.detail, 8192)
    from changed j where j.action <> 'complete'
  ),
  written_counts as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select j.queue, d.status, d.hold, sum(d.n), p_now
    from (
      select j.queue, j.from_status, j.from_hold, j.status, j.hold, count(*) as n from changed j
      group by j.queue, j.from_status, j.from_hold, j.status, j.hold
    ) j
    cross join lateral (values (j.from_status, j.from_hold, -j.n), (j.status, j.hold, j.n)) as d (status, hold, n)
    group by j.queue, d.status, d.hold having sum(d.n) <> 0
  )
  select array_agg(row(j.id, j.queue, j.status, j.hold, j.lease_id)::picture_queue.changed_job),
    bool_or(j.queue <> all (array(select q.name from picture_queue.queue q where q.events = 'none'))),
    bool_or(j.version > 50), bool_or(j.generation_id is not null),
    array_agg(j.id) filter (where j.slots is not null and j.from_status = 'processing' and j.from_hold is null),
    array_agg(j.id) filter (where j.blocked_on is not null and j.action not in ('unblock', 'block')),
    bool_or(j.tenant is not null and j.status = 'pending' and j.hold is null),
    min(j.scheduled_for) filter (where j.hold in ('scheduled', 'parked')),
    jsonb_agg(jsonb_build_object('batch_id', j.batch_id, 'from', j.from_status, 'to', j.status))
      filter (where j.batch_id is not null)
  into v_applied
  from changed j;
  return v_applied;
end
$$;


-- 232_function__transition_steps.sql

-- Steps of _transition that only some jobs need. _start calls the first two as well.

-- Keeps the last 50 rows of history of each job.
create function picture_queue._trim_history(p_ids uuid[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  delete from picture_queue.history h
  using public.job_queue j
  where j.id = any (p_ids) and j.version > 50 and h.job_id = j.id and h.id <= (
    select o.id from picture_queue.history o where o.job_id = j.id order by o.id desc offset 50 limit 1)
$$;

-- Copies the state of these jobs to their generations. If another transaction keeps a generation locked for over 10
-- milliseconds, the change fails. Settles the cost of generations that end, and reserves the cost of retried
-- generations again.
create function picture_queue._mirror_generations(p_ids uuid[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100 set lock_timeout = '10ms'
as $$
declare
  v_ended uuid[];
  v_retried uuid[];
begin
  with changed as (
    update public.generations g
    set status = j.status, error = j.error, finished_at = j.finished_at, updated_at = j.updated_at
    from public.job_queue j
    cross join lateral (select o.status from public.generations o where o.id = j.generation_id offset 0) previous
    where j.id = any (p_ids) and j.generation_id is not null and g.id = j.generation_id
      and (g.status, g.error) is distinct from (j.status, j.error)
    returning g.id, g.status in ('completed', 'failed', 'cancelled') as ends,
      previous.status in ('completed', 'failed', 'cancelled') as had_ended
  )
  select array_agg(c.id) filter (where c.ends and not c.had_ended),
    array_agg(c.id) filter (where c.had_ended and not c.ends)
  into v_ended, v_retried
  from changed c;
  if v_ended is not null then
    perform picture_queue._settle_ended(v_ended);
  end if;
  if v_retried is not null then
    perform picture_queue._reserve_again(v_retried);
  end if;
end
$$;

-- Appends limit keys to freed_key, so that the next claim or maintenance unblocks other jobs. For jobs that stopped
-- running (p_ended), these are their slots. For jobs that changed, but were not started, blocked or unblocked
-- (p_was_blocked), it is their blocked_on: such a job may have been unblocked for a slot that it does not take.
create function picture_queue._record_freed_keys(p_ended uuid[], p_was_blocked uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_keys text[];
begin
  with freed as (
    insert into picture_queue.freed_key (key, n, at)
    select k.key, sum(k.n), picture_queue._now()
    from (
      select unnest(j.slots) as key, 1 as n from public.job_queue j where j.id = any (p_ended)
      union all
      select j.blocked_on, 0 from public.job_queue j where j.id = any (p_was_blocked) and j.blocked_on is not null
    ) k
    group by k.key
    returning key
  )
  select array_agg(f.key) into v_keys from freed f;
  -- Wake maintenance, since idle workers, which found no job, do not claim until a message wakes them.
  if exists (
    select from unnest(v_keys) as k (key)
    where (select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1))
  then
    perform picture_queue._wake_maintenance(picture_queue._now());
  end if;
end
$$;

-- Returns the turn after which the next job of a tenant is placed: the turn of its last claimable job, but at least
-- the turn of the first claimable job of the queue (start-time fair queueing). It ignores the jobs in p_except, which
-- are about to get a turn. Two concurrent enqueues may assign the same turn twice, which is harmless.
create function picture_queue._last_turn(p_queue text, p_tenant text, p_rank integer, p_except uuid[])
returns double precision
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  select greatest(0,
    (select j.turn from public.job_queue j
      where j.status = 'pending' and j.hold is null and j.queue = p_queue and j.rank = p_rank and j.id <> all (p_except)
      order by j.turn, j.seq limit 1),
    (select j.turn from public.job_queue j
      where j.status = 'pending' and j.hold is null and j.tenant is not null
        and j.queue = p_queue and j.tenant = p_tenant and j.rank = p_rank and j.id <> all (p_except)
      order by j.turn desc limit 1))
$$;

-- Gives jobs that became claimable in a queue with fair_share a turn after the last job of their tenant.
create function picture_queue._assign_turns(p_ids uuid[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with claimable as (
    select j.id, j.queue, j.tenant, j.rank, j.turn, j.seq from public.job_queue j
    where j.id = any (p_ids) and j.tenant is not null and j.status = 'pending' and j.hold is null
      and (select q.fair_share from picture_queue.queue q where q.name = j.queue)
  ),
  tenants as (
    select t.queue, t.tenant, t.rank, 1 / coalesce(w.weight, 1) as step,
      picture_queue._last_turn(t.queue, t.tenant, t.rank, p_ids) as last_turn
    from (select distinct queue, tenant, rank from claimable) t
    left join picture_queue.tenant w on w.name = t.tenant
  )
  update public.job_queue j set turn = assigned.turn
  from (
    select c.id, t.last_turn
      + t.step * row_number() over (partition by c.queue, c.tenant, c.rank order by c.turn, c.seq) as turn
    from claimable c
    join tenants t on t.queue = c.queue and t.tenant = c.tenant and t.rank = c.rank
  ) assigned
  where j.id = any (p_ids) and j.id = assigned.id
$$;


-- 234_function__run_isolated.sql

-- Steps that process many subjects, such as jobs. If the step fails for one subject, it is still done for the others.

-- Returns whether a retry may succeed: after a deadlock or serialization failure (40), a lack of resources (53), a lock
-- timeout (55P03), an object in use (55006), or PQ_BUSY.
create function picture_queue._is_transient(p_sqlstate text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select left(p_sqlstate, 2) in ('40', '53') or p_sqlstate in ('55P03', '55006', 'PT429') $$;

-- Checks deferred constraints of the project at once. An error then fails the step of the job that caused it, and not
-- the whole transaction at its commit. The function checks the constraints on our tables. In a transaction of a
-- worker, if the project has a trigger on our tables, it checks the constraints on all tables, since the trigger may
-- write to any table. For other callers it does not: their transaction may have written rows that satisfy a constraint
-- only later. It skips constraints whose names Postgres would refuse or resolve to another constraint.
--
-- The code of a constraint runs with our search_path, and before Postgres 18 as the current role. So the function
-- skips every constraint that could run code of the caller: a constraint if the owner of its table, of the table to
-- which it refers, or of its trigger function does not have all rights of the current role; a trigger whose function
-- does not set a search_path that ends with pg_temp, since temporary objects would come first; an exclusion
-- constraint, which calls functions of an index. A name stands for all constraints of a schema that have this name, so
-- it is skipped if one of them is unsafe. `set constraints ... immediate` also fires triggers that the caller has made
-- immediate without firing them. So all constraints are deferred first.
create function picture_queue._check_deferred_constraints() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_our_tables regclass[] := array['public.job_queue'::regclass, 'public.generations'::regclass];
  v_checks_all boolean := current_setting('picture_queue.is_worker', true) = 'true' and exists (
    select from pg_catalog.pg_trigger t
    where t.tgrelid = any (v_our_tables) and not t.tgisinternal and t.tgname <> 'job_queue_updated_at');
  v_names text := (
    select string_agg(format('%s.%I', names.connamespace::regnamespace, names.conname), ', ')
    from (select distinct c.connamespace, c.conname from pg_catalog.pg_constraint c where c.condeferred) names
    cross join lateral (
      select bool_or(c.conrelid = any (v_our_tables) or t.tgrelid = any (v_our_tables)) as is_ours,
        -- Types: f foreign key, p primary key, u unique, t trigger.
        bool_and(c.condeferred and pg_has_role(constrained.relowner, current_user, 'member')
          and (c.confrelid = 0 or pg_has_role(referenced.relowner, current_user, 'member'))
          and coalesce(pg_has_role(p.proowner, current_user, 'member'), true)
          and (c.contype in ('f', 'p', 'u') or c.contype = 't' and picture_queue._sets_safe_path(p.proconfig))) as is_safe
      from pg_catalog.pg_constraint c
      left join pg_catalog.pg_class constrained on constrained.oid = c.conrelid
      left join pg_catalog.pg_class referenced on referenced.oid = c.confrelid
      left join pg_catalog.pg_trigger t on t.tgconstraint = c.oid
      left join pg_catalog.pg_proc p on p.oid = t.tgfoid
      where c.conname = names.conname and c.connamespace = names.connamespace) checked
    where checked.is_safe and (checked.is_ours or v_checks_all)
      and has_schema_privilege(names.connamespace, 'usage') and not pg_is_other_temp_schema(names.connamespace));
  v_check_statement text := 'set constraints ' || v_names || ' immediate';
  v_defer_statement text := 'set constraints ' || v_names || ' deferred';
begin
  if v_names is not null then
    set constraints all deferred;
    execute v_check_statement;
    execute v_defer_statement;
  end if;
end
$$;

-- Returns whether a function with these settings (proconfig) finds temporary objects of its caller last: its
-- search_path ends with pg_temp. If the path does not contain pg_temp, Postgres searches temporary tables and types
-- first.
create function picture_queue._sets_safe_path(p_settings text[]) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$ begin return coalesce(p_settings::text ~ 'search_path=[^=]*, *pg_temp"', false); end $$;

-- Runs the step of this kind for these subjects. Some steps process up to p_limit jobs of the subjects. Returns the
-- number of subjects or jobs that the step processed.
create function picture_queue._run_step(p_kind text, p_subjects text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return case p_kind
    when 'resolve' then picture_queue._resolve_dependents(p_subjects::uuid[])
    when 'parent' then picture_queue._resolve_parents(p_subjects::bigint[], p_limit)
    when 'child' then picture_queue._resolve_new_dependents(p_subjects::bigint[])
    when 'batch' then picture_queue._count_batches(p_subjects::uuid[])
    when 'settlement' then picture_queue._settle_later(p_subjects::bigint[])
    when 'account' then picture_queue._update_accounts(p_subjects)
    when 'callback' then picture_queue._enqueue_callbacks(p_subjects::uuid[], p_limit)
    when 'key' then picture_queue._unblock_keys(p_subjects)
    when 'rule' then picture_queue._count_running(p_subjects, p_limit)
    when 'prune' then picture_queue._prune_jobs(p_subjects::uuid[])
    when 'table' then picture_queue._delete_old_rows(p_subjects, p_limit)
    when 'partition' then picture_queue._drop_partitions(p_subjects)
    when 'aggregate' then picture_queue._aggregate_depth(p_limit)
    when 'renumber' then picture_queue._renumber_jobs(p_subjects::uuid[])
    when 'reorder' then picture_queue._reorder_queues(p_subjects, p_limit)
    when 'cancel' then picture_queue._cancel_jobs(p_subjects::uuid[])
    when 'purge' then picture_queue._cancel_jobs(p_subjects::uuid[], 'The queue was purged.')
    when 'retry' then picture_queue._retry_jobs(p_subjects::uuid[])
    when 'delete_generation' then picture_queue._delete_generations(p_subjects::uuid[])
    when 'delete_files' then picture_queue._enqueue_deletions(p_subjects::uuid[])
    when 'remove_generation' then picture_queue._remove_generations(p_subjects::uuid[])
    when 'discard' then picture_queue._discard_jobs(p_subjects::uuid[])
    when 'event' then picture_queue._wake_parked(p_subjects)
    when 'schedule' then picture_queue._run_due_schedules(p_subjects, p_limit)
    else picture_queue._change_state(p_kind, p_subjects::uuid[])
  end;
end
$$;

-- Returns whether isolated steps have used up their time: the deadline of the round of maintenance has passed, or the
-- statement has run for two seconds and _run_isolated has set failed_in. Without the second bound, each half of a split
-- list would wait again for a locked table.
create function picture_queue._is_out_of_time() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce(clock_timestamp() > nullif(current_setting('picture_queue.deadline', true), '')::timestamptz, false)
    or coalesce(current_setting('picture_queue.failed_in', true) = statement_timestamp()::text, false)
      and clock_timestamp() > statement_timestamp() + interval '2 seconds'
$$;

-- Runs a step for up to 1,000 subjects at once, a bound on the memory for their rows. It splits a longer list, and a
-- list for which the step fails, in half, down to the one subject that fails. That subject is written to failed_step,
-- and callers skip it until its retry_at. The others are processed until the time is used up (_is_out_of_time).
-- Returns the number of subjects processed.
create function picture_queue._run_isolated(p_kind text, p_subjects text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := coalesce(cardinality(p_subjects), 0);
  v_processed integer;
  v_error text;
  v_detail text;
begin
  if v_count = 0 or picture_queue._is_out_of_time() then
    return 0;
  end if;
  if v_count <= 1000 then
    begin
      v_processed := picture_queue._run_step(p_kind, p_subjects, p_limit);
      perform picture_queue._check_deferred_constraints();
      delete from picture_queue.failed_step f where f.ctid = any (array(
        select o.ctid from picture_queue.failed_step o where o.kind = p_kind and o.subject = any (p_subjects) for update skip locked));
      return v_processed;
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := concat_ws(': ', sqlerrm, nullif(v_detail, ''));
      -- The search for the failing subject must go on until that subject is recorded, or each call would repeat it.
      if v_count = 1 or sqlstate in ('55P03', '40P01', 'PT429', 'PT503') then
        perform set_config('picture_queue.failed_in', statement_timestamp()::text, true);
      end if;
    end;
  end if;
  if v_count = 1 then
    perform picture_queue._record_failure(p_kind, p_subjects[1], v_error);
    return 0;
  end if;
  return picture_queue._run_isolated(p_kind, p_subjects[:v_count / 2], p_limit)
    + picture_queue._run_isolated(p_kind, p_subjects[v_count / 2 + 1:], p_limit);
end
$$;

-- Records that a step failed for a subject. It is retried after 2, 4, 8, … seconds, at most an hour.
create function picture_queue._record_failure(p_kind text, p_subject text, p_error text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
as $$
begin
  insert into picture_queue.failed_step as f (kind, subject, last_error, first_at, retry_at)
  values (p_kind, p_subject, left(p_error, 1000), picture_queue._now(), picture_queue._now() + interval '2 seconds')
  on conflict (kind, subject) do update set failures = f.failures + 1, last_error = excluded.last_error,
    retry_at = picture_queue._now() + make_interval(secs => least(2 ^ least(f.failures + 1, 12), 3600));
exception when lock_not_available or deadlock_detected then
  null;  -- another transaction records a failure of this subject
end
$$;

-- Returns the subjects that a step of this kind skips until their retry_at, because it failed for them.
create function picture_queue._failed_subjects(p_kind text) returns setof text
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return query
  select f.subject from picture_queue.failed_step f where f.kind = p_kind and f.retry_at > picture_queue._now();
end
$$;

-- Wakes the worker that holds the maintenance lease if work is due before its next round. The message only wakes it;
-- the worker finds the due work in the tables.
create function picture_queue._wake_maintenance(p_at timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_queues text[] := (
    select w.queues from picture_queue.maintenance m
    join picture_queue.worker w on w.name = m.worker
    where m.next_round_at > p_at + interval '50 milliseconds');
begin
  if v_queues <> '{}' then
    perform picture_queue._wake_workers(v_queues[:1], 'maintain');
  end if;
end
$$;


-- 235_function__follow_up.sql

-- Follow-ups: work for other jobs that follows from a change of jobs. Each kind has a step that takes the ids of
-- follow-ups (for kind batch: the ids of batches), does a bounded part of the work, never waits for a locked row, and
-- deletes the follow-ups that are done.

-- Records the follow-ups of changes: the children of finished parents, the counts of batches (p_batches: batch_id,
-- from and to of each change). Processes the first 20 at once, so that chains and batches continue without delay, and
-- wakes maintenance for the others, among them batches that another transaction has locked. If p_does_follow_ups is
-- false, it only records them: the caller or the next round of maintenance processes them.
create function picture_queue._record_follow_ups(
  p_changed_jobs picture_queue.changed_job[], p_batches jsonb, p_does_follow_ups boolean)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_ids bigint[];
begin
  with recorded as (
    insert into picture_queue.follow_up (kind, subject, data)
    select 'parent', m.id, null::jsonb
    from unnest(p_changed_jobs) m
    where m.status in ('completed', 'failed', 'cancelled')
      and (select true from picture_queue.dependency d where d.parent_id = m.id limit 1)
    union all
    select 'batch', e.batch_id, jsonb_build_object('completed', e.completed, 'failed', e.failed, 'cancelled', e.cancelled)
    from (
      select b.batch_id, count(*) filter (where b."to" = 'completed') as completed,
        count(*) filter (where b."to" = 'failed') - count(*) filter (where b."from" = 'failed') as failed,
        count(*) filter (where b."to" = 'cancelled') - count(*) filter (where b."from" = 'cancelled') as cancelled
      from jsonb_to_recordset(p_batches) as b (batch_id uuid, "from" text, "to" text)
      group by b.batch_id
    ) e
    where (e.completed, e.failed, e.cancelled) <> (0, 0, 0)
    returning id
  )
  select array_agg(n.id) into v_ids from recorded n;
  if v_ids is null or not p_does_follow_ups then
    return;
  end if;
  perform picture_queue._run_isolated(k.kind, k.ids, 100)
  from (
    select f.kind, array_agg(case f.kind when 'batch' then f.subject::text else f.id::text end order by f.id) as ids
    from picture_queue.follow_up f
    where f.id = any (v_ids[:20]) and (f.kind <> 'batch'
      or (select true from picture_queue.batch b where b.id = f.subject for update skip locked))
    group by f.kind
  ) k;
  if exists (select from picture_queue.follow_up f where f.id = any (v_ids)) then
    perform picture_queue._wake_maintenance(picture_queue._now());
  end if;
end
$$;

-- Resolves up to p_limit dependents: the children of finished parents, and, if a child ends because its parent failed,
-- the children of that child, and so on.
create function picture_queue._resolve_parents(p_ids bigint[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_ids bigint[] := p_ids;
  v_locked_ids bigint[];
  v_parents uuid[];
  v_children text[];
  v_resolved integer;
  v_limit_left integer := p_limit;
begin
  while v_ids <> '{}' and v_limit_left > 0 loop
    select array_agg(f.id), array_agg(f.subject) into v_locked_ids, v_parents
    from (
      select f.id, f.subject from picture_queue.follow_up f
      where f.id = any (v_ids) and f.kind = 'parent' order by f.id for update skip locked
    ) f;
    v_children := array(
      select d.child_id::text
      from unnest(v_parents) p (id)
      cross join lateral (
        select d.child_id from picture_queue.dependency d
        join public.job_queue c on c.id = d.child_id
        where d.parent_id = p.id and d.child_id::text not in (select picture_queue._failed_subjects('resolve'))
        limit v_limit_left for update of c skip locked) d
      limit v_limit_left);
    v_resolved := picture_queue._run_isolated('resolve', v_children, v_limit_left);
    v_limit_left := v_limit_left - greatest(cardinality(v_children), 1);
    -- If a parent was retried in the meantime, its children keep waiting.
    delete from picture_queue.follow_up f
    where f.id = any (v_locked_ids) and (
      not exists (select from picture_queue.dependency d where d.parent_id = f.subject)
      or exists (select from public.job_queue j where j.id = f.subject and j.finished_at is null));
    -- The remaining children are locked, or their change failed: try again in 0.2 seconds.
    if v_resolved = 0 or v_limit_left > 0 then
      update picture_queue.follow_up f set due_at = picture_queue._now() + interval '0.2 seconds'
      where f.id = any (v_locked_ids);
    end if;
    -- Continue with the follow-ups of the children that ended. New follow-ups have the default due_at, -infinity.
    v_ids := array(
      select f.id from picture_queue.follow_up f
      where f.kind = 'parent' and f.subject = any (v_children::uuid[]) and f.due_at = '-infinity');
  end loop;
  return p_limit - v_limit_left;
end
$$;

-- Deletes the links of these children to finished parents. A child without other links becomes claimable. A child
-- whose parent failed or was cancelled ends too, unless its on_parent_failure is 'run'. Links to parents that failed or
-- were cancelled are kept in failed_dependency, for a retry of the child. Locked children are skipped.
-- The rows of children are locked before their links are searched. Without the locks, if two parents finish at once,
-- each transaction would see the link to the other parent, and the child would wait forever. p_does_follow_ups is
-- passed to _transition: whether to process the follow-ups of children that end. It is false for _resolve_parents,
-- which processes them itself, and for callers that leave them to the next round of maintenance. Returns the number of
-- children that were not locked.
create function picture_queue._resolve_dependents(p_children uuid[], p_does_follow_ups boolean default false)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_children uuid[] := array(
    select j.id from public.job_queue j where j.id = any (p_children) order by j.id for update skip locked);
  v_endings jsonb;  -- for each child that ends with a parent: the action and the reason
  v_changes picture_queue.change[];
  v_changed_jobs picture_queue.changed_job[];
begin
  with resolved as (
    delete from picture_queue.dependency d
    where d.ctid = any (array(
      select d.ctid from picture_queue.dependency d
      left join public.job_queue p on p.id = d.parent_id
      where d.child_id = any (v_children) and (p.id is null or p.finished_at is not null)))
    returning d.child_id, d.parent_id, d.on_parent_failure
  ),
  failed as (
    select s.child_id, s.parent_id, s.on_parent_failure, p.status
    from resolved s
    -- With `offset 0` the plan finds the parent by its id, even if the planner expects few failed jobs.
    cross join lateral (select p.status from public.job_queue p where p.id = s.parent_id offset 0) p
    where p.status in ('failed', 'cancelled')
  ),
  kept as (
    insert into picture_queue.failed_dependency (child_id, parent_id, on_parent_failure)
    select f.child_id, f.parent_id, f.on_parent_failure from failed f
    on conflict do nothing
  )
  -- A JSON object, since a join would compare each pair of thousands of children. If several parents of a child
  -- failed, the reason names the parent with the lowest id: of equal keys an object has the last, hence the descending
  -- order.
  select coalesce(jsonb_object_agg(f.child_id, jsonb_build_array(
    case f.on_parent_failure when 'cancel' then 'cancel' else 'abandon' end,
    format('Job %s, which it depends on, was %s.', f.parent_id, f.status)) order by f.parent_id desc), '{}')
  into v_endings
  from failed f
  where f.on_parent_failure <> 'run';

  select array_agg(picture_queue._change(
    c.id,
    coalesce(v_endings #>> array[c.id::text, '0'],
      case when c.scheduled_for > picture_queue._now() then 'await' else 'ready' end),
    v_endings #>> array[c.id::text, '1']))
  into v_changes
  from public.job_queue c
  where c.id = any (v_children) and c.hold = 'waiting'
    and (v_endings ? c.id::text or not exists (select from picture_queue.dependency d where d.child_id = c.id));
  v_changed_jobs := picture_queue._transition(v_changes, p_does_follow_ups);
  perform picture_queue._wake_workers(
    array(select distinct m.queue from unnest(v_changed_jobs) m where m.status = 'pending' and m.hold is null), 'enqueue');
  return cardinality(v_children);
end
$$;

-- Resolves new children whose parents finished while the children were enqueued: an enqueue does not lock parents, and
-- a transaction that finishes a parent before the enqueue commits does not see the child. The step checks a child
-- again, at growing intervals, until all transactions that were in progress at the first check have ended. Every later
-- transaction sees the child.
create function picture_queue._resolve_new_dependents(p_ids bigint[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_locked_ids bigint[];
  v_children text[];
  v_snapshot pg_snapshot := pg_catalog.pg_current_snapshot();
begin
  select array_agg(f.id), array_agg(f.subject::text) into v_locked_ids, v_children
  from (
    select f.id, f.subject from picture_queue.follow_up f
    where f.id = any (p_ids) and f.kind = 'child' order by f.id for update skip locked
  ) f;
  perform picture_queue._run_isolated('resolve', v_children, cardinality(v_children));
  delete from picture_queue.follow_up f
  where f.id = any (v_locked_ids) and (
    (f.data ->> 'before')::xid8 <= pg_catalog.pg_snapshot_xmin(v_snapshot) and not exists (
      -- If such a link is left, the child is locked, or its change failed.
      select from picture_queue.dependency d
      left join public.job_queue p on p.id = d.parent_id
      where d.child_id = f.subject and (p.id is null or p.finished_at is not null))
    or not exists (select from picture_queue.dependency d where d.child_id = f.subject));
  update picture_queue.follow_up f
  set data = jsonb_build_object('before', coalesce(f.data ->> 'before', pg_catalog.pg_snapshot_xmax(v_snapshot)::text),
      'checks', coalesce((f.data ->> 'checks')::integer, 0) + 1),
    due_at = picture_queue._now() + make_interval(secs => 0.1 * 2 ^ least(coalesce((f.data ->> 'checks')::integer, 0), 9))
  where f.id = any (v_locked_ids);
  return coalesce(cardinality(v_locked_ids), 0);
end
$$;

-- Adds the recorded changes to the counts of these batches, sets or clears their finished_at, and enqueues callbacks.
-- A batch that another transaction has locked, for example to add jobs to it, is skipped; many follow-ups of a locked
-- batch may accumulate, so they are merged into one.
create function picture_queue._count_batches(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_locked uuid[] := array(
    select b.id from picture_queue.batch b where b.id = any (p_ids) order by b.id for update skip locked);
  v_finished text[];
begin
  with taken as (
    delete from picture_queue.follow_up f
    where f.id = any (array(
      select o.id from picture_queue.follow_up o where o.subject = any (p_ids) and o.kind = 'batch' for update skip locked))
    returning f.subject, f.data
  ),
  sums as (
    select b.id, coalesce(sum((t.data ->> 'completed')::integer), 0) as completed,
      coalesce(sum((t.data ->> 'failed')::integer), 0) as failed,
      coalesce(sum((t.data ->> 'cancelled')::integer), 0) as cancelled
    from picture_queue.batch b
    left join taken t on t.subject = b.id
    where b.id = any (p_ids)
    group by b.id
  ),
  postponed as (
    insert into picture_queue.follow_up (kind, subject, data, due_at)
    select 'batch', s.id, jsonb_build_object('completed', s.completed, 'failed', s.failed, 'cancelled', s.cancelled),
      picture_queue._now() + interval '0.2 seconds'
    from sums s where s.id <> all (v_locked) and (s.completed, s.failed, s.cancelled) <> (0, 0, 0)
  ),
  counted as (
    update picture_queue.batch b set completed = b.completed + s.completed, failed = b.failed + s.failed,
      cancelled = b.cancelled + s.cancelled,
      finished_at = case when b.completed + s.completed + b.failed + s.failed + b.cancelled + s.cancelled = b.total
        then coalesce(b.finished_at, picture_queue._now()) end
    from sums s where b.id = any (v_locked) and b.id = s.id
    returning b.id, b.finished_at, b.callback, b.callback_job_id
  )
  select array_agg(c.id::text) into v_finished
  from counted c
  where c.finished_at is not null and c.callback is not null and c.callback_job_id is null;
  perform picture_queue._run_isolated('callback', v_finished, 20);
  return cardinality(p_ids);
end
$$;

-- Enqueues the callback of each of these finished batches once. If a callback is refused, the error is written to the
-- batch, and the callback is not tried again. In a session of a user (cancel_job), the session itself may cause any
-- error, for example by its max_stack_depth. So there the step fails instead, and maintenance tries it again.
create function picture_queue._enqueue_callbacks(p_ids uuid[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch picture_queue.batch;
  v_job jsonb;
  v_error text;
  v_detail text;
  v_enqueued integer := 0;
begin
  for v_batch in
    select b.* from picture_queue.batch b
    where b.id = any (p_ids) and b.finished_at is not null and b.callback is not null and b.callback_job_id is null
      and b.callback_error is null
    order by b.id limit p_limit for update skip locked
  loop
    v_job := null;
    v_error := null;
    begin
      v_job := picture_queue._enqueue(jsonb_build_array(v_batch.callback || jsonb_build_object('payload',
        coalesce(nullif(v_batch.callback -> 'payload', 'null'), '{}') || jsonb_build_object(
          'batch_id', v_batch.id, 'total', v_batch.total, 'completed', v_batch.completed,
          'failed', v_batch.failed, 'cancelled', v_batch.cancelled))), true) -> 0;
    exception when others then
      -- 54: a limit of the session or of the server, such as the stack depth
      if picture_queue._is_transient(sqlstate) or left(sqlstate, 2) = '54'
        or current_setting('picture_queue.is_worker', true) = 'false'
      then
        raise;
      end if;
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := left(concat_ws(': ', sqlerrm, nullif(v_detail, '')), 1000);
    end;
    update picture_queue.batch b
    set callback_job_id = (v_job ->> 'job_id')::uuid, callback_error = v_error
    where b.id = v_batch.id;
    v_enqueued := v_enqueued + 1;
  end loop;
  return v_enqueued;
end
$$;


-- 240_function__change_state.sql

-- Returns true if a generation has a prediction that may still run at the provider, so that a cancelled job must be
-- claimed once more: its handler cancels the prediction, and deletes files that have no row. The provider has stopped
-- an older prediction.
create function picture_queue._has_live_prediction(p_generation_id uuid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return exists (
    select from picture_queue.prediction p
    where p.generation_id = p_generation_id and p.state in ('creating', 'created')
      and p.created_at > picture_queue._now() - interval '1 hour');
end
$$;

-- Changes the state of jobs that the caller has chosen and locked. The kind is the reason: promote (they are due),
-- sweep (their lease expired), abandon (they were not started before expires_at), unblock (their key has capacity),
-- wake (their event was sent). A job whose lease expired keeps its count of attempts, so that a job that kills each of
-- its workers fails in the end. The attempt is not counted if the worker has not confirmed the start, in the row or in
-- lease_extension. After 20 unconfirmed claims in a row it is counted, since the job may kill its workers before they
-- confirm. A job whose worker died after a cancel request is claimed once more if it has a prediction in progress, and
-- again while attempts are left. Returns the number of changed jobs.
create function picture_queue._change_state(p_kind text, p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changed_jobs picture_queue.changed_job[];
begin
  v_changed_jobs := picture_queue._transition((
    select array_agg(row(
      j.id,
      case p_kind
        when 'promote' then case j.hold when 'parked' then 'wake' else 'promote' end
        when 'sweep' then case
          -- A job that was cancelled while parked is claimed once more to undo its work. If no worker confirmed the
          -- start of that claim, release the job, so that it is claimed again, rather than cancel it.
          when j.cancel_requested_at is not null and (j.cancel_requested_at < j.started_at and start.is_unconfirmed) is not true
            then case
              when not picture_queue._has_live_prediction(j.generation_id) then 'cancel'
              when j.cancel_requested_at >= j.started_at then 'release'
              when j.attempt < j.max_attempts then 'expire' else 'cancel' end
          when start.is_unconfirmed then 'release'
          when j.attempt >= j.max_attempts then 'fail' else 'expire' end
        else p_kind
      end,
      null,
      (select s.payload from picture_queue.external_event s where p_kind = 'wake' and s.name = j.parked_on),
      case p_kind
        when 'sweep' then 'The worker sent no heartbeat before its lease ended.'
        when 'abandon' then 'It was not started before it expired.'
      end,
      null, null, null, null, p_kind = 'sweep')::picture_queue.change)
    from public.job_queue j
    cross join lateral (
      select j.unconfirmed_claims between 1 and 20 and not exists (
        select from picture_queue.lease_extension x where x.job_id = j.id and x.lease_id = j.lease_id) as is_unconfirmed
      offset 0) start
    where j.id = any (p_ids)));
  perform picture_queue._wake_workers(
    array(select distinct m.queue from unnest(v_changed_jobs) m where m.status = 'pending' and m.hold is null), 'enqueue');
  return coalesce(cardinality(v_changed_jobs), 0);
end
$$;


-- 245_function__limit.sql

-- Limits are exact with any number of workers. Only claims start jobs: a claim locks the keys of its candidates, reads
-- in a later statement how many jobs run under these keys, and starts the jobs that fit (_admit). A claim sets jobs of
-- a key without capacity to blocked, so that later claims skip them and run other jobs. The table freed_key has the
-- keys to process, and the times: a transaction that ends a job appends the keys of the job; a transaction that blocks
-- a job appends the time at which its key may have capacity. In the next claim or in maintenance, _unblock_keys
-- subtracts the ended jobs from the counts, and unblocks jobs.

-- Returns all keys of a job to which limits may apply, whether or not they have a rule.
create function picture_queue._limit_keys(p_queue text, p_job_type text, p_user_id uuid, p_limit_keys text[])
returns text[]
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select array['global', 'queue:' || p_queue, 'type:' || p_job_type]
    || case when p_user_id is not null then array['user:' || p_user_id] end
    || p_limit_keys
$$;

-- Returns the state of each of these keys that has a limit or a pause: its own rule or the rule of its kind, the end
-- of its pause, how many of its jobs run (running), how many more may start now (capacity), and from when on more may
-- start (free_at; null: only when a job ends). If the caller holds the locks of the keys, the capacity is never too
-- large. It is too small while transactions that end jobs have not committed yet.
create function picture_queue._key_states(p_keys text[])
returns table (
  key text, max_running integer, rate integer, period_seconds real, paused_until timestamptz, running integer,
  capacity integer, free_at timestamptz)
language plpgsql stable rows 10 set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
#variable_conflict use_column
declare
  v_now timestamptz := picture_queue._now();
  -- Maintenance has already subtracted the older rows of freed_key, or subtracts them in its next round if they were
  -- committed late.
  v_since timestamptz := (select m.round_began_at - interval '10 seconds' from picture_queue.maintenance m);
begin
  return query
  select r.key, r.max_running, r.rate, r.period_seconds, r.paused_until, r.running,
    case when r.paused_until is not null or not r.counted then 0
      else least(r.max_running - r.running, r.rate - starts.n) end::integer,
    case when r.paused_until is not null then r.paused_until when not r.counted then v_now + interval '1 second'
      when starts.n >= r.rate then starts.first_at + make_interval(secs => r.period_seconds) end
  from (
    select asked.key, rule.max_running, rule.rate, rule.period_seconds, coalesce(rule.counted, true) as counted,
      state.paused_until, coalesce(state.running, 0) - coalesce((
        select sum(f.n)::integer from picture_queue.freed_key f where f.key = asked.key and f.at > v_since), 0) as running
    from unnest(p_keys) as asked (key)
    left join lateral (
      select l.* from picture_queue.limit_rule l
      where l.key = any (array[asked.key, split_part(asked.key, ':', 1) || ':*'])
      order by l.key <> asked.key limit 1) rule on true
    left join lateral (
      select case when l.paused_until > v_now then l.paused_until end as paused_until, l.running
      from picture_queue.limit_key l where l.key = asked.key order by l.version desc limit 1) state on true
    where rule.key is not null or state.paused_until is not null
  ) r
  cross join lateral (
    select count(*) as n, min(l.at) as first_at
    from (
      select o.at from picture_queue.start o
      where r.rate is not null and o.key = r.key and o.at > v_now - make_interval(secs => r.period_seconds)
      order by o.at desc limit r.rate
    ) l
  ) starts;
end
$$;

-- Locks keys until the transaction ends, and returns the locked keys. All callers take the locks in the same order,
-- and wait up to 50 milliseconds for each. If a wait times out, the function takes only the locks that are free. The
-- keys share 1,024 locks, so that no transaction takes more. Transactions on keys with the same lock may wait for each
-- other; this causes no error.
create function picture_queue._lock_keys(p_keys text[]) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '50ms'
as $$
declare
  v_keys text[] := p_keys;
begin
  begin
    perform pg_catalog.pg_advisory_xact_lock(1903326068, l.lock)
    from (select distinct pg_catalog.hashtext(k) & 1023 as lock from unnest(p_keys) k order by lock offset 0) l;
  exception when lock_not_available or deadlock_detected then
    v_keys := array(
      select k from unnest(p_keys) k
      where pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(k) & 1023));
  end;
  -- Leave out keys whose row a transaction outside of picture-queue has locked.
  return array(
    select k from unnest(v_keys) k
    where (select l.running from picture_queue.limit_key l where l.key = k order by l.version desc limit 1) is null
      or (select true from picture_queue.limit_key l where l.key = k order by l.version desc limit 1 for update skip locked));
end
$$;

-- Adds to the numbers of running jobs of locked keys, and inserts missing rows.
create function picture_queue._add_running(p_keys text[], p_counts integer[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_key text;
  v_count integer;
begin
  for v_key, v_count in select k, n from unnest(p_keys, p_counts) as c (k, n) loop
    -- Find the newest version of the row, and update it by ctid: while an old snapshot exists, the index has many dead
    -- versions.
    update picture_queue.limit_key l set running = greatest(l.running + v_count, 0), version = l.version + 1
    where l.ctid = (select o.ctid from picture_queue.limit_key o where o.key = v_key order by o.version desc limit 1);
    if not found then
      insert into picture_queue.limit_key (key, running) values (v_key, greatest(v_count, 0));
    end if;
  end loop;
end
$$;

-- Plans when _unblock_keys processes keys again, by rows of freed_key with a future time. A key without capacity gets
-- the time at which its pause or the period of its rate ends. A key that has capacity and blocked jobs is processed
-- again in one second, since one call does not unblock all jobs, and unblocked jobs may not be claimed yet. p_latest:
-- the latest time for each key. Without p_latest a key gets no row if an earlier time is planned, or if only the end
-- of a job can give it capacity.
create function picture_queue._plan_unblocking(p_keys text[], p_latest timestamptz default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_next_at timestamptz;
begin
  with planned as (
    insert into picture_queue.freed_key (key, n, at)
    select k.key, 0, l.at
    from unnest(p_keys) as k (key)
    left join picture_queue._key_states(p_keys) c on c.key = k.key
    cross join lateral (
      select least(p_latest, case when c.capacity <= 0 then c.free_at when (
        select true from public.job_queue j
        where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
      then v_now + interval '1 second' end) as at) l
    where l.at < 'infinity' and (p_latest is not null or not exists (
      select from picture_queue.freed_key f where f.key = k.key and f.at between v_now and l.at))
    returning at
  )
  select min(p.at) into v_next_at from planned p;
  perform picture_queue._wake_maintenance(v_next_at);
end
$$;

-- Subtracts the ended jobs of these keys, and unblocks jobs that wait for keys with capacity: of each pair of queue
-- and job type as many as may start, minus the jobs that were unblocked before and are not claimed yet. It counts each
-- pair separately, so that jobs of a paused queue, or of a type without a worker, do not hold back others. If it
-- unblocks too many in total, claims block them again. If a key blocks jobs of many pairs, the function examines the
-- first hundred pairs, and the hundred pairs that follow a random pair of some worker. It leaves locked keys to the
-- next call.
create function picture_queue._unblock_keys(p_keys text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  -- Take the locks without waiting; _lock_keys also leaves out keys whose row is locked.
  v_keys text[] := picture_queue._lock_keys(array(
    select k from unnest(p_keys) k
    where pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(k) & 1023)));
  v_freed record;
begin
  with freed as (
    delete from picture_queue.freed_key f
    where f.ctid = any (array(
      select o.ctid from picture_queue.freed_key o where o.key = any (v_keys) limit 10000 for update skip locked))
    returning f.key, f.n
  )
  select array_agg(s.key) as keys, array_agg(-s.n) as counts into v_freed
  from (select f.key, sum(f.n)::integer as n from freed f group by f.key) s where s.n <> 0;
  perform picture_queue._add_running(v_freed.keys, v_freed.counts);
  perform picture_queue._run_isolated('unblock', array(
    with recursive pair as (
      -- Find the pairs of queue and job type, each by one search in the index.
      select k.key, found.queue, found.job_type, 1 as n
      from unnest(v_keys) as k (key)
      cross join (
        values ('', '')
        union all
        (select w.queues[1 + floor(random() * cardinality(w.queues))],
            w.job_types[1 + floor(random() * cardinality(w.job_types))]
          from picture_queue.worker w where w.seen_at > v_now - interval '1 minute' order by random() limit 1)
      ) as first_pair (queue, job_type)
      cross join lateral (
        select j.queue, j.job_type from public.job_queue j
        where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked'
          and (j.queue, j.job_type) >= (first_pair.queue, first_pair.job_type)
        order by j.queue, j.job_type limit 1) found
      union all
      select p.key, found.queue, found.job_type, p.n + 1
      from pair p
      cross join lateral (
        select j.queue, j.job_type from public.job_queue j
        where j.status = 'pending' and j.blocked_on = p.key and j.hold = 'blocked'
          and (j.queue, j.job_type) > (p.queue, p.job_type)
        order by j.queue, j.job_type limit 1) found
      where p.n < 100
    )
    select chosen.id::text
    from (
      -- Unblock about a thousand jobs in total, for any number of pairs.
      select p.key, p.queue, p.job_type, greatest(least(c.capacity, 1 + 1000 / count(*) over ()), 0) as n
      from (select distinct o.key, o.queue, o.job_type from pair o) p
      left join picture_queue._key_states(v_keys) c on c.key = p.key
    ) share
    cross join lateral (
      select j.id from public.job_queue j
      where j.status = 'pending' and j.blocked_on = share.key and j.hold = 'blocked' and j.queue = share.queue
        and j.job_type = share.job_type and j.id::text not in (select picture_queue._failed_subjects('unblock'))
      order by j.rank, j.turn, j.seq
      limit greatest(0, share.n - (
        -- Unblocked jobs count for three seconds only: a job whose row is locked, or whose start fails, must not hold
        -- back others.
        select count(*) filter (where unblocked.updated_at > v_now - interval '3 seconds')
        from (
          select o.updated_at from public.job_queue o
          where o.status = 'pending' and o.blocked_on = share.key and o.hold is null
            and o.queue = share.queue and o.job_type = share.job_type
          order by o.blocked_on, o.hold, o.queue, o.job_type limit share.n) unblocked))
      for update skip locked
    ) chosen), 10000);
  perform picture_queue._plan_unblocking(v_keys);
  return cardinality(v_keys);
end
$$;

-- Unblocks jobs of up to a hundred keys that have blocked jobs, and a recent row in freed_key whose time has come.
create function picture_queue._unblock_freed_keys() returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  perform picture_queue._run_isolated('key', array(
    select k.key
    from (
      select distinct f.key from picture_queue.freed_key f
      where f.at > (select m.round_began_at - interval '10 seconds' from picture_queue.maintenance m) and f.at <= v_now
    ) k
    -- With the limit, Postgres searches the index for each key, rather than join the keys with all blocked jobs.
    where (
      select true from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked' limit 1)
      and k.key not in (select picture_queue._failed_subjects('key'))
    limit 100), 100);
end
$$;

-- Returns the running jobs that are not counted yet under keys of these rules, with these keys. Such a job started
-- before the rule existed, or in a claim that did not see the rule yet.
create function picture_queue._uncounted_jobs(p_rules text[]) returns table (job_id uuid, keys text[])
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  select j.id, array_agg(distinct k)
  from public.job_queue j
  cross join lateral unnest(picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys)) k
  where j.status = 'processing' and j.hold is null and k <> all (coalesce(j.slots, '{}'))
    and (k = any (p_rules) or split_part(k, ':', 1) || ':*' = any (p_rules))
  group by j.id
$$;

-- Counts, under their keys, up to p_limit of the jobs that _uncounted_jobs returns. Until all are counted, no job
-- starts under the rule. A locked job delays the jobs of its key for at most ten seconds; after that, the key may have
-- one more job than the limit. For ten seconds after the rule was set, the jobs are searched repeatedly, since claims
-- that do not see the rule may be in progress.
create function picture_queue._count_running(p_rules text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_locked text[] := picture_queue._lock_keys(array(select distinct unnest(u.keys) from picture_queue._uncounted_jobs(p_rules) u));
  v_keys text[];
  v_counts integer[];
  v_newly_counted integer;
begin
  with uncounted as (
    select j.id, array(select k from unnest(u.keys) k where k = any (v_locked)) as keys
    from picture_queue._uncounted_jobs(p_rules) u
    join public.job_queue j on j.id = u.job_id
    -- Check again under the lock of the job: it may have ended or been counted in the meantime.
    where u.keys && v_locked and j.status = 'processing' and j.hold is null and not coalesce(j.slots, '{}') && u.keys
    order by j.id limit p_limit for update of j skip locked
  ),
  counted as (
    update public.job_queue j set slots = coalesce(j.slots, '{}') || u.keys
    from uncounted u where j.id = u.id returning u.keys
  )
  select array_agg(s.key), array_agg(s.n), (select count(*) from counted) into v_keys, v_counts, v_newly_counted
  from (select k, count(*)::integer from counted c cross join lateral unnest(c.keys) k group by k) s (key, n);
  perform picture_queue._add_running(v_keys, v_counts);
  update picture_queue.limit_rule r
  set counted = r.counted or not l.has_uncounted or v_newly_counted = 0 and not l.is_new,
    count_at = case when v_newly_counted > 0 then v_now when l.has_uncounted or l.is_new then v_now + interval '1 second' end
  from (
    select o.key, v_now < o.created_at + interval '10 seconds' as is_new,
      exists (select from picture_queue._uncounted_jobs(array[o.key])) as has_uncounted
    from picture_queue.limit_rule o where o.key = any (p_rules) for update skip locked
  ) l
  where r.key = l.key;
  return v_newly_counted;
end
$$;


-- 246_function__admit.sql

-- Returns the jobs of this list that may start, p_max_jobs at most, with their limited keys. The caller has locked the
-- jobs, and must start the returned jobs, since they are counted as running. Each limited key numbers its jobs in the
-- order of the list; a job may start if its number under each of its keys is within the capacity of the key. A job
-- with a key that has no capacity at all is blocked. Other jobs that may not start stay claimable: jobs before them
-- take the capacity, or another transaction has locked one of their keys. If a claim has picked 5,000 candidates,
-- which is the maximum, a locked key counts as full, and its jobs are blocked: otherwise the next claim would pick the
-- same jobs, and never those behind them. Keys stay locked until the transaction ends.
create function picture_queue._admit(p_candidates picture_queue.candidate[], p_max_jobs integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_limited text[];
  v_locked text[];
  v_capacity jsonb;  -- for each key that this transaction has locked; no job of a key without an entry starts
  v_rate_keys text[];  -- keys that have a rate
  v_starting picture_queue.candidate[];
  v_blocked picture_queue.candidate[];
  v_keys text[];
  v_counts integer[];
begin
  v_limited := array(
    select k.key from (select distinct unnest(c.keys) from unnest(p_candidates) c) as k (key)
    where k.key in (select r.key from picture_queue.limit_rule r)
      or split_part(k.key, ':', 1) || ':*' in (select r.key from picture_queue.limit_rule r)
      or k.key in (select l.key from picture_queue.limit_key l where l.paused_until > v_now));
  if v_limited = '{}' then
    return array(select row(c.id, null, null)::picture_queue.candidate from unnest(p_candidates[:p_max_jobs]) c);
  end if;
  v_locked := picture_queue._lock_keys(v_limited);
  select coalesce(jsonb_object_agg(l.key, l.capacity), '{}'), array_agg(l.key) filter (where l.rate is not null)
  into v_capacity, v_rate_keys
  from picture_queue._key_states(v_locked) l;
  with place as (
    select c.n, c.id, k.key,
      coalesce((v_capacity ->> k.key)::integer, case when cardinality(p_candidates) = 5000 then 0 end) as capacity,
      row_number() over (partition by k.key order by c.n) as place
    from unnest(p_candidates) with ordinality as c (id, keys, blocked_on, n)
    -- A key that a job names twice takes one slot.
    left join lateral (select distinct u.key from unnest(c.keys) as u (key) where u.key = any (v_limited)) k on true
  ),
  decided as (
    select p.n, row(p.id, array_agg(p.key) filter (where p.key is not null),
        min(p.key) filter (where p.capacity <= 0))::picture_queue.candidate as candidate,
      bool_and(p.key is null or coalesce(p.place <= p.capacity, false)) as fits
    from place p group by p.n, p.id
  )
  select (array_agg(d.candidate order by d.n) filter (where d.fits))[:p_max_jobs],
    array_agg(d.candidate) filter (where (d.candidate).blocked_on is not null)
  into v_starting, v_blocked
  from decided d;
  select array_agg(s.key), array_agg(s.n) into v_keys, v_counts
  from (select k, count(*)::integer from unnest(v_starting) c cross join lateral unnest(c.keys) k group by k) s (key, n);
  perform picture_queue._add_running(v_keys, v_counts);
  if v_rate_keys is not null then
    insert into picture_queue.start (key, at)
    select c.key, v_now from unnest(v_keys, v_counts) as c (key, n) cross join generate_series(1, c.n) where c.key = any (v_rate_keys);
  end if;
  if v_blocked is not null then
    -- Such a job may have been unblocked for another key, whose slot it does not take now. So process that key again.
    insert into picture_queue.freed_key (key, n)
    select distinct j.blocked_on, 0 from unnest(v_blocked) b join public.job_queue j on j.id = b.id
    where j.blocked_on <> b.blocked_on;
    perform picture_queue._transition((
      select array_agg(picture_queue._change(b.id, 'block', null, null, b.blocked_on)) from unnest(v_blocked) b));
    -- A concurrent transaction that changes the rule may not see that these jobs are blocked. So process the keys
    -- again when this transaction has committed.
    perform picture_queue._plan_unblocking(
      array(select distinct b.blocked_on from unnest(v_blocked) b), v_now + interval '1 second');
  end if;
  return v_starting;
end
$$;


-- 247_function__check_fields.sql

-- The validators of JSON values and of the fields of objects.

-- Returns the problem with a JSON value of a caller, apart from its type; null if there is none. Every client must be
-- able to read the value: Python refuses integers of over 4,300 digits and about 1,000 levels of nesting, and
-- JavaScript reads a number beyond 1e308 as Infinity.
create function picture_queue._json_problem(p_value jsonb, p_max_bytes integer) returns text
language plpgsql immutable strict set search_path = pg_catalog, pg_temp
as $$
declare
  v_text bytea := convert_to(p_value::text, 'UTF8');
  v_bytes integer := length(v_text);
begin
  if v_bytes > p_max_bytes then
    return format('has %s bytes, the limit is %s', v_bytes, p_max_bytes);
  elsif v_bytes > 200 and jsonb_path_exists(p_value, 'strict $.**{101}') then
    return 'is nested deeper than 100 levels';
  end if;
  -- A number beyond 1e308 has over 300 digits, so one of them is at a multiple of 300 bytes. Examining only these
  -- bytes takes a tenth of the time of reading all numbers.
  for i in 1..v_bytes / 300 loop
    if get_byte(v_text, i * 300 - 1) between 48 and 57 then
      return 'has a number beyond 1e308: ' || left(jsonb_path_query_first(p_value,
        'strict $.** ? (@ > 1e308 || @ < -1e308)')::text, 20) || '...';
    end if;
  end loop;
  return null;
end
$$;

-- Returns the problem with a value under a rule; null if the value fits. A rule is a list: a kind and its bounds.
-- number, integer: minimum, maximum; text: maximum and minimum (default 1) length; name: maximum length, the
-- characters allowed besides letters and digits; list: maximum number and length of entries; uuids: maximum number;
-- choice: the values; object: maximum bytes (optional). Without bounds: uuid, time (from 1970 to 9998), moment (any
-- time), boolean.
create function picture_queue._value_problem(p_value jsonb, p_rule jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_kind text := p_rule ->> 0;
  v_type text := jsonb_typeof(p_value);
  v_text text := p_value #>> '{}';
  v_shown text := left(p_value::text, 100);
  v_fits boolean;
begin
  -- One statement for each kind: in a single statement the planner would try the casts of other kinds.
  case v_kind
    when 'number' then
      -- A number closer to zero than a real can hold has a text of more than 40 characters.
      return case when v_type <> 'number' or length(v_text) > 40
          or v_text::numeric not between (p_rule ->> 1)::numeric and (p_rule ->> 2)::numeric
        then format('is %s, not %s to %s', v_shown, p_rule ->> 1, p_rule ->> 2) end;
    when 'integer', 'uuid', 'time', 'moment' then
      -- The parser of times ignores punctuation, so it would accept the text of a JSON list.
      if v_kind in ('time', 'moment') and v_type <> 'string' then
        return format('is %s, not text', v_shown);
      end if;
      begin
        v_fits := case v_kind
          when 'integer' then v_text::bigint between (p_rule ->> 1)::bigint and (p_rule ->> 2)::bigint
          when 'uuid' then v_text::uuid is not null
          when 'time' then v_text::timestamptz between '1970-01-01' and '9999-01-01'
          else v_text::timestamptz is not null end;
      exception when data_exception then
        v_fits := false;  -- only a cast can validate the text
      end;
      return case when not v_fits then case v_kind
        when 'integer' then format('is %s, not %s to %s', left(v_text, 100), p_rule ->> 1, p_rule ->> 2)
        when 'uuid' then format('is %s, which is not a uuid', v_shown)
        else format('is %s', left(v_text, 100)) end end;
    when 'name' then
      return case when length(v_text) > (p_rule ->> 1)::integer
          or v_text !~ format('^[A-Za-z0-9][A-Za-z0-9%s]*$', p_rule ->> 2) then format('is %s', v_shown) end;
    when 'choice' then
      return case when v_type <> 'string' or not p_rule - 0 ? v_text then format('is %s, not %s or %s', v_shown,
        array_to_string(array(select jsonb_array_elements_text(p_rule - 0 - -1)), ', '), p_rule ->> -1) end;
    when 'text' then
      return case when v_type <> 'string' then format('is %s, not text', v_shown)
        when length(v_text) not between coalesce((p_rule ->> 2)::integer, 1) and (p_rule ->> 1)::integer
          then format('has %s characters, not %s to %s', length(v_text), coalesce(p_rule ->> 2, '1'), p_rule ->> 1) end;
    when 'list' then
      return case when v_type <> 'array' then format('is %s, not a list', v_shown)
        when jsonb_array_length(p_value) > (p_rule ->> 1)::integer
          then format('has %s entries, at most %s are possible', jsonb_array_length(p_value), p_rule ->> 1)
        else (
          select format('has the entry %s, which %s', left(e::text, 100), problem)
          from jsonb_array_elements(p_value) e
          cross join picture_queue._value_problem(e, jsonb_build_array('text', p_rule -> 2)) problem
          where problem is not null limit 1) end;
    when 'uuids' then
      return coalesce(picture_queue._value_problem(p_value, jsonb_build_array('list', p_rule -> 1, 38)), (
        select format('has %s, which is not a uuid', e) from jsonb_array_elements(p_value) e
        where picture_queue._value_problem(e, '["uuid"]') is not null limit 1));
    when 'boolean' then
      return case when v_type <> 'boolean' then format('is %s, not true or false', v_shown) end;
    else
      return case when v_type <> 'object' then format('is of type %s, not an object', v_type)
        when octet_length(p_value::text) > (p_rule ->> 1)::integer
          then format('has %s bytes, not up to %s', octet_length(p_value::text), p_rule ->> 1) end;
  end case;
end
$$;

-- Returns the problem with the fields of an object; null if there is none. p_rules has a rule for each known field. A
-- JSON null stands for the default of a field.
create function picture_queue._fields_problem(p_path text, p_object jsonb, p_rules jsonb) returns text
language plpgsql stable strict set search_path = pg_catalog, pg_temp
as $$
declare
  v_field record;
  v_problem text;
begin
  if jsonb_typeof(p_object) <> 'object' then
    return format('%s is not an object', coalesce(nullif(rtrim(p_path, '.'), ''), 'changes'));
  end if;
  for v_field in select e.key, e.value, p_rules -> e.key as rule from jsonb_each(p_object) e loop
    v_problem := case when v_field.rule is null then 'is not known'
      when v_field.value <> 'null' then picture_queue._value_problem(v_field.value, v_field.rule) end;
    if v_problem is not null then
      return format('%s%s %s', p_path, left(v_field.key, 100), v_problem);
    end if;
  end loop;
  return null;
end
$$;

-- Refuses an object with an unknown field, or a value that does not fit its rule. It reads no table, so users may
-- execute it. The default rules are for filters of lists that are sorted by name. limit: the rows of a page, 10,000 at
-- most and by default; after: the last name of the previous page.
create function picture_queue._check_fields(
  p_path text, p_object jsonb, p_rules jsonb default '{"limit": ["integer", 1, 10000], "after": ["text", 200]}')
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text := picture_queue._fields_problem(p_path, p_object, p_rules);
begin
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', v_problem,
      'known fields are ' || (select string_agg(k, ', ') from jsonb_object_keys(p_rules) k));
  end if;
end
$$;


-- 248_function__check_jobs.sql

-- The validator of jobs and of the policies of job types. A job that it has accepted can be stored, and enqueued
-- later.

-- Returns the problem with the options of a job; null if there is none. It refuses a name in unique.by that is not a
-- key of the payload, such as a misspelt key, by which different jobs would be equal.
create function picture_queue._options_problem(p_options jsonb, p_payload jsonb, p_max_bytes integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_unique jsonb := p_options -> 'unique';
  v_by jsonb := nullif(v_unique -> 'by', 'null');
  v_states jsonb := nullif(v_unique -> 'states', 'null');
  v_payload jsonb := case jsonb_typeof(p_payload) when 'object' then p_payload else '{}' end;
  v_problem text := coalesce(
    picture_queue._fields_problem('options.', p_options, '{
      "delay_seconds": ["number", 0, 315360000],
      "timeout_seconds": ["number", 0.001, 31536000],
      "expires_at": ["time"],
      "expires_in_seconds": ["number", 0.001, 315360000],
      "backoff": ["object"],
      "tags": ["list", 20, 64],
      "metadata": ["object"],
      "tenant": ["text", 200],
      "limit_keys": ["list", 8, 200],
      "depends_on": ["uuids", 1000],
      "on_parent_failure": ["choice", "cancel", "fail", "run"],
      "batch_id": ["uuid"],
      "unique": ["object"]
    }'),
    picture_queue._fields_problem('options.backoff.', nullif(p_options -> 'backoff', 'null'), '{
      "policy": ["choice", "constant", "linear", "exponential"],
      "base_seconds": ["number", 0.001, 31536000],
      "cap_seconds": ["number", 0.001, 31536000],
      "jitter": ["number", 0, 1]
    }'),
    picture_queue._fields_problem('options.unique.', nullif(v_unique, 'null'), '{
      "by": ["list", 100, 1000],
      "period_seconds": ["number", 1, 31536000],
      "states": ["list", 5, 20],
      "on_conflict": ["choice", "ignore", "replace", "debounce"]
    }'),
    'options.metadata ' || picture_queue._json_problem(p_options -> 'metadata', p_max_bytes));
begin
  if v_problem is not null or not p_options ? 'unique' then
    return v_problem;
  end if;
  return case
    when v_by = '[]' then 'options.unique.by is []: name keys of the payload, or leave it out to compare all of it'
    when not v_payload ?& array(select jsonb_array_elements_text(v_by)) then (
      select format('options.unique.by has %s, which is not a key of the payload: name top-level keys%s',
        to_jsonb(left(k.name, 100)), case when v_payload ? k.top then format(', such as "%s"', left(k.top, 100)) end)
      from (select b.name, split_part(b.name, '.', 1) from jsonb_array_elements_text(v_by) as b (name)) as k (name, top)
      where not v_payload ? k.name limit 1)
    when not (v_states ? 'pending' and v_states <@ '["pending", "processing", "completed", "failed", "cancelled"]')
      then format('options.unique.states is %s: states are pending (always), processing, completed, failed, cancelled',
        v_states)
    -- A job that is not unique while it runs cannot be unique again afterwards, since an equal job may have been
    -- enqueued.
    when not v_states ? 'processing' and v_states ?| '{completed,failed,cancelled}'
      then format('options.unique.states is %s: to include a finished state, include processing', v_states)
  end;
end
$$;

-- Returns the jobs that a caller describes as JSON, with types and defaults. Refuses the first invalid job with an
-- error that names its position, the field and the value. p_name: the argument that describes the job (null: jobs).
-- p_first: the position of the first job in the call, if p_jobs is a part of the call.
create function picture_queue._check_jobs(
  p_jobs jsonb, p_name text default null, p_first integer default null,
  out jobs picture_queue.new_job[], out is_plain boolean, out is_keyed boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := case when jsonb_typeof(p_jobs) = 'array' then jsonb_array_length(p_jobs) end;
  v_bad integer;
  v_error text;
  v_job jsonb;
  v_limit integer;
begin
  if v_count is null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'jobs is not a list', 'pass a JSON array of objects');
  elsif v_count > 100000 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('jobs has %s entries, at most 100000 are possible', v_count), 'enqueue them with several calls');
  end if;
  begin
    select n.jobs, n.is_plain, n.is_keyed, n.bad into jobs, is_plain, is_keyed, v_bad from picture_queue._read_jobs(p_jobs) n;
    if v_bad is null then
      return;
    end if;
  exception when data_exception or program_limit_exceeded then  -- program_limit_exceeded: such as an array in an array
    v_error := sqlerrm;
    v_bad := 1;
  end;
  if v_error is not null and v_count > 1 then
    -- A value has the wrong type, but the error does not name the job: check each half.
    for v_half in 0..1 loop
      perform picture_queue._check_jobs(
        jsonb_path_query_array(p_jobs, '$[$from to $to]', jsonb_build_object(
          'from', v_half * (v_count / 2), 'to', case v_half when 0 then v_count / 2 else v_count end - 1)),
        p_name, coalesce(p_first, 0) + v_half * (v_count / 2));
    end loop;
  end if;
  v_job := p_jobs -> v_bad - 1;
  v_limit := (select s.max_payload_bytes from picture_queue.setting s);
  perform picture_queue._raise_problem(
    coalesce(p_name || ': ', case when v_count > 1 or p_first is not null
      then format('jobs[%s]: ', coalesce(p_first, 0) + v_bad - 1) end, '')
    || coalesce(
      case when jsonb_typeof(v_job) <> 'object' then 'a job must be an object'
        when not v_job ? 'job_type' then 'job_type is missing'
        when v_job -> 'job_type' = 'null' then 'job_type is null' end,
      picture_queue._fields_problem('', v_job, '{
        "job_type": ["name", 128, "_.:-"],
        "payload": ["object"],
        "priority": ["integer", -1000000000, 1000000000],
        "queue": ["name", 63, "_.-"],
        "scheduled_for": ["time"],
        "max_attempts": ["integer", 1, 1000],
        "user_id": ["uuid"],
        "idempotency_key": ["text", 255],
        "job_id": ["uuid"],
        "generation_id": ["uuid"],
        "options": ["object"]
      }'),
      picture_queue._options_problem(nullif(v_job -> 'options', 'null'), v_job -> 'payload', v_limit),
      'payload ' || picture_queue._json_problem(v_job -> 'payload', v_limit),
      case when v_job ->> 'scheduled_for' is not null and v_job #>> '{options,delay_seconds}' is not null
        then 'scheduled_for and options.delay_seconds are both given' end,
      (select format('the policy of job type %s names queue %s: name the queue of the job, or register the type again',
          t.name, to_jsonb(t.queue))
        from picture_queue.job_type t where t.name = v_job ->> 'job_type' and v_job ->> 'queue' is null and t.queue is not null),
      v_error, 'a value is not acceptable'));
end
$$;

-- Returns the jobs that a caller describes as JSON, with types and defaults. A job of a first-in, first-out queue gets
-- its rank and turn here, other jobs in _assign_order. is_plain: all jobs have a rank, and none has parents or a
-- batch. is_keyed: some have an id, an idempotency key or uniqueness from the caller. bad: the position of the first
-- invalid job. Only nested loops are allowed, since other joins would change the order of the call. For speed, fields
-- are read by `->>`, not by jsonb_to_recordset, and no regular expression has a count such as {0,127}.
create function picture_queue._read_jobs(
  p_jobs jsonb, out jobs picture_queue.new_job[], out is_plain boolean, out is_keyed boolean, out bad integer)
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_hashjoin = off set enable_mergejoin = off set enable_memoize = off
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_max_attempts integer;
  v_max_bytes integer;
  -- Most calls have jobs of one type, whose name is checked once.
  v_type text := substring(p_jobs #>> '{0,job_type}' from '^[A-Za-z0-9][A-Za-z0-9_.:-]*$');
begin
  select s.max_attempts, s.max_payload_bytes into v_max_attempts, v_max_bytes from picture_queue.setting s;
  -- e: the fields from the caller; t: the job type; q: the queue; o: the options; r: derived values.
  select array_agg(row(
      e.i, coalesce(e.job_id, gen_random_uuid()), e.job_type, coalesce(e.queue, t.queue, 'default'),
      coalesce(e.payload, '{}'), coalesce(e.priority, 0), r.run_at,
      coalesce(e.max_attempts, t.max_attempts, q.max_attempts, v_max_attempts), e.user_id, e.generation_id,
      e.idempotency_key, o.timeout_seconds, nullif(o.backoff, 'null'),
      coalesce(o.expires_at, v_now + make_interval(secs => o.expires_in_seconds)), o.tags,
      coalesce(nullif(o.metadata, 'null'), '{}'), o.limit_keys, o.batch_id, o.depends_on,
      coalesce(o.on_parent_failure, 'cancel'),
      case when o.states is not null then picture_queue._unique_key(e.job_type, e.user_id, e.payload, o.by) end,
      o.states, v_now + make_interval(secs => o.period_seconds), coalesce(o.on_conflict, 'ignore'),
      case when r.run_at > v_now then 'scheduled' end, o.tenant,
      case when r.has_rank then -coalesce(e.priority, 0) end, date_part('epoch', greatest(r.run_at, v_now))
    )::picture_queue.new_job),
    bool_and(r.has_rank and num_nulls(o.depends_on, o.batch_id) = 2),
    bool_or(num_nonnulls(e.job_id, e.idempotency_key, o.states) > 0),
    min(e.i) filter (where not coalesce(
      e.item - '{job_type,payload,priority,queue,scheduled_for,max_attempts,user_id,idempotency_key,job_id,
        generation_id,options}'::text[] = '{}'
      and (t.name is not null or length(e.job_type) <= 128
        and (e.job_type = v_type or e.job_type ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$'))
      and (q.name is not null
        or coalesce(e.queue, t.queue) ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' and length(coalesce(e.queue, t.queue)) <= 63)
      and (e.payload is null or jsonb_typeof(e.payload) = 'object'
        and (octet_length(e.payload::text) <= least(v_max_bytes, 200)
          or picture_queue._json_problem(e.payload, v_max_bytes) is null))
      and (num_nonnulls(e.priority, e.max_attempts, e.scheduled_for, e.idempotency_key, e.options) = 0
        or coalesce(e.priority between -1000000000 and 1000000000, true)
        and coalesce(e.max_attempts between 1 and 1000, true)
        and coalesce(e.scheduled_for between '1970-01-01' and '9999-01-01', true)
        and coalesce(jsonb_typeof(e.item -> 'scheduled_for') in ('string', 'null'), true)
        and (e.idempotency_key is null
          or length(e.idempotency_key) between 1 and 255 and jsonb_typeof(e.item -> 'idempotency_key') = 'string')
        and (o.delay_seconds is null or e.scheduled_for is null)
        and (coalesce(e.options in ('{}', 'null'), true)
          or picture_queue._options_problem(e.options, e.payload, v_max_bytes) is null)),
      false))
  into jobs, is_plain, is_keyed, bad
  from (
    select a.i, a.item, (a.item ->> 'job_id')::uuid as job_id, a.item ->> 'job_type' as job_type,
      a.item ->> 'queue' as queue, nullif(a.item -> 'payload', 'null') as payload,
      (a.item ->> 'priority')::integer as priority, (a.item ->> 'scheduled_for')::timestamptz as scheduled_for,
      (a.item ->> 'max_attempts')::integer as max_attempts, (a.item ->> 'user_id')::uuid as user_id,
      (a.item ->> 'generation_id')::uuid as generation_id, a.item ->> 'idempotency_key' as idempotency_key,
      a.item -> 'options' as options
    from jsonb_array_elements(p_jobs) with ordinality as a (item, i)
    offset 0
  ) e
  left join picture_queue.job_type t on t.name = e.job_type
  left join picture_queue.queue q on q.name = coalesce(e.queue, t.queue, 'default')
  -- With `offset 0` the options are read only for jobs that have some.
  left join lateral (
    select r.*, u.*
    from (select e.options as value where e.options not in ('{}', 'null') offset 0) g
    cross join lateral jsonb_to_record(g.value) as r (delay_seconds real, timeout_seconds real,
      expires_at timestamptz, expires_in_seconds real, backoff jsonb, tags text[], metadata jsonb, tenant text,
      limit_keys text[], depends_on uuid[], on_parent_failure text, batch_id uuid, "unique" jsonb)
    left join lateral (
      select k.by, k.period_seconds, coalesce(k.states, '{pending,processing}') as states, k.on_conflict
      from (select r."unique" as value where r."unique" <> 'null' offset 0) h
      cross join lateral jsonb_to_record(h.value)
        as k (by text[], period_seconds real, states text[], on_conflict text)) u on true) o on true
  cross join lateral (
    select coalesce(e.scheduled_for, v_now + make_interval(secs => o.delay_seconds)) as run_at,
      coalesce(q.aging_seconds is null and not (q.fair_share or q.draining), false) as has_rank) r;
end
$$;


-- 250_function__enqueue.sql

-- Returns only the first of the jobs that share an id or a key. The next round of _enqueue treats the others as
-- duplicates of the first.
create function picture_queue._first_of_duplicates(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select f.n
    from (
      select n, n.i, row_number() over (partition by n.job_id order by n.i) as nth_id,
        row_number() over (
          partition by n.idempotency_key, n.job_type, n.user_id, case when n.idempotency_key is null then n.i end
          order by n.i) as nth_key,
        row_number() over (partition by coalesce(n.unique_key, n.i::text) order by n.i) as nth_unique
      from unnest(p_jobs) n
    ) f
    where greatest(f.nth_id, f.nth_key, f.nth_unique) = 1 order by f.i);
end
$$;

-- Enqueues jobs, all or none. Returns the id and the outcome of each, in the order of the call: created; existing (a
-- job with the same id, idempotency key or unique key exists); replaced or debounced. For a single job it sends an
-- event; for many it only wakes the workers of their queues. p_is_callback: the jobs are callbacks of batches. A
-- draining queue accepts them, and an unknown queue is created for them, whatever the setting unknown_queue.
create function picture_queue._enqueue(p_jobs jsonb, p_is_callback boolean default false) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_jobs picture_queue.new_job[];
  v_remaining picture_queue.new_job[];  -- jobs that are neither inserted nor found yet
  v_to_insert picture_queue.new_job[];  -- jobs to insert in this round; usually all remaining jobs
  v_is_plain boolean;  -- _read_jobs describes this and the next variable
  v_is_keyed boolean;
  v_existing jsonb := '{}'::jsonb;  -- by position in the call: id and outcome of the existing job
  v_has_duplicates boolean;
  v_remaining_before integer;
  v_failures integer := 0;
  v_table text;
  v_index text;
begin
  select c.jobs, c.is_plain, c.is_keyed into v_jobs, v_is_plain, v_is_keyed from picture_queue._check_jobs(p_jobs) c;
  if v_jobs is null then
    return '[]'::jsonb;
  elsif not v_is_plain then
    -- A repeated call returns its jobs, whatever the state of their queue, their parents and their batch.
    if v_is_keyed then
      v_existing := picture_queue._find_existing(v_jobs);
    end if;
    v_jobs := picture_queue._prepare_jobs(v_jobs, v_existing, p_is_callback);
  end if;
  v_remaining := case when v_existing = '{}' then v_jobs
    else array(select n from unnest(v_jobs) n where not v_existing ? n.i::text) end;
  if not v_is_keyed then
    -- No existing job can conflict, so do not use a subtransaction: a trigger of the project may enqueue 100,000 jobs
    -- one by one, and each subtransaction takes a transaction id.
    perform picture_queue._insert_jobs(v_remaining);
    v_remaining := '{}';
  end if;
  v_to_insert := v_remaining;
  v_has_duplicates := cardinality(v_remaining) > 1 and picture_queue._any_exist(v_remaining);
  while v_remaining <> '{}' loop
    if v_has_duplicates then
      -- The existing job may lose the unique key before it is read here. Then try to insert the new job again.
      v_remaining_before := cardinality(v_remaining);
      v_existing := v_existing || picture_queue._resolve_duplicates(v_remaining);
      v_remaining := array(select n from unnest(v_remaining) n where not v_existing ? n.i::text);
      v_failures := case when cardinality(v_remaining) < v_remaining_before then 0 else v_failures + 1 end;
      if v_failures > 5 then
        perform picture_queue._check_isolation();  -- a fixed snapshot never shows the duplicate
        perform picture_queue._raise_busy('other transactions create and end jobs with the same id or key');
      end if;
      v_to_insert := picture_queue._first_of_duplicates(v_remaining);
    end if;
    begin  -- not `on conflict`, which would make each enqueue a tenth slower
      perform picture_queue._insert_jobs(v_to_insert);
      v_remaining := array(select n from unnest(v_remaining) n where n.i not in (select o.i from unnest(v_to_insert) o));
      v_failures := 0;
    exception when unique_violation then
      get stacked diagnostics v_table = table_name, v_index = constraint_name;
      if v_table <> 'job_queue' or v_index not in ('job_queue_pkey', 'job_queue_idempotency', 'job_queue_unique') then
        raise;  -- a trigger or an index of the project caused it
      end if;
    end;
    v_has_duplicates := true;
  end loop;
  if cardinality(v_jobs) = 1 and v_existing = '{}' then
    perform picture_queue._emit(array[v_jobs[1].job_id]);
  end if;
  if not v_is_plain then
    update picture_queue.batch b set total = b.total + c.n
    from (
      select n.batch_id, count(*) as n from unnest(v_jobs) n
      where n.batch_id is not null and not v_existing ? n.i::text group by n.batch_id
    ) c
    where b.id = c.batch_id;
    if exists (select from unnest(v_jobs) n where n.hold = 'waiting' and not v_existing ? n.i::text) then
      perform picture_queue._link_parents(v_jobs, v_existing);
    end if;
  end if;
  if v_existing = '{}' then
    -- A conversion of rows takes half the time of jsonb_build_object.
    return to_jsonb(array(select m from (select n.job_id, 'created' as outcome from unnest(v_jobs) n) m));
  end if;
  return (
    select jsonb_agg(coalesce(v_existing -> n.i::text, jsonb_build_object('job_id', n.job_id, 'outcome', 'created')))
    from unnest(v_jobs) n);
end
$$;

-- Checks the queues, parents and batches of new jobs, creates missing queues, and gives each job its place in the
-- order of claims. Returns the jobs with rank, turn and hold. Jobs that exist already (p_existing) are not checked.
create function picture_queue._prepare_jobs(p_jobs picture_queue.new_job[], p_existing jsonb, p_is_callback boolean)
returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_new_jobs picture_queue.new_job[] := array(select n from unnest(p_jobs) n where not p_existing ? n.i::text);
  v_jobs picture_queue.new_job[] := array(
    select case when p_existing ? n.i::text then jsonb_populate_record(n, '{"depends_on": null, "batch_id": null}')
      else n end
    from unnest(p_jobs) n);
  v_queue_names text[] := array(select distinct n.queue from unnest(v_new_jobs) n order by n.queue);
  v_draining text := (select min(q.name) from picture_queue.queue q where q.name = any (v_queue_names) and q.draining);
  v_unknown text[] := array(
    select n from unnest(v_queue_names) n where not exists (select from picture_queue.queue q where q.name = n));
  v_batches uuid[] := array(select distinct n.batch_id from unnest(v_new_jobs) n where n.batch_id is not null);
  v_refused_batch record;
begin
  if v_draining is not null and not p_is_callback then
    perform picture_queue._raise_error('PQ_QUEUE_DRAINING', format('queue is %s', v_draining),
      'resume_queue() ends draining');
  elsif v_unknown <> '{}' and not p_is_callback and (select s.unknown_queue = 'refuse' from picture_queue.setting s) then
    perform picture_queue._raise_error('PQ_UNKNOWN_QUEUE', format('queue is %s', v_unknown[1]),
      'set_queue() creates a queue; list_queues() shows the existing queues');
  elsif v_unknown <> '{}' then
    begin
      insert into picture_queue.queue (name) select n from unnest(v_unknown) n on conflict do nothing;
    exception when lock_not_available or deadlock_detected or serialization_failure then
      perform picture_queue._translate_error(sqlstate, sqlerrm, 'another transaction is creating the same queue');
    end;
  end if;
  v_jobs := picture_queue._assign_order(picture_queue._check_parents(v_jobs));
  -- Lock the batches until the transaction ends. A finished batch accepts no jobs.
  if v_batches <> '{}' then
    perform from picture_queue.batch b where b.id = any (v_batches) order by b.id for update;
    select i.id, b.id is null as is_unknown into v_refused_batch
    from unnest(v_batches) as i (id)
    left join picture_queue.batch b on b.id = i.id
    where b.id is null or b.finished_at is not null
    order by i.id limit 1;
    if v_refused_batch.is_unknown then
      perform picture_queue._raise_error('PQ_UNKNOWN_BATCH', format('batch_id is %s', v_refused_batch.id));
    elsif found then
      perform picture_queue._raise_error('PQ_CONFLICT', format('batch %s has finished', v_refused_batch.id), 'start a new batch');
    end if;
  end if;
  return v_jobs;
end
$$;

-- Returns the unique key of a job: jobs with the same type, the same owner, and the same values of these keys of the
-- payload (null: of all keys) have the same unique key.
create function picture_queue._unique_key(p_job_type text, p_user_id uuid, p_payload jsonb, p_by text[]) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_values jsonb := coalesce((select jsonb_object_agg(k, p_payload -> k) from unnest(p_by) k), p_payload, '{}');
begin
  if v_values::text ~ '[.][0-9]*0([^0-9]|$)' then
    v_values := picture_queue._trim_numbers(v_values);
  end if;
  return p_job_type || ':' || md5(coalesce(p_user_id::text, '') || v_values::text);
end
$$;

-- Returns the value without trailing zeros in its numbers: 1.0 and 1.00 become 1, since they are equal as jsonb, but
-- not as text.
create function picture_queue._trim_numbers(p_value jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return case jsonb_typeof(p_value)
    when 'number' then to_jsonb(trim_scale((p_value #>> '{}')::numeric))
    when 'array' then coalesce((
      select jsonb_agg(picture_queue._trim_numbers(e.value) order by e.i)
      from jsonb_array_elements(p_value) with ordinality as e (value, i)), '[]')
    when 'object' then coalesce((
      select jsonb_object_agg(e.key, picture_queue._trim_numbers(e.value)) from jsonb_each(p_value) e), '{}')
    else p_value
  end;
end
$$;

-- Sets the rank and turn of new jobs, their place in the order of claims. The turn is the time at which a job is due,
-- so that a job scheduled for later comes after the jobs that are enqueued before that time. With aging, each point of
-- priority makes the turn earlier by aging_seconds. With fair share, the turn comes after the last turn of the tenant
-- (_last_turn).
create function picture_queue._assign_order(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return array(
    with placed as (
      select n.*, q.aging_seconds, case when q.aging_seconds is null then -n.priority else 0 end as new_rank,
        case when q.fair_share then coalesce(n.tenant, n.user_id::text, '') end as new_tenant
      from unnest(p_jobs) n
      left join picture_queue.queue q on q.name = n.queue
    ),
    tenants as (
      select l.queue, l.new_tenant, l.new_rank, 1 / coalesce(w.weight, 1) as step,
        picture_queue._last_turn(l.queue, l.new_tenant, l.new_rank, '{}') as last_turn
      from (select distinct p.queue, p.new_tenant, p.new_rank from placed p
        where p.new_tenant is not null and p.hold is null) l
      left join picture_queue.tenant w on w.name = l.new_tenant
    )
    -- Build a row instead of using jsonb_populate_record: jsonb would round the turn to the extra_float_digits of the
    -- caller.
    select row(p.i, p.job_id, p.job_type, p.queue, p.payload, p.priority, p.scheduled_for, p.max_attempts, p.user_id,
      p.generation_id, p.idempotency_key, p.timeout_seconds, p.backoff, p.expires_at, p.tags, p.metadata, p.limit_keys,
      p.batch_id, p.depends_on, p.on_parent_failure, p.unique_key, p.unique_states, p.unique_until, p.on_conflict, p.hold,
      coalesce(p.new_tenant, p.tenant), p.new_rank, case
      when p.new_tenant is null
        then extract(epoch from greatest(p.scheduled_for, v_now)) - coalesce(p.priority::double precision * p.aging_seconds, 0)
      when l.step is not null then l.last_turn
        + l.step * row_number() over (partition by p.queue, p.new_tenant, p.new_rank, p.hold order by p.i)
      else 0 end)::picture_queue.new_job
    from placed p
    left join tenants l
      on l.queue = p.queue and l.new_tenant = p.new_tenant and l.new_rank = p.new_rank and p.hold is null
    order by p.i);
end
$$;

-- Inserts the jobs, writes the counts, and wakes workers.
create function picture_queue._insert_jobs(p_jobs picture_queue.new_job[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_queues text[];
  v_due timestamptz;
  v_written bigint;
begin
  with inserted as (
    insert into public.job_queue (id, queue, job_type, payload, priority, hold, max_attempts, timeout_seconds, backoff,
      scheduled_for, expires_at, tags, metadata, rank, turn, tenant, limit_keys, unique_key, unique_states,
      unique_until, batch_id, user_id, generation_id, idempotency_key, created_at, updated_at)
    select n.job_id, n.queue, n.job_type, n.payload, n.priority, n.hold, n.max_attempts, n.timeout_seconds, n.backoff,
      n.scheduled_for, n.expires_at, n.tags, n.metadata, n.rank, n.turn, n.tenant, n.limit_keys, n.unique_key,
      n.unique_states, n.unique_until, n.batch_id, n.user_id, n.generation_id, n.idempotency_key, v_now, v_now
    from unnest(p_jobs) n
    returning queue, hold, scheduled_for
  ),
  total as (
    select m.queue, m.hold, count(*) as n, min(m.scheduled_for) as due from inserted m group by m.queue, m.hold
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select t.queue, 'pending', t.hold, t.n, v_now from total t
  )
  select array_agg(t.queue) filter (where t.hold is null), min(t.due) filter (where t.hold = 'scheduled'), sum(t.n)
  into v_queues, v_due, v_written from total t;
  if coalesce(v_written, 0) <> cardinality(p_jobs) then
    raise exception 'a trigger on public.job_queue prevented the insert of a job';
  end if;
  if v_due < v_now + interval '2 seconds' then  -- the next round begins within two seconds anyway
    perform picture_queue._wake_maintenance(v_due);
  end if;
  if v_queues is not null then
    perform picture_queue._wake_workers(v_queues, 'enqueue');
  end if;
end
$$;


-- 252_function__enqueue_parents.sql

-- Dependencies of new jobs. A job may depend on existing jobs, and on jobs before it in the same call. So dependencies
-- never form a cycle.

-- Refuses unknown parents, and marks the jobs that have to wait. Parents are not locked, since an enqueue in a long
-- transaction would delay their heartbeats and reports. So a parent may finish in the meantime;
-- _resolve_new_dependents handles this case.
create function picture_queue._check_parents(p_jobs picture_queue.new_job[]) returns picture_queue.new_job[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_places jsonb;  -- for each job id: its first position in the call
  v_bad_parent record;
begin
  if not exists (select from unnest(p_jobs) n where n.depends_on <> '{}') then
    return p_jobs;
  end if;
  -- A JSON object, since a join would compare each pair of thousands of jobs.
  select jsonb_object_agg(n.job_id, n.i order by n.i desc) into v_places from unnest(p_jobs) n;
  select n.i, p.id, v_places ? p.id::text as is_later into v_bad_parent
  from unnest(p_jobs) n
  cross join unnest(n.depends_on) as p (id)
  where coalesce((v_places ->> p.id::text)::integer >= n.i, true)
    and not exists (select from public.job_queue j where j.id = p.id and j.id <> n.job_id)
  order by n.i limit 1;
  if v_bad_parent.is_later then
    perform picture_queue._raise_error('PQ_CYCLE',
      format('jobs[%s] depends on %s, which is not listed before it', v_bad_parent.i - 1, v_bad_parent.id),
      'list parents before their children');
  elsif found then
    perform picture_queue._raise_error('PQ_UNKNOWN_DEPENDENCY', format('jobs[%s]: depends_on has %s', v_bad_parent.i - 1, v_bad_parent.id),
      'a job can depend on existing jobs, and on jobs before it in the same call');
  end if;

  return array(
    select case when exists (
      select from unnest(n.depends_on) p (id)
      left join public.job_queue j on j.id = p.id
      where j.id is null or j.finished_at is null or (j.status <> 'completed' and n.on_parent_failure <> 'run'))
      then jsonb_populate_record(n, '{"hold": "waiting"}') else n end
    from unnest(p_jobs) n);
end
$$;

-- Links new jobs to their parents, and resolves the jobs that have a finished parent. If a parent in the call is a
-- duplicate of an existing job (p_existing), the existing job becomes the parent; it may have finished long ago.
create function picture_queue._link_parents(p_jobs picture_queue.new_job[], p_existing jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_existing_ids jsonb;  -- for each id in the call that is a duplicate: the id of the existing job
  v_new_ids jsonb;  -- the ids of new jobs, which no other transaction sees yet
  v_resolved uuid[];
begin
  select coalesce(jsonb_object_agg(n.job_id, o.id), '{}') into v_existing_ids
  from unnest(p_jobs) n
  cross join lateral (select p_existing -> n.i::text ->> 'job_id' as id) o
  where o.id <> n.job_id::text;
  select coalesce(jsonb_object_agg(n.job_id, true), '{}') into v_new_ids
  from unnest(p_jobs) n where not p_existing ? n.i::text;
  with linked as (
    insert into picture_queue.dependency (child_id, parent_id, on_parent_failure)
    select n.job_id, coalesce((v_existing_ids ->> d.id::text)::uuid, d.id), n.on_parent_failure
    from unnest(p_jobs) n
    cross join unnest(n.depends_on) as d (id)
    where n.hold = 'waiting' and not p_existing ? n.i::text
    on conflict do nothing
    returning child_id, parent_id
  ),
  link as materialized (
    select l.child_id, l.parent_id, p.finished_at is not null as is_finished
    from linked l
    left join public.job_queue p on p.id = l.parent_id
  ),
  recorded as (
    insert into picture_queue.follow_up (kind, subject)
    select distinct 'child', l.child_id from link l where not l.is_finished and not v_new_ids ? l.parent_id::text
  )
  select array_agg(distinct l.child_id) into v_resolved from link l where l.is_finished;
  if v_resolved is not null then
    perform picture_queue._resolve_dependents(v_resolved, true);
  end if;
end
$$;


-- 254_function__enqueue_existing.sql

-- Duplicates: new jobs with the id or a key of an existing job.

-- Returns the existing jobs that have the id or the idempotency key of a new job: an object of answers by position in
-- the call. Each search reads one index entry, even if jobs of other types or users have the same key.
create function picture_queue._find_existing(p_jobs picture_queue.new_job[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set plan_cache_mode = force_generic_plan
as $$
declare
  v_existing jsonb;
  v_conflicting uuid;
begin
  select coalesce(jsonb_object_agg(f.i, jsonb_build_object('job_id', f.id, 'outcome', 'existing')), '{}'),
    (array_agg(f.id) filter (where f.is_other))[1]
  into v_existing, v_conflicting
  from (
    select n.i, coalesce(by_id.id, by_key.id) as id,
      by_id.id is not null and (by_id.job_type, by_id.user_id) is distinct from (n.job_type, n.user_id) as is_other
    from unnest(p_jobs) n
    left join public.job_queue by_id on by_id.id = n.job_id
    left join lateral (
      select j.id from public.job_queue j
      where j.idempotency_key = n.idempotency_key and j.job_type = n.job_type and j.user_id = n.user_id
      union all
      select j.id from public.job_queue j
      where n.user_id is null and j.user_id is null
        and j.idempotency_key = n.idempotency_key and j.job_type = n.job_type
    ) by_key on by_id.id is null
    where coalesce(by_id.id, by_key.id) is not null
  ) f;
  if v_conflicting is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', format('job_id %s is another job', v_conflicting),
      'make a new uuid for each job');
  end if;
  return v_existing;
end
$$;

-- Returns whether an id or a key of new jobs is in use. This check is cheap. Without it, one duplicate among many jobs
-- would make the insert fail, and all rows would be inserted twice.
create function picture_queue._any_exist(p_jobs picture_queue.new_job[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
set plan_cache_mode = force_generic_plan
as $$
declare
  v_ids uuid[];
  v_keys text[];
  v_unique text[];
begin
  select array_agg(n.job_id), array_agg(n.idempotency_key) filter (where n.idempotency_key is not null),
    array_agg(n.unique_key) filter (where n.unique_key is not null)
  into v_ids, v_keys, v_unique
  from unnest(p_jobs) n;
  return exists (select from public.job_queue j where j.id = any (v_ids))
    or v_keys is not null and exists (select from public.job_queue j where j.idempotency_key = any (v_keys))
    or v_unique is not null
      and exists (select from public.job_queue j where j.unique_key = any (v_unique) and j.status = any (j.unique_states));
end
$$;

-- Returns answers, by position in the call, for new jobs that are duplicates of existing jobs. It omits a job whose
-- unique key has become free; the caller inserts that job.
create function picture_queue._resolve_duplicates(p_jobs picture_queue.new_job[]) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_existing jsonb := picture_queue._find_existing(p_jobs);
  v_unique picture_queue.new_job[] := array(
    select n from unnest(p_jobs) n where n.unique_key is not null and not v_existing ? n.i::text);
  v_updated uuid[];
begin
  if v_unique = '{}' then
    return v_existing;
  end if;
  -- End the uniqueness of jobs whose period is over. Here and below, a lateral subselect searches the index for each
  -- key, since a join that was planned while the table was empty compares each pair.
  update public.job_queue j set unique_states = '{}'
  where j.unique_until <= picture_queue._now() and j.id = any (array(
    select u.id from unnest(v_unique) n
    cross join lateral (
      select o.id from public.job_queue o where o.unique_key = n.unique_key and o.status = any (o.unique_states) limit 1) u));

  v_updated := picture_queue._update_duplicates(v_unique, 'replace')
    || picture_queue._update_duplicates(v_unique, 'debounce');
  return v_existing || coalesce((
    select jsonb_object_agg(n.i, jsonb_build_object('job_id', existing.id, 'outcome', case
      when n.on_conflict = 'ignore' or existing.status <> 'pending' then 'existing'
      when n.on_conflict = 'replace' then 'replaced' else 'debounced' end))
    from unnest(v_unique) n
    cross join lateral (
      select o.id, o.status from public.job_queue o
      where o.unique_key = n.unique_key and o.status = any (o.unique_states) limit 1) existing
    where n.on_conflict = 'ignore' or existing.id in (select r from unnest(v_updated) r)), '{}');
end
$$;

-- Updates existing pending jobs from new duplicates with this on_conflict: everything but parents and batch (replace),
-- or the payload and the time (debounce). If an existing job has several such duplicates, the last one counts. To
-- replace a running job is refused; to debounce a running or finished job changes nothing. Returns the ids of the
-- existing jobs, which it locks.
create function picture_queue._update_duplicates(p_jobs picture_queue.new_job[], p_kind text) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set enable_nestloop = off
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_replaces boolean := p_kind = 'replace';
  v_duplicates picture_queue.new_job[] := array(
    select l.n from (
      select distinct on (n.unique_key) n, n.on_conflict from unnest(p_jobs) n
      where n.on_conflict in ('replace', p_kind) order by n.unique_key, n.i desc
    ) l
    where l.on_conflict = p_kind);
  v_old_queues jsonb;
  v_ids uuid[] := array(
    select u.id from unnest(v_duplicates) n
    cross join lateral (
      select o.id from public.job_queue o where o.unique_key = n.unique_key and o.status = any (o.unique_states) limit 1) u);
  v_running uuid;
  v_changes picture_queue.change[];
  v_queues text[];
begin
  if v_duplicates = '{}' then
    return '{}'::uuid[];
  end if;
  select jsonb_object_agg(o.id, o.queue), array_agg(o.id), (array_agg(o.id) filter (where o.status = 'processing'))[1]
  into v_old_queues, v_ids, v_running
  from (
    select u.id, u.queue, u.status from public.job_queue u
    where u.id = any (v_ids) and u.status = any (u.unique_states) order by u.id for update
  ) o;
  if v_replaces and v_running is not null then
    perform picture_queue._raise_error('PQ_RUNNING_JOB', format('job %s is running', v_running),
      'on_conflict ignore keeps it; with states ["pending"] a running job does not conflict');
  end if;
  with updated as (
    update public.job_queue j set
      payload = n.payload,
      (queue, metadata, tags, priority, rank, turn, tenant, limit_keys, timeout_seconds, backoff, max_attempts,
        expires_at) = (
        -- In a first-in, first-out queue, a job that is due keeps its place.
        select n.queue, n.metadata, n.tags, n.priority, n.rank,
          case when n.hold is null and exists (select from picture_queue.queue q
              where q.name in (n.queue, j.queue) having bool_and(q.aging_seconds is null and not q.fair_share))
            then least(j.turn, n.turn) else n.turn end,
          n.tenant, n.limit_keys, n.timeout_seconds, n.backoff, n.max_attempts, n.expires_at where v_replaces
        union all
        select j.queue, j.metadata, j.tags, j.priority, j.rank, j.turn, j.tenant, j.limit_keys, j.timeout_seconds,
          j.backoff, j.max_attempts, j.expires_at where not v_replaces),
      unique_until = n.unique_until,
      -- A job that waits for its parents keeps the new time until they have finished.
      scheduled_for = case when j.hold = 'waiting' then n.scheduled_for else j.scheduled_for end
    from unnest(v_duplicates) n
    where j.id = any (v_ids) and j.unique_key = n.unique_key and j.status = 'pending'
    returning j.id, j.queue, j.hold, n.scheduled_for as run_at, v_old_queues ->> j.id::text as old_queue
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select d.queue, 'pending', r.hold, sum(d.n), v_now
    from updated r cross join lateral (values (r.old_queue, -1), (r.queue, 1)) as d (queue, n)
    group by d.queue, r.hold having sum(d.n) <> 0
  )
  -- A blocked job may have other limit keys now; the next claim checks them.
  select array_agg(picture_queue._change(r.id,
      case when r.run_at > v_now then 'delay' when r.hold = 'scheduled' then 'promote' else 'unblock' end, null,
      case when r.run_at > v_now then r.run_at end))
      filter (where r.run_at > v_now or r.hold = 'scheduled' or r.hold = 'blocked' and v_replaces),
    array_agg(distinct r.queue)
  into v_changes, v_queues
  from updated r;
  perform picture_queue._transition(v_changes);
  perform picture_queue._wake_workers(v_queues, 'enqueue');
  return v_ids;
end
$$;


-- 258_function__start.sql

-- The second and third part of a claim: start the picked jobs under a lease, and read them for the worker.

-- Starts locked jobs under a lease, in the order of the list; if there are limits, only the jobs that _admit permits.
-- Returns the ids of the started jobs. It makes the transition 'claim', as _apply_changes makes the other transitions,
-- but with fewer statements, since each statement adds to the latency of a claim. It writes no history: the row has
-- the worker and the start time.
create function picture_queue._start(p_candidates picture_queue.candidate[], p_claim picture_queue.claim) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_candidates picture_queue.candidate[] := case when p_claim.has_limits
    then picture_queue._admit(p_candidates, p_claim.max_jobs) else p_candidates[:p_claim.max_jobs] end;
  v_ids uuid[];
  v_extra_ids uuid[];  -- jobs with a generation or a long history, which need further steps
  v_may_defer boolean;
begin
  with started as (
    update public.job_queue j set
      status = 'processing',
      attempt = j.attempt + 1,
      lease_id = p_claim.lease_id,
      (lease_seconds, lease_expires_at) = (
        select l.seconds, v_now + make_interval(secs => l.seconds)
        from (
          select case when p_claim.is_legacy then p_claim.lease_seconds else coalesce(
            (select t.lease_seconds from picture_queue.job_type t where t.name = j.job_type),
            (select q.lease_seconds from picture_queue.queue q where q.name = j.queue), p_claim.lease_seconds) end as seconds
          offset 0
        ) l),
      lease_is_legacy = p_claim.is_legacy,
      unconfirmed_claims = case when p_claim.confirms_start then least(j.unconfirmed_claims + 1, 100) else 0 end,
      slots = c.keys,
      blocked_on = null,
      -- Uniqueness that does not cover running jobs ends when the job starts.
      unique_states = case when not 'processing' = any (j.unique_states) then '{}' else j.unique_states end,
      worker = p_claim.worker,
      started_at = v_now,
      version = j.version + 1,
      updated_at = v_now
    from unnest(v_candidates) with ordinality as c (id, keys, blocked_on, n)
    where j.id = any (array(select s.id from unnest(v_candidates) s)) and j.id = c.id
    returning j.id, j.queue, j.generation_id, j.version, c.n
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select s.queue, e.status, null, e.sign * s.n, v_now
    from (select s.queue, count(*) as n from started s group by s.queue) s
    cross join (values ('pending', -1), ('processing', 1)) as e (status, sign)
  )
  select coalesce(array_agg(s.id order by s.n), '{}'),
    array_agg(s.id) filter (where s.generation_id is not null or s.version > 50),
    -- Whether there may be deferred constraints. The statement that changes the rows also checks this: a transaction
    -- that creates such a constraint waits for the table lock of the statement, so none is missed.
    exists (select from pg_catalog.pg_trigger t
      where t.tgrelid in ('public.job_queue'::regclass, 'public.generations'::regclass)
        and (t.tginitdeferred or not t.tgisinternal and t.tgname <> 'job_queue_updated_at'))
  into v_ids, v_extra_ids, v_may_defer
  from started s;
  if cardinality(v_ids) < cardinality(v_candidates) then
    raise exception 'a trigger on public.job_queue prevented the change of a job';
  elsif v_extra_ids is not null then
    perform picture_queue._trim_history(v_extra_ids), picture_queue._mirror_generations(v_extra_ids);
  end if;
  if v_may_defer then
    perform picture_queue._check_deferred_constraints();
  end if;
  return v_ids;
end
$$;

-- Starts jobs. If the start of all jobs together fails, it starts fewer at a time, down to the job whose start fails;
-- it records that job in failed_step and skips it. After the first 20 milliseconds of failures, each further failure
-- also skips half of the remaining jobs, so that the last jobs of the list are tried as well. The lock_timeout is
-- short, since each try waits again for a locked table.
create function picture_queue._start_isolated(
  p_candidates picture_queue.candidate[], p_claim picture_queue.claim, out ids uuid[], out has_skipped boolean)
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
  v_remaining picture_queue.claim := p_claim;  -- max_jobs: how many more jobs may start
  v_next_index integer := 1;  -- the position of the first job not tried yet
  v_group_size integer := cardinality(p_candidates);  -- the number of jobs to start together
  v_skips_from timestamptz;  -- 20 milliseconds after the first failure
begin
  ids := '{}'::uuid[];
  while v_next_index <= cardinality(p_candidates) and v_remaining.max_jobs > 0 loop
    begin
      ids := ids || picture_queue._start(p_candidates[v_next_index:v_next_index + v_group_size - 1], v_remaining);
      v_remaining.max_jobs := p_claim.max_jobs - cardinality(ids);
      v_next_index := v_next_index + v_group_size;
      v_group_size := v_group_size * 2;
    exception when others then
      if v_group_size = 1 then
        perform picture_queue._record_failure('claim', p_candidates[v_next_index].id::text, sqlerrm);
        v_skips_from := coalesce(v_skips_from, clock_timestamp() + interval '20 milliseconds');
        has_skipped := clock_timestamp() > v_skips_from;
        v_next_index := v_next_index + case when has_skipped then greatest((cardinality(p_candidates) - v_next_index) / 2, 1) else 1 end;
      end if;
      v_group_size := greatest(v_group_size / 10, 1);
    end;
  end loop;
end
$$;

-- Returns the jobs under a lease of a worker, in the form that the worker gets. Optional fields are added only if at
-- least one differs from its default. p_order: the ids in the order in which a claim by weights picked them; null:
-- order by rank, turn, seq.
create function picture_queue._leased_jobs(p_lease_id uuid, p_worker text, p_order uuid[]) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return to_jsonb(array(
    select
      case when num_nonnulls(j.user_id, j.generation_id, j.batch_id, j.tags, j.event, j.message,
          j.cancel_requested_at, j.scheduled_for) = 0 and j.priority = 0 and j.progress = 0 and j.metadata = '{}'
          and not b.confirm_start
        then b.base
        else b.base || jsonb_build_object(
          'priority', j.priority, 'progress', j.progress, 'user_id', j.user_id, 'generation_id', j.generation_id, 'batch_id', j.batch_id,
          'tags', coalesce(to_jsonb(j.tags), '[]'), 'metadata', j.metadata, 'event', j.event, 'message', j.message,
          'cancel_requested_at', j.cancel_requested_at, 'scheduled_for', j.scheduled_for,
          'confirm_start', b.confirm_start) end
    from public.job_queue j
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    cross join lateral (
      select jsonb_build_object(
        'id', j.id, 'queue', j.queue, 'job_type', j.job_type, 'payload', j.payload, 'attempt', j.attempt,
        'max_attempts', j.max_attempts, 'created_at', j.created_at, 'version', j.version, 'lease_id', j.lease_id,
        'lease_seconds', j.lease_seconds, 'timeout_seconds', coalesce(
          j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, (select s.timeout_seconds from picture_queue.setting s))
      ) as base,
      -- The worker must confirm the start before it calls the handler in the last attempt, and after an unconfirmed
      -- claim (unconfirmed_claims counts this claim, too). Otherwise a handler that kills its worker at once would be
      -- run again without a counted attempt.
      j.unconfirmed_claims > 1 or j.unconfirmed_claims = 1 and j.attempt >= j.max_attempts as confirm_start
      offset 0) b
    where j.lease_id = p_lease_id and j.worker = p_worker and j.status = 'processing' and j.hold is null
      and (j.lease_expires_at > v_now or exists (
        select from picture_queue.lease_extension x
        where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > v_now))
    order by array_position(p_order, j.id), j.rank, j.turn, j.seq));
end
$$;


-- 260_function__claim.sql

-- A claim (_claim) has three parts: _pick chooses and locks jobs, _start starts them, and _leased_jobs reads the jobs
-- under the lease. A repeated call does only the last part. A claim does no work for other jobs, except that it
-- unblocks jobs whose limit key has capacity: maintenance does the rest, such as promoting and sweeping.

-- Picks and locks the first p_limit claimable jobs of these queues, in the order rank, turn, seq. With weights it
-- mixes the queues at random: the gaps between the jobs of a queue are exponentially distributed, with the weight as
-- the rate. So each queue gets its share, whether claims are for one job or for many. Up to p_limit jobs of each queue
-- stay locked until the transaction ends, and other claims skip them. Jobs past expires_at, which maintenance fails,
-- and jobs whose start failed recently are left out. p_positions: the position in each queue at which to begin
-- (worker.start_positions).
create function picture_queue._pick(p_claim picture_queue.claim, p_queues text[], p_positions jsonb, p_limit integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_position jsonb := p_positions -> p_queues[1];
  -- Without a position the scan begins before every possible job.
  v_rank integer := coalesce((v_position ->> 0)::integer, -2147483648);
  v_turn double precision := coalesce((v_position ->> 1)::double precision, '-infinity');
  v_seq bigint := coalesce((v_position ->> 2)::bigint, 0);
begin
  if p_claim.weights is not null and cardinality(p_queues) > 1 then
    return array(
      select row(c.id, c.keys, c.blocked_on)::picture_queue.candidate
      from unnest(p_queues) as w (name)
      cross join lateral unnest(picture_queue._pick(p_claim, array[w.name], p_positions, p_limit))
        with ordinality as c (id, keys, blocked_on, n)
      order by sum(-ln(1 - random()) / p_claim.weights[array_position(p_claim.queues, w.name)])
        over (partition by w.name order by c.n)
      limit p_limit);
  elsif cardinality(p_queues) > 1 then
    return picture_queue._pick_from_queues(p_claim, p_queues, p_positions, p_limit);
  end if;
  return array(
    -- The same keys as _limit_keys returns. A function call for each job would take longer than picking the job.
    select row(j.id, case when p_claim.has_limits then array['global', 'queue:' || j.queue, 'type:' || j.job_type]
      || case when j.user_id is not null then array['user:' || j.user_id] end || j.limit_keys end, null)::picture_queue.candidate
    from public.job_queue j
    where j.queue = p_queues[1] and j.status = 'pending' and j.hold is null
      and (j.rank, j.turn, j.seq) >= (v_rank, v_turn, v_seq)
      and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
      -- A repeated call that arrives late must not lease a job again under the lease id of its last attempt: a late
      -- report of that attempt would be accepted.
      and j.lease_id is distinct from p_claim.lease_id
      and (j.expires_at is null or j.expires_at > v_now)
      -- Search failed_step for each job, so that the time does not depend on the number of other jobs whose start
      -- failed.
      and (not p_claim.has_failed_starts or coalesce((
        select f.retry_at <= v_now from picture_queue.failed_step f
        where f.kind = 'claim' and f.subject = j.id::text), true))
    order by j.rank, j.turn, j.seq limit p_limit
    for update skip locked);
end
$$;

-- Does the same as _pick for several queues without weights. It lists the first jobs without locking them, and then
-- locks jobs in this order until it has enough. So it locks only jobs that it returns. If it locked more jobs, other
-- workers could not claim them until the end of the transaction, and a caller of claim_next_job may keep its
-- transaction open while the job runs. If too many of the listed jobs are locked or left out, it lists more.
create function picture_queue._pick_from_queues(
  p_claim picture_queue.claim, p_queues text[], p_positions jsonb, p_limit integer)
returns picture_queue.candidate[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_list_size integer := p_limit;
  v_listed uuid[];
  v_picked picture_queue.candidate[];
begin
  loop
    v_listed := array(
      select l.id
      from unnest(p_queues) as w (name)
      cross join lateral (
        select j.id, j.rank, j.turn, j.seq from public.job_queue j
        where j.queue = w.name and j.status = 'pending' and j.hold is null
          and (j.rank, j.turn, j.seq) >= (coalesce((p_positions -> w.name ->> 0)::integer, -2147483648),
            coalesce((p_positions -> w.name ->> 1)::double precision, '-infinity'),
            coalesce((p_positions -> w.name ->> 2)::bigint, 0))
          and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
        order by j.rank, j.turn, j.seq limit v_list_size
      ) l
      order by l.rank, l.turn, l.seq limit v_list_size);
    v_picked := array(
      select row(j.id, case when p_claim.has_limits
        then picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys) end, null)::picture_queue.candidate
      from unnest(v_listed) with ordinality as l (id, n)
      join public.job_queue j on j.id = l.id
      -- The case expression keeps the planner from using an index on these columns; it finds each job by its id, since
      -- p_queues may be long.
      where case when j.queue = any (p_queues) and j.status = 'pending' and j.hold is null
          and j.lease_id is distinct from p_claim.lease_id
          and (j.expires_at is null or j.expires_at > v_now)
        then not p_claim.has_failed_starts or coalesce((
          select f.retry_at <= v_now from picture_queue.failed_step f
          where f.kind = 'claim' and f.subject = j.id::text), true) end
      order by l.n limit p_limit
      for update of j skip locked);
    exit when cardinality(v_picked) = p_limit or cardinality(v_listed) < v_list_size;
    v_list_size := v_list_size * 4;
  end loop;
  return v_picked;
end
$$;

-- Stores where the next claims of a worker begin in each queue. _claim calls it after it has read many index entries
-- without a job for this worker (dead entries that an old snapshot keeps, or jobs of other types). The position is
-- that of the first job that the worker can run, or of the last job of the queue if there is none. The claims of this
-- worker begin there for 5 microseconds for each entry that was read (p_read), at most for 5 seconds; jobs before the
-- position (a retry, a higher priority) wait until then.
create function picture_queue._store_start_positions(p_claim picture_queue.claim, p_open_queues text[], p_read bigint)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  update picture_queue.worker w set
    start_positions = (
      select jsonb_object_agg(q.name, jsonb_build_array(h.rank, h.turn, h.seq))
      from unnest(p_open_queues) as q (name)
      cross join lateral (
        select o.*
        from (
          (select 1 as n, j.rank, j.turn, j.seq from public.job_queue j
            where j.queue = q.name and j.status = 'pending' and j.hold is null
              and (p_claim.job_types is null or j.job_type = any (p_claim.job_types))
            order by j.rank, j.turn, j.seq limit 1)
          union all
          (select 2, j.rank, j.turn, j.seq from public.job_queue j
            where j.queue = q.name and j.status = 'pending' and j.hold is null
            order by j.rank desc, j.turn desc, j.seq desc limit 1)
        ) o
        order by o.n limit 1
      ) h),
    positions_until = case when w.positions_until > picture_queue._now() then w.positions_until
      else picture_queue._now() + make_interval(secs => least(p_read * 0.000005, 5)) end
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_claim.worker for update skip locked));
end
$$;

-- Writes the row of a worker. If another transaction has locked the row, it stays unchanged, since a claim must not
-- wait.
create function picture_queue._touch_worker(p_worker text, p_queues text[], p_job_types text[], p_idle boolean)
returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
begin
  update picture_queue.worker w
  set queues = p_queues, job_types = p_job_types, idle = p_idle, seen_at = picture_queue._now()
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_worker for update skip locked));
  -- An insert would wait for another transaction that inserts the same name, hence the advisory lock.
  if not found and not exists (select from picture_queue.worker w where w.name = p_worker)
    and pg_catalog.pg_try_advisory_xact_lock(1903326073, pg_catalog.hashtext(p_worker))
  then
    insert into picture_queue.worker (name, queues, job_types, idle, seen_at)
    values (p_worker, p_queues, p_job_types, p_idle, picture_queue._now())
    on conflict do nothing;
  end if;
end
$$;

-- Picks jobs and starts them. If not all picked jobs start, because of a limit or because their start fails, it picks
-- more, until enough jobs have started, or no jobs are left (is_last). If it has picked 5,000 jobs, or a second has
-- passed, it stops and sends a message that tells workers to claim again.
create function picture_queue._pick_and_start(
  p_claim picture_queue.claim, p_queues text[], p_positions jsonb, out ids uuid[], out is_last boolean)
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_remaining picture_queue.claim := p_claim;  -- max_jobs: how many more jobs may start
  v_pick_size integer := p_claim.max_jobs;
  v_picked picture_queue.candidate[];
  v_started record;
  v_previous_ids uuid[];  -- the ids of the previous pick, sorted
  v_total_picked integer := 0;
begin
  ids := '{}'::uuid[];
  loop
    v_picked := picture_queue._pick(v_remaining, p_queues, p_positions, v_pick_size);
    is_last := v_picked = '{}';
    exit when is_last;
    v_started := picture_queue._start_isolated(v_picked, v_remaining);
    ids := ids || v_started.ids;
    v_remaining.max_jobs := p_claim.max_jobs - cardinality(ids);
    -- Stop if all picked jobs have started, if enough jobs have, or if none has and the pick is the same as before.
    exit when cardinality(v_started.ids) = cardinality(v_picked) or v_remaining.max_jobs <= 0
      or v_started.ids = '{}' and cardinality(v_picked) < v_pick_size and v_started.has_skipped is not true
        and array(select c.id from unnest(v_picked) c order by c.id) is not distinct from v_previous_ids;
    -- The next round may start other jobs of this pick: the jobs that were just blocked were numbered under their
    -- other keys, too (_admit).
    v_previous_ids := array(select c.id from unnest(v_picked) c order by c.id);
    v_total_picked := v_total_picked + cardinality(v_picked);
    if v_total_picked >= 5000 or clock_timestamp() > statement_timestamp() + interval '1 second'
      or v_started.has_skipped and cardinality(v_picked) < v_pick_size
    then
      perform picture_queue._wake_workers(p_queues, 'again');
      exit;
    end if;
    v_pick_size := least(greatest(v_pick_size * 4, 20), 5000);
    v_remaining.has_failed_starts := true;  -- a start may have failed in this round
  end loop;
end
$$;

-- Leases jobs to a worker and returns them. The id of the request is the id of the lease, so a repeated call returns
-- the jobs that are still under this lease: an empty list if the lease has expired, but was not swept yet. If no job
-- runs under this lease any more, the call is a new claim.
create function picture_queue._claim(p_claim picture_queue.claim) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_claim picture_queue.claim := p_claim;
  -- The number of index entries that the transaction has read so far; later, the number that this claim has read.
  v_read bigint := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass);
  v_context record;  -- the state of the worker, its queues and the limits
  v_started record;
  v_is_full boolean;  -- whether as many jobs started as the worker wants
begin
  perform picture_queue._check_isolation();
  -- A repeated call waits for the first, to see its jobs.
  perform pg_catalog.pg_advisory_xact_lock(1903326072, pg_catalog.hashtext(p_claim.lease_id::text));
  -- One statement, since each statement adds to the latency of a claim by an idle worker.
  select coalesce(p_claim.lease_seconds, s.lease_seconds) as lease_seconds, q.names as queues, q.sends_events,
    exists (select from public.job_queue j
      where j.status = 'processing' and j.hold is null and j.lease_id = p_claim.lease_id and j.worker = p_claim.worker)
      as is_repeated,
    exists (select from picture_queue.limit_rule)
      or exists (select from picture_queue.limit_key k where k.paused_until > v_now) as has_limits,
    exists (select from picture_queue.failed_step f where f.kind = 'claim') as has_failed_starts,
    w.idle, case when w.is_same and w.positions_until > v_now then w.start_positions end as positions,
    w.is_same and w.seen_at > v_now - interval '5 seconds' as is_current
  into v_context
  from picture_queue.setting s
  cross join (
    select coalesce(array_agg(q.name) filter (where coalesce(q.paused_until <= v_now, true)), '{}') as names,
      bool_or(q.events <> 'none') as sends_events
    from picture_queue.queue q where p_claim.queues is null or q.name = any (p_claim.queues)) q
  left join lateral (
    select w.*, w.queues = p_claim.queues and w.job_types = p_claim.job_types as is_same
    from picture_queue.worker w where w.name = p_claim.worker order by w.seen_at desc limit 1) w on true;
  if v_context.is_repeated then
    return picture_queue._leased_jobs(p_claim.lease_id, p_claim.worker, null);
  end if;
  v_claim.lease_seconds := v_context.lease_seconds;
  v_claim.has_limits := v_context.has_limits;
  v_claim.has_failed_starts := v_context.has_failed_starts;
  if v_context.has_limits then
    perform picture_queue._unblock_freed_keys();
  end if;
  v_started := picture_queue._pick_and_start(v_claim, v_context.queues, v_context.positions);
  v_is_full := cardinality(v_started.ids) = p_claim.max_jobs;
  if v_started.ids <> '{}' and v_context.sends_events then
    perform picture_queue._emit(v_started.ids);
  end if;
  -- Write the row of the worker when it becomes idle, otherwise every 5 seconds. In between, idle may still be true
  -- for a busy worker, which only causes needless wake-ups.
  if not coalesce(p_claim.is_legacy or v_context.is_current and (v_context.idle or v_is_full), false) then
    perform picture_queue._touch_worker(p_claim.worker, p_claim.queues, p_claim.job_types, not v_is_full);
  end if;
  v_read := pg_catalog.pg_stat_get_xact_tuples_returned('public.job_queue_claimable'::regclass) - v_read;
  -- After 20,000 entries without a job for this worker. With limits only if no job is left: jobs that this claim
  -- blocked may come before the position, and would have to wait when they are unblocked.
  if v_read > p_claim.max_jobs + 20000 and (not v_context.has_limits or v_started.is_last) then
    perform picture_queue._store_start_positions(p_claim, v_context.queues, v_read);
  end if;
  return case when v_started.ids = '{}' then '[]'::jsonb else picture_queue._leased_jobs(
    p_claim.lease_id, p_claim.worker, case when p_claim.weights is not null then v_started.ids end) end;
exception when others then
  -- A lock timeout also occurs if the first call with this request id is still in progress. A deadlock is possible,
  -- since even `skip locked` waits for a row if another transaction changed it after this claim had read it.
  perform picture_queue._translate_error(sqlstate, sqlerrm, 'another transaction holds what this claim needs');
  raise;
end
$$;


-- 270_function__report.sql

-- Converts the reported outcomes to their type. Refuses the whole report, before anything is written, if an outcome is
-- malformed.
create function picture_queue._read_outcomes(p_outcomes jsonb) returns picture_queue.outcome[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_outcomes picture_queue.outcome[];
begin
  perform picture_queue._raise_problem(
    case when not picture_queue._is_object_list(p_outcomes) then 'outcomes is not a list of {job_id, lease_id, outcome}' end);
  begin
    v_outcomes := array(
      select row(o.*)::picture_queue.outcome
      from rows from (jsonb_to_recordset(p_outcomes) as (job_id uuid, lease_id uuid, outcome text, result jsonb, error text,
        detail text, retryable boolean, delay_seconds real, run_at timestamptz, duration_seconds real, event text, pause_key text))
        with ordinality o);
  exception when data_exception then
    -- A value has the wrong type. Catch the error here, since later a trigger of the project may raise the same error.
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', sqlerrm);
  end;
  perform picture_queue._raise_problem((
    select format('outcomes[%s]: %s', o.i - 1, p.problem)
    from unnest(v_outcomes) o
    cross join lateral (select p_outcomes -> (o.i - 1)::integer as item) g
    cross join lateral (
      select case
        when o.job_id is null then 'job_id is missing'
        when o.lease_id is null then 'lease_id is missing'
        when o.outcome is null
          or o.outcome not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
          then format('outcome is %s', coalesce(g.item -> 'outcome', 'null'))
        when length(o.event) not between 1 and 200 or o.event ~ '[[:cntrl:]]' then format('event is %s', g.item -> 'event')
        -- Null is tested first: a function call for each outcome would take a quarter of the time of the report.
        when o.pause_key is not null and picture_queue._limit_key_problem(o.pause_key, false) is not null
          then format('pause_key is %s', g.item -> 'pause_key')
        -- Clients cannot read a time outside of this range, nor a list of jobs with such a time.
        when o.run_at not between '1970-01-01T00:00Z' and '9998-12-31T23:59Z'
          then format('run_at is %s, not a time from 1970 to 9998', g.item -> 'run_at')
        when o.delay_seconds not between 0 and 31536000
          then format('delay_seconds is %s, not 0 to 31536000', g.item -> 'delay_seconds')
      end as problem
    ) p
    -- Most outcomes have no field to check; this condition excludes them faster than the checks would.
    where (o.outcome = 'completed' and num_nonnulls(o.job_id, o.lease_id) = 2
        and num_nonnulls(o.event, o.pause_key, o.run_at, o.delay_seconds) = 0) is not true
      and p.problem is not null
    order by o.i limit 1));
  return v_outcomes;
end
$$;

-- Writes the outcomes of attempts whose lease is in force. Returns for each outcome, in the order of the call: ok;
-- repeated (this lease reported before; nothing changes); stale (the lease ended; nothing changes). If a lease has
-- several outcomes, the first counts. A job whose result is above the size limit fails, since a repeated report would
-- have the same size.
create function picture_queue._report(p_outcomes jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
declare
  v_max_bytes integer;
  v_may_defer boolean;
  v_answer jsonb;
  v_outcomes picture_queue.outcome[] := picture_queue._read_outcomes(p_outcomes);
  v_ids uuid[] := array(select distinct o.job_id from unnest(v_outcomes) o);
  v_changes picture_queue.change[];
  v_changed_jobs picture_queue.changed_job[];
begin
  select s.max_result_bytes into v_max_bytes from picture_queue.setting s;
  -- A result of up to 200 bytes can only exceed the size limit; it has no other problem (_json_problem).
  if not exists (
    select from unnest(v_outcomes) o
    where o.outcome <> 'completed' or octet_length(o.result::text) > least(v_max_bytes, 200)
      and picture_queue._json_problem(o.result, v_max_bytes) is not null)
  then
    -- The common case does not read the jobs first: the update checks the leases.
    v_changes := array(
      select row(o.job_id, 'complete', null, o.result, null, null, o.duration_seconds, o.lease_id, null, false)::picture_queue.change
      from (
        select distinct on (o.job_id, o.lease_id) o.* from unnest(v_outcomes) o order by o.job_id, o.lease_id, o.i
      ) o);
  else
    v_changes := picture_queue._decide_changes(v_outcomes, v_ids, v_max_bytes);
  end if;
  v_changed_jobs := picture_queue._transition(v_changes);
  if v_changed_jobs is not null then
    perform picture_queue._apply_report_effects(v_outcomes, v_changed_jobs);
  end if;
  select to_jsonb(array(
      select jsonb_build_object(
        'job_id', o.job_id,
        'outcome', case when m.id is not null then 'ok' when j.lease_id = o.lease_id then 'repeated' else 'stale' end,
        'status', coalesce(m.status, j.status))
      from unnest(v_outcomes) o
      -- If a report names two leases of a job, the lease in the row is valid; the other is stale.
      left join unnest(v_changed_jobs) m on m.id = o.job_id and m.lease_id = o.lease_id
      left join public.job_queue j on m.id is null and j.id = o.job_id and j.id = any (v_ids)
      order by o.i)),
    -- Whether there may be deferred constraints. This is checked after the change: a transaction that creates such a
    -- constraint waits for the table lock of the update, so none is missed.
    exists (select from pg_catalog.pg_trigger t
      where t.tgrelid in ('public.job_queue'::regclass, 'public.generations'::regclass)
        and (t.tginitdeferred or not t.tgisinternal and t.tgname <> 'job_queue_updated_at'))
  into v_answer, v_may_defer;
  if v_may_defer then
    perform picture_queue._check_deferred_constraints();
  end if;
  return v_answer;
end
$$;

-- Writes outcomes one by one. The answer is busy for a locked job, and refused, with the error, for an outcome that
-- cannot be written. After two seconds, the answer for all remaining outcomes is busy.
create function picture_queue._report_each(p_outcomes jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set lock_timeout = '10ms'
as $$
declare
  v_item jsonb;
  v_position bigint;
  v_answers jsonb[] := '{}'::jsonb[];
  v_started_at timestamptz := clock_timestamp();
  v_error text;
  v_detail text;
begin
  for v_item, v_position in select o.item, o.i from jsonb_array_elements(p_outcomes) with ordinality as o (item, i) loop
    if clock_timestamp() > v_started_at + interval '2 seconds' then
      v_answers := v_answers || array(
        select jsonb_build_object('job_id', o.item -> 'job_id', 'status', null, 'outcome', 'busy',
          'error', 'PQ_BUSY: the outcomes before this one took two seconds')
        from jsonb_array_elements(p_outcomes) with ordinality as o (item, i) where o.i >= v_position order by o.i);
      exit;
    end if;
    begin
      perform from public.job_queue j
      where j.id = case when v_item ->> 'job_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
        then (v_item ->> 'job_id')::uuid end for update nowait;
      v_answers := array_append(v_answers, picture_queue._report(jsonb_build_array(v_item)) -> 0);
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := left(concat_ws(': ', sqlerrm, nullif(v_detail, '')), 1000);
      v_answers := array_append(v_answers, jsonb_build_object('job_id', v_item -> 'job_id', 'status', null,
        'error', v_error, 'outcome', case when picture_queue._is_transient(sqlstate) then 'busy' else 'refused' end));
      if not (picture_queue._is_transient(sqlstate) or sqlstate like 'PT%') then
        perform picture_queue._record_failure('report', v_item ->> 'job_id', v_error);
      end if;
    end;
  end loop;
  return to_jsonb(v_answers);
end
$$;

-- Returns the changes for reported outcomes, and locks the jobs until the transaction ends. A job with a cancel
-- request is cancelled whatever its outcome, with two exceptions: a job that completed; and a job that was cancelled
-- while parked and claimed once more to undo its work, if its worker stops and releases it.
create function picture_queue._decide_changes(p_outcomes picture_queue.outcome[], p_ids uuid[], p_max_bytes integer)
returns picture_queue.change[]
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return (with held as materialized (
    select j.id, j.lease_id, j.lease_expires_at, j.cancel_requested_at is not null as cancel_requested,
      j.cancel_requested_at < j.started_at as undoes_work, j.attempt < j.max_attempts as has_attempts_left
    from public.job_queue j where j.id = any (p_ids) order by j.id for update
  ),
  reported as (
    select distinct on (o.job_id) o.*, h.cancel_requested, h.undoes_work, h.has_attempts_left,
      case when o.outcome = 'completed' then picture_queue._json_problem(o.result, p_max_bytes) end as problem
    from unnest(p_outcomes) o
    join held h on h.id = o.job_id and h.lease_id = o.lease_id and h.lease_expires_at is not null
    order by o.job_id, o.i
  ),
  decided as (
    select a.*, case
        when a.outcome = 'completed' and a.problem is null then 'complete'
        when a.outcome = 'released' and a.undoes_work then 'release'
        when a.outcome = 'cancelled' or a.cancel_requested then 'cancel'
        when a.outcome = 'failed' and coalesce(a.retryable, true) and a.has_attempts_left then 'back_off'
        when a.outcome in ('failed', 'completed') then 'fail'
        when a.outcome = 'snoozed' then 'snooze'
        when a.outcome = 'released' then 'release'
        when a.outcome = 'parked' then 'park' end as action
    from reported a
  )
  select array_agg(row(
      d.job_id, d.action,
      case when d.action in ('back_off', 'snooze', 'park') then coalesce(d.run_at, v_now + make_interval(secs =>
        coalesce(d.delay_seconds, case d.action
          when 'back_off' then (select picture_queue._backoff_of(j) from public.job_queue j where j.id = d.job_id)
          when 'snooze' then 0
          -- A job that parks without a delay gets no time: only its event or a cancel request wakes it.
          end))) end,
      d.result,
      case when d.action in ('fail', 'back_off') then case
        when d.problem like '% bytes, the limit is %'
          then 'The result is larger than the project allows (setting max_result_bytes).'
        when d.problem is not null then 'The result ' || d.problem
        else coalesce(left(d.error, 2000), 'The job failed without an error text.') end end,
      d.detail, d.duration_seconds, null,
      case when d.action = 'park' then coalesce(d.event, d.job_id::text) end, false)::picture_queue.change)
  from decided d);
end
$$;

-- Applies the further effects of outcomes: it wakes jobs whose event was sent before they parked; pauses a limit key
-- or queue ('queue:…') until the time of the outcome, unless it is paused for longer; and checks the breakers.
create function picture_queue._apply_report_effects(
  p_outcomes picture_queue.outcome[], p_changed_jobs picture_queue.changed_job[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_parked uuid[] := array(select m.id from unnest(p_changed_jobs) m where m.hold = 'parked');
  v_events text[];
  v_pause record;
begin
  if v_parked <> '{}' then
    v_events := array(select distinct j.parked_on from public.job_queue j where j.id = any (v_parked) order by j.parked_on);
    -- send_event takes the same lock of an event, so the later of the two transactions sees the changes of the earlier
    -- one.
    perform pg_catalog.pg_advisory_xact_lock(1903326070, h.hash)
    from (select distinct pg_catalog.hashtext(e) & 1023 as hash from unnest(v_events) e order by hash offset 0) h;
    perform picture_queue._wake_parked(v_events);
  end if;
  if exists (select from unnest(p_outcomes) o where o.pause_key is not null) then
    for v_pause in
      select o.pause_key as key, left(max(o.detail), 500) as reason,
        max(coalesce(o.run_at, picture_queue._now() + make_interval(secs => coalesce(o.delay_seconds, 0)))) as until
      from (
        -- Use only outcomes that changed their jobs.
        select distinct on (u.job_id) u.* from unnest(p_outcomes) u
        join unnest(p_changed_jobs) m on m.id = u.job_id and m.lease_id = u.lease_id
        order by u.job_id, u.i
      ) o
      where o.pause_key is not null
      group by o.pause_key order by o.pause_key
    loop
      -- If another transaction has locked the queue or key, it stays unchanged; the next outcome with this pause_key
      -- pauses it.
      if v_pause.key like 'queue:%' then
        update picture_queue.queue q
        set paused_until = v_pause.until, pause_reason = 'the handler of a job asked for a pause'
        where q.name = any (array(
            select o.name from picture_queue.queue o where o.name = substr(v_pause.key, 7) for update skip locked))
          and coalesce(q.paused_until, '-infinity') < v_pause.until;
      elsif picture_queue._lock_keys(array[v_pause.key]) <> '{}' then
        perform picture_queue._add_running(array[v_pause.key], '{0}');  -- inserts the row if there is none
        update picture_queue.limit_key k
        set paused_until = v_pause.until, pause_reason = v_pause.reason, version = k.version + 1
        where k.key = v_pause.key and coalesce(k.paused_until, '-infinity') < v_pause.until;
        perform picture_queue._plan_unblocking(array[v_pause.key]);
      end if;
    end loop;
  end if;
  if exists (
    select from picture_queue.queue q where q.breaker_failures is not null and q.name in (select m.queue from unnest(p_changed_jobs) m))
  then
    -- Leave out postponed jobs, since they may still have the error of an earlier attempt. Leave out errors that are
    -- not retryable: they concern one job, and a user could pause the queue for all users with bad inputs.
    perform picture_queue._check_breakers(array(
      select distinct m.id from unnest(p_changed_jobs) m
      join unnest(p_outcomes) o on o.job_id = m.id and o.lease_id = m.lease_id
      where (o.outcome = 'completed' or o.outcome = 'failed' and o.retryable is not false) and m.status <> 'cancelled'));
  end if;
end
$$;

-- Counts failures in a row for the same reason, in queues with breaker_failures, and pauses the queue when it has that
-- many. After the pause, one more failure for that reason pauses it again; a completed job resets the count.
create function picture_queue._check_breakers(p_ids uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_job record;
  v_failures integer;
begin
  for v_job in
    select q.name, q.breaker_failures, j.status, picture_queue._reason(j.error) as reason
    from public.job_queue j
    join picture_queue.queue q on q.name = j.queue
    where j.id = any (p_ids) and q.breaker_failures is not null and (j.status = 'completed' or j.error is not null)
    order by q.name, j.updated_at, j.seq
    for update of q skip locked  -- a queue that an operator is changing does not delay reports
  loop
    if v_job.status = 'completed' then
      delete from picture_queue.breaker b where b.queue = v_job.name;
      continue;
    end if;
    insert into picture_queue.breaker as b (queue, reason, failures) values (v_job.name, v_job.reason, 1)
    on conflict (queue) do update set reason = excluded.reason,
      failures = case when b.reason = excluded.reason then b.failures + 1 else 1 end
    returning failures into v_failures;
    if v_failures >= v_job.breaker_failures then
      update picture_queue.queue q set
        paused_until = greatest(q.paused_until, picture_queue._now() + make_interval(secs => q.breaker_seconds)),
        pause_reason = format('%s failures in a row: %s', v_failures, left(v_job.reason, 200))
      where q.name = v_job.name;
      update picture_queue.breaker b set failures = v_job.breaker_failures - 1 where b.queue = v_job.name;
    end if;
  end loop;
end
$$;


-- 280_function__lease.sql

-- Locks a job and returns its row. Raises PQ_UNKNOWN_JOB if there is no such job, and PQ_STALE_LEASE if the lease is
-- not in force. If p_needs_lease is false, a lease is not required.
create function picture_queue._lock_job(p_job_id uuid, p_lease_id uuid default null, p_needs_lease boolean default true)
returns public.job_queue
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.job_queue;
begin
  perform picture_queue._check_isolation();
  select * into v_job from public.job_queue where id = p_job_id for update;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  elsif p_needs_lease and (v_job.lease_expires_at is null or v_job.lease_id is distinct from p_lease_id) then
    perform picture_queue._raise_error('PQ_STALE_LEASE',
      format('job %s is %s and its lease is not %s', p_job_id, v_job.status, p_lease_id),
      'stop working on this job; another worker runs it now');
  end if;
  return v_job;
end
$$;

-- Extends the leases in force, including expired leases that were not swept yet, and records that their jobs have
-- started. Returns the jobs to cancel, and the jobs whose lease is lost. If a call names two leases of a job,
-- lost_leases has the lease that is not in force. The lease of a job with a cancel request, or past its timeout, is
-- extended only until the end of the grace period (cancel_grace_seconds, timeout_grace_seconds). Then the lease
-- expires and counts as lost, but a report is accepted until the sweep. A job that was cancelled while parked is
-- claimed once more, so that its handler can undo its work; its grace period begins at that claim. A lease is extended
-- in the table lease_extension if another transaction has locked the row of the job, or if p_extension_only is true.
-- The call waits no longer than lock_timeout.
create function picture_queue._heartbeat(p_worker text, p_leases jsonb, p_extension_only boolean default false)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
set lock_timeout = '10ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_ids uuid[];
  v_row_locked_ids uuid[];
  v_extended_ids uuid[];
  v_lease_ends timestamptz[];
  v_answer jsonb;
begin
  v_ids := array(select (l.item ->> 'job_id')::uuid from jsonb_array_elements(p_leases) as l (item));
  v_row_locked_ids := case when p_extension_only then '{}' else
    array(select j.id from public.job_queue j where j.id = any (v_ids) order by j.id for update skip locked) end;
  with held as (
    select j.id, j.lease_id, j.cancel_requested_at, j.id = any (v_row_locked_ids) as has_row_lock, least(
        v_now + make_interval(secs => j.lease_seconds),
        case when j.cancel_requested_at is not null then
          greatest(j.cancel_requested_at, j.started_at) + make_interval(secs => s.cancel_grace_seconds) end,
        j.started_at + make_interval(secs => s.timeout_grace_seconds
          + coalesce(j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, s.timeout_seconds))) as lease_ends_at
    from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
    join public.job_queue j on j.id = l.job_id and j.lease_id = l.lease_id
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    where j.id = any (v_ids) and j.lease_expires_at is not null
  ),
  extensions as (
    insert into picture_queue.lease_extension as x (job_id, lease_id, lease_expires_at)
    select h.id, h.lease_id, h.lease_ends_at from held h where not h.has_row_lock order by h.id
    on conflict (job_id) do update set lease_id = excluded.lease_id, lease_expires_at = excluded.lease_expires_at
  )
  select jsonb_build_object(
    'cancel', coalesce(jsonb_agg(l.job_id) filter (where h.cancel_requested_at is not null and h.lease_ends_at > v_now), '[]'),
    'lost', coalesce(jsonb_agg(l.job_id) filter (where h.id is null or h.lease_ends_at <= v_now), '[]'))
    || jsonb_strip_nulls(jsonb_build_object(
      'lost_leases', jsonb_agg(l.lease_id) filter (where h.id is null and l.job_id in (select o.id from held o)))),
    array_agg(h.id) filter (where h.has_row_lock), array_agg(greatest(h.lease_ends_at, v_now)) filter (where h.has_row_lock)
  into v_answer, v_extended_ids, v_lease_ends
  from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
  left join held h on h.id = l.job_id and h.lease_id = l.lease_id;
  -- With p_extension_only there is no update: while a `create index` runs, even an update of no rows would wait for
  -- the table lock.
  if v_extended_ids <> '{}' then
    update public.job_queue j set lease_expires_at = h.ends_at, unconfirmed_claims = 0, updated_at = v_now
    from unnest(v_extended_ids, v_lease_ends) as h (id, ends_at)
    where j.id = any (v_extended_ids) and j.id = h.id;
  end if;
  -- The rows that were just updated have the end of their leases, so delete their extensions. An extension may end
  -- later than the lease in the row, since a cancel request can shorten the lease.
  if pg_relation_size('picture_queue.lease_extension') > 0 then
    delete from picture_queue.lease_extension x where x.job_id = any (array(
      select o.job_id from picture_queue.lease_extension o where o.job_id = any (v_row_locked_ids) for update skip locked));
  end if;
  perform picture_queue._check_deferred_constraints();
  update picture_queue.worker w set seen_at = v_now
  where w.name = any (array(select o.name from picture_queue.worker o where o.name = p_worker for update skip locked));
  return v_answer;
end
$$;


-- 290_function_cancel_retry.sql

-- Cancels a job of the caller: a pending job at once; a running job is asked to stop, which its worker learns with the
-- next heartbeat; a parked job is claimed once more, so that its handler can undo what it started. The call is
-- idempotent. A call that repeats a request id returns the answer of the first call, even if the job has ended since.
create function picture_queue.cancel_job(p_job_id uuid, p_request_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_request text := p_job_id || '/' || p_request_id;
  v_answer jsonb;
  v_changes boolean;
begin
  perform picture_queue._check_isolation();
  -- Set the parameter to false, since the session of a user may have set it to true.
  perform set_config('picture_queue.is_worker', 'false', true);  -- read by _check_deferred_constraints and _enqueue_callbacks
  select * into v_job from public.job_queue
  where id = p_job_id and (picture_queue._is_service() or user_id = picture_queue._caller_id()) for update;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  end if;
  v_answer := (select a.answer from picture_queue.answer a where a.call = 'cancel_job' and a.id = v_request);
  if v_answer is not null then
    return v_answer;
  elsif v_job.status in ('completed', 'failed') then
    perform picture_queue._raise_error('PQ_FINISHED_JOB', format('job %s is %s already', p_job_id, v_job.status));
  end if;
  v_changes := v_job.status <> 'cancelled' and v_job.cancel_requested_at is null;
  if v_changes then
    perform picture_queue._cancel_jobs(array[p_job_id]);
    perform picture_queue._check_deferred_constraints();
  end if;
  select jsonb_build_object('job_id', j.id, 'status', j.status, 'cancel_requested', j.cancel_requested_at is not null)
  into v_answer from public.job_queue j where j.id = p_job_id;
  -- Store the answer only if the call changed the job, so that repeated calls with new ids do not fill the table.
  insert into picture_queue.answer (call, id, answer, at)
  select 'cancel_job', v_request, v_answer, picture_queue._now() where v_changes and v_request is not null;
  return v_answer;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', p_job_id));
  raise;
end
$$;

-- Wakes the jobs that were parked on an event when it was sent. If there were none, the event is kept. The first later
-- call that finds a job parked on the event sets sent_at to the time of that call, and wakes the jobs. An event is
-- kept until all its jobs are awake: maintenance wakes the jobs that this call leaves because they are beyond the
-- first thousand, or locked, or because their change failed. A job that is woken and parks again waits for the next
-- event. Returns the number of woken jobs.
create function picture_queue._wake_parked(p_events text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_next_check_at timestamptz := v_now + interval '0.2 seconds';
  v_events text[] := array(
    select s.name from picture_queue.external_event s
    where s.name = any (p_events) order by s.name for update skip locked);
  v_woken integer;
begin
  if v_events = '{}' then
    return 0;
  end if;
  update picture_queue.external_event s
  set check_at = v_next_check_at, sent_at = case when s.check_at is null then v_now else s.sent_at end
  where s.name = any (v_events) and (
    select true from public.job_queue j where j.hold = 'parked' and j.parked_on = s.name limit 1);
  v_woken := picture_queue._run_isolated('wake', array(
    select j.id::text
    from picture_queue.external_event s
    cross join lateral (
      select p.id from public.job_queue p
      where p.hold = 'parked' and p.parked_on = s.name and p.parked_at <= s.sent_at
        and p.id::text not in (select picture_queue._failed_subjects('wake'))
      limit 1000 for update skip locked) j
    where s.name = any (v_events) limit 1000), 1000);
  delete from picture_queue.external_event s
  where s.name = any (v_events) and s.check_at is not null and (
    select true from public.job_queue j
    where j.hold = 'parked' and j.parked_on = s.name and j.parked_at <= s.sent_at limit 1) is null;
  if exists (select from picture_queue.external_event s where s.name = any (v_events) and s.check_at is not null) then
    perform picture_queue._wake_maintenance(v_next_check_at);
  end if;
  return v_woken;
end
$$;

-- Sends an external event, and returns the number of jobs that it woke. The caller has validated name and payload.
create function picture_queue._send_event(p_name text, p_payload jsonb) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- A report that parks a job on the event takes the same lock.
  perform pg_catalog.pg_advisory_xact_lock(1903326070, pg_catalog.hashtext(p_name) & 1023);
  insert into picture_queue.external_event as s (name, payload, sent_at)
  values (p_name, coalesce(p_payload, 'null'), picture_queue._now())
  on conflict on constraint external_event_pkey do update
  set payload = excluded.payload, sent_at = excluded.sent_at, check_at = null;
  return picture_queue._wake_parked(array[p_name]);
end
$$;


-- 300_function_enqueue.sql

-- Returns whether the project may have changed job_queue so that an insert can be refused: it has a rule or check
-- constraint; more than our 14 indexes, 49 columns or 18 not-null constraints; or a column whose type is defined by
-- the project (its oid is at least 16384) or has a length.
create function picture_queue._has_project_constraints() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return (select c.relhasrules or c.relchecks > 0 from pg_catalog.pg_class c where c.oid = 'public.job_queue'::regclass)
    or (select count(*) > 14 from pg_catalog.pg_index i where i.indrelid = 'public.job_queue'::regclass)
    or (select count(*) filter (where a.attnotnull) > 18 or max(a.attnum) > 49 or max(a.atttypid) >= 16384
          or max(a.atttypmod) >= 0
        from pg_catalog.pg_attribute a where a.attrelid = 'public.job_queue'::regclass and a.attnum > 0);
end
$$;

-- Enqueues one job and returns its id. A call with an idempotency_key, or with a job_id, can be repeated: it returns
-- the id of the existing job.
create function public.enqueue_job(
  job_type text,
  payload jsonb default '{}',
  priority integer default 0,
  queue text default null,
  scheduled_for timestamptz default null,
  max_attempts integer default null,
  user_id uuid default null,
  idempotency_key text default null,
  job_id uuid default null,
  options jsonb default '{}')
returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_variable
declare
  v_now timestamptz := picture_queue._now();
  v_id uuid := coalesce(job_id, gen_random_uuid());
  v_is_simple boolean := num_nonnulls(scheduled_for, max_attempts, idempotency_key) = 0 and coalesce(options, '{}') = '{}'
    and job_type ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]*$' and length(job_type) <= 128
    and jsonb_typeof(payload) = 'object' and priority between -1000000000 and 1000000000;
  v_queue text := queue;
  v_max_attempts integer;
  v_events text;
  v_has_idle_worker boolean;
  v_has_trigger boolean;
  v_may_raise boolean;
  v_is_new boolean := false;
  v_jobs jsonb;
begin
  -- Wait for table locks only here, before the insert: an exception handler around the insert would take a transaction
  -- id for each job.
  begin
    lock table public.job_queue, picture_queue.depth_change in row exclusive mode;
    if v_queue is null then
      v_queue := coalesce((select t.queue from picture_queue.job_type t where t.name = job_type), 'default');
    end if;
    -- Subselects instead of joins, and variables instead of a record: with so few rows, starting the plan takes most
    -- of the time.
    select coalesce(
        (select t.max_attempts from picture_queue.job_type t where t.name = job_type), q.max_attempts, s.max_attempts),
      q.events, (
        select true from picture_queue.worker w
        where w.idle and q.name = any (w.queues) and w.seen_at > v_now - interval '1 minute'
        order by w.seen_at desc limit 1),
      -- Whether there is an insert trigger (bit 4), such as that of a foreign key: it may change the row or refuse it.
      exists (select from pg_catalog.pg_trigger t where t.tgrelid = 'public.job_queue'::regclass and t.tgtype & 4 <> 0),
      job_id is not null or picture_queue._has_project_constraints()
    into v_max_attempts, v_events, v_has_idle_worker, v_has_trigger, v_may_raise
    from picture_queue.setting s
    left join picture_queue.queue q on v_is_simple and q.name = v_queue and not (q.draining or q.fair_share)
      and q.aging_seconds is null and (octet_length(payload::text) <= least(s.max_payload_bytes, 200)
        or picture_queue._json_problem(payload, s.max_payload_bytes) is null);
  exception when lock_not_available or deadlock_detected then
    perform picture_queue._raise_busy();
  end;
  -- The common case: a job without options for a first-in, first-out queue. This branch takes a third of the CPU time
  -- of _enqueue (94 instead of 324 µs), and accepts only jobs that _enqueue accepts.
  if v_events is not null and not v_has_trigger then
    if v_may_raise then
      begin
        insert into public.job_queue
          (id, queue, job_type, payload, priority, rank, turn, max_attempts, user_id, created_at, updated_at)
        values (v_id, v_queue, job_type, payload, priority, -priority, date_part('epoch', v_now), v_max_attempts, user_id, v_now, v_now);
        v_is_new := found;
      exception
        when lock_not_available or deadlock_detected then
          perform picture_queue._raise_busy('another transaction writes a job with the same id');
        when others then
          v_is_new := false;  -- the job exists, or the project refuses it: enqueue_jobs below answers
      end;
    else
      -- No subtransaction: a trigger of the project may enqueue 100,000 jobs one by one, and each subtransaction takes
      -- a transaction id.
      insert into public.job_queue
        (id, queue, job_type, payload, priority, rank, turn, max_attempts, user_id, created_at, updated_at)
      values (v_id, v_queue, job_type, payload, priority, -priority, date_part('epoch', v_now), v_max_attempts, user_id, v_now, v_now);
      v_is_new := found;
    end if;
    if v_is_new then
      insert into picture_queue.depth_change (queue, status, hold, n, at) values (v_queue, 'pending', null, 1, v_now);
      if v_events <> 'none' then
        perform picture_queue._emit(array[v_id]);
      end if;
      if v_has_idle_worker then
        perform picture_queue._wake_workers(array[v_queue], 'enqueue');
      end if;
      return v_id;
    end if;
  end if;
  v_jobs := jsonb_build_array(jsonb_build_object(
    'job_type', job_type, 'payload', payload, 'priority', priority, 'queue', queue, 'scheduled_for', scheduled_for,
    'max_attempts', max_attempts, 'user_id', user_id, 'idempotency_key', idempotency_key, 'job_id', job_id,
    'options', options));
  return (case when not (v_has_trigger or v_may_raise) and num_nonnulls(idempotency_key, nullif(options, '{}')) = 0
    then picture_queue._enqueue(v_jobs) else public.enqueue_jobs(v_jobs) end #>> '{0,job_id}')::uuid;
end
$$;
comment on function public.enqueue_job is 'Enqueues one job and returns its id.';

-- Enqueues many jobs, all or none, and returns the id and the outcome of each. A call that repeats a request_id
-- returns the answer of the first call.
create function public.enqueue_jobs(jobs jsonb, request_id uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan
as $$
begin
  if request_id is null then
    return picture_queue._enqueue(jobs);
  end if;
  return coalesce(picture_queue._find_answer('enqueue_jobs', request_id::text),
    picture_queue._store_answer('enqueue_jobs', request_id::text, picture_queue._enqueue(jobs)));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, 'another call needs some of the same ids, keys, batches or parents');
  raise;
end
$$;
comment on function public.enqueue_jobs is 'Enqueues many jobs in one call; returns the id and the outcome of each.';


-- 310_function_claim.sql

-- Claims one job for a caller that sends no heartbeats, under a lease of at least ten minutes. The lease is marked
-- legacy: complete_job may end it without its lease_id. If nothing can be claimed and the last round of maintenance
-- began more than 5 seconds ago, it does the work that is due and claims again, since the project may have no worker
-- that does maintenance. Otherwise it does no maintenance: the transaction of the caller may stay open while the job
-- runs, and would keep the locks of maintenance.
create function public.claim_next_job(queue text default null) returns setof public.job_queue
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_claim picture_queue.claim;
  v_jobs jsonb;
begin
  v_claim := row('claim_next_job', case when queue is not null then array[queue] end, null, 1,
    (select greatest(600, s.timeout_seconds) from picture_queue.setting s), gen_random_uuid(), null, true, false, null, null);
  v_jobs := picture_queue._claim(v_claim);
  if v_jobs = '[]'
    and (select m.round_began_at < picture_queue._now() - interval '5 seconds' from picture_queue.maintenance m)
  then
    perform picture_queue._do_due_steps(10, true);
    v_jobs := picture_queue._claim(v_claim);
  end if;
  return query select j.* from public.job_queue j where j.id = (v_jobs #>> '{0,id}')::uuid;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.claim_next_job is 'Claims one job under a long lease, for callers without heartbeat.';

-- Leases up to max_jobs jobs of these types to a worker. Jobs that a worker prefetches count under limits as running
-- jobs do. confirms_start: a job counts as started only at its first heartbeat. A call that repeats a request_id
-- returns the jobs of the first call that are still under its lease. lease_seconds applies to jobs whose type and
-- queue set no lease (null: the setting of the project). weights has one number for each queue: its share of the jobs.
-- Without weights, jobs of all queues are claimed by priority.
create function public.claim_jobs(
  worker text, queues text[], job_types text[], max_jobs integer default 1, lease_seconds real default null,
  request_id uuid default gen_random_uuid(), weights real[] default null, confirms_start boolean default false)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_claim picture_queue.claim := row(worker, queues, job_types, coalesce(max_jobs, 1), lease_seconds,
    coalesce(request_id, gen_random_uuid()), weights, false, coalesce(confirms_start, false), null, null);
begin
  perform picture_queue._raise_problem(case
    when coalesce(length(worker), 0) not between 1 and 200
      then format('worker is %s, not 1 to 200 characters', quote_nullable(left(worker, 100)))
    when coalesce(cardinality(queues), 0) = 0 then 'queues is empty'
    when greatest(cardinality(queues), cardinality(job_types)) > 1000 then 'queues or job_types has more than 1000 entries'
    -- A cheap check, on the sum of the lengths: names have at most 63 and 128 characters.
    when length(array_to_string(queues, '')) > 63 * cardinality(queues)
      or length(array_to_string(job_types, '')) > 128 * cardinality(job_types)
      then 'queues or job_types has a name of more than 63 or 128 characters'
    when greatest(array_ndims(queues), array_ndims(job_types), array_ndims(weights)) > 1
      then 'queues, job_types or weights is not a plain list'
    when job_types is null then 'job_types is null'
    when cardinality(weights) <> cardinality(queues)
      then format('weights has %s entries, queues has %s', cardinality(weights), cardinality(queues))
    when not 0 < all (weights) then format('weights are %s, not above 0', weights)
    when max_jobs not between 0 and 1000 then format('max_jobs is %s, not 0 to 1000', max_jobs)
    when lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', lease_seconds)
  end);
  perform set_config('picture_queue.is_worker', 'true', true);  -- read by _check_deferred_constraints
  return picture_queue._claim(v_claim);
end
$$;
comment on function public.claim_jobs is 'Leases jobs to a worker; repeatable by request_id.';


-- 320_function_report.sql

-- Extends leases; returns the jobs to cancel, the jobs whose lease is lost, and the busy jobs, whose lease was not
-- extended because another transaction is extending it or the time was used up. If a list of leases cannot be extended
-- together, each half is tried, down to the lease that causes the error. A lease whose row cannot be written is
-- extended in lease_extension; after half a second, all remaining leases are. A malformed entry counts as lost. If no
-- lease can be extended, the call raises PQ_BUSY, or PQ_INVALID_ARGUMENT if all entries are malformed.
create function public.heartbeat_jobs(worker text, leases jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_lists jsonb[] := array[leases];  -- the lists that are not tried yet
  v_list jsonb;
  v_list_length integer;
  v_malformed jsonb := '[]'::jsonb;  -- the job ids of malformed entries
  v_busy jsonb := '[]'::jsonb;  -- the ids of busy jobs
  v_problem text;
  v_list_answer jsonb;
  v_answer jsonb;
  v_started_at timestamptz := clock_timestamp();
begin
  perform picture_queue._check_isolation();
  perform set_config('picture_queue.is_worker', 'true', true);  -- read by _check_deferred_constraints
  perform picture_queue._raise_problem(
    case when jsonb_typeof(leases) is distinct from 'array' then 'leases is not a list of {job_id, lease_id}' end);
  while v_lists <> '{}' and clock_timestamp() < v_started_at + interval '2 seconds' loop
    v_list := v_lists[1];
    v_lists := v_lists[2:];
    v_list_length := jsonb_array_length(v_list);
    begin
      begin
        v_list_answer := picture_queue._heartbeat(worker, v_list, clock_timestamp() > v_started_at + interval '0.5 seconds');
      exception when others then  -- any error, since a trigger of the project may raise one for one of the jobs
        if v_list_length > 1 then
          v_lists := array[
            jsonb_path_query_array(v_list, '$[0 to $n]', jsonb_build_object('n', v_list_length / 2 - 1)),
            jsonb_path_query_array(v_list, '$[$n to last]', jsonb_build_object('n', v_list_length / 2))] || v_lists;
          continue;
        end if;
        v_list_answer := picture_queue._heartbeat(worker, v_list, true);
      end;
      select jsonb_object_agg(k, coalesce(v_answer -> k, '[]') || coalesce(v_list_answer -> k, '[]')) into v_answer
      from unnest('{cancel,lost,lost_leases}'::text[]) k;
    exception
      when data_exception then
        v_malformed := v_malformed || jsonb_build_array(v_list #> '{0,job_id}');
        v_problem := sqlerrm;
      when lock_not_available then
        v_busy := v_busy || jsonb_build_array(v_list #> '{0,job_id}');  -- another heartbeat is extending this lease
    end;
  end loop;
  foreach v_list in array v_lists loop
    v_busy := v_busy || jsonb_path_query_array(v_list, 'lax $[*].job_id');
  end loop;
  if v_answer is null then
    perform picture_queue._raise_problem(v_problem, 'leases is a list of {job_id, lease_id}');
    return picture_queue._raise_busy('another transaction has locked the leases or the table of jobs');
  end if;
  v_answer := v_answer || jsonb_build_object('lost', v_answer -> 'lost' || v_malformed, 'busy', v_busy);
  -- lost_leases has entries only if the call names two leases of a job; see _heartbeat. An empty lost_leases or busy is
  -- left out.
  return v_answer - array(select k from unnest('{lost_leases,busy}'::text[]) k where v_answer -> k = '[]');
end
$$;
comment on function public.heartbeat_jobs is
  'Extends leases; returns the jobs to cancel, the lost jobs, and the jobs whose lease was not extended (busy).';

-- Writes the progress of a job under its lease. It sends at most two progress events per job and second, but always
-- those for 0 and 100. It waits for a locked row for at most 10 milliseconds, since a waiting call occupies a
-- connection of the worker or of the API that other calls need.
create function public.report_progress(job_id uuid, lease_id uuid, progress integer, message text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
set plan_cache_mode = force_generic_plan
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_job record;
  v_announce boolean;
begin
  perform picture_queue._raise_problem(
    case when coalesce(progress, -1) not between 0 and 100 then format('progress is %s, not 0 to 100', progress) end, 'pass percent');
  v_job := picture_queue._lock_job(job_id, lease_id);
  v_announce := progress in (0, 100)
    or coalesce(v_job.progress_event_at < v_now - interval '0.5 seconds', true);
  update public.job_queue j set
    progress = report_progress.progress,
    message = left(report_progress.message, 500),
    unconfirmed_claims = 0,
    version = j.version + 1,
    updated_at = v_now,
    progress_event_at = case when v_announce then v_now else j.progress_event_at end
  where j.id = job_id
  returning * into v_job;
  if v_announce and exists (select from picture_queue.queue q where q.name = v_job.queue and q.events = 'progress') then
    perform picture_queue._emit(array[job_id]);
  end if;
  perform picture_queue._check_deferred_constraints();
  return jsonb_build_object('cancel_requested', v_job.cancel_requested_at is not null);
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', job_id));
  raise;
end
$$;
comment on function public.report_progress is 'Writes the progress of a job, in percent, under its lease.';

-- Writes the outcomes of attempts and, in the same round trip, claims the next jobs if claim is given. If the outcomes
-- cannot be written together (an outcome is malformed, or its job is locked for longer than lock_timeout), they are
-- written one by one, so that this outcome does not delay the others. If the report has a single outcome, a locked job
-- raises PQ_BUSY, and a malformed value PQ_INVALID_ARGUMENT. After any other error, nothing is written for the job, and
-- the answer for the job is "refused". An error of the claim does not undo the report: claim_error has its text.
create function public.report_jobs(outcomes jsonb, claim jsonb default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '300ms'
as $$
declare
  v_outcomes jsonb;
  v_jobs jsonb := '[]'::jsonb;
  v_error text;
  v_detail text;
begin
  perform picture_queue._check_isolation();
  perform set_config('picture_queue.is_worker', 'true', true);  -- read by _check_deferred_constraints
  begin
    v_outcomes := picture_queue._report(outcomes);
  exception when others then
    if coalesce(jsonb_array_length(case jsonb_typeof(outcomes) when 'array' then outcomes end), 0) < 2 then
      if picture_queue._is_transient(sqlstate) then
        perform picture_queue._raise_busy();
      elsif sqlstate like 'PT%' then
        raise;
      end if;
    end if;
    v_outcomes := picture_queue._report_each(outcomes);
  end;
  if jsonb_typeof(claim) <> 'null' then
    begin
      perform picture_queue._raise_problem(case when jsonb_typeof(claim) <> 'object' then 'claim is not an object' end);
      select public.claim_jobs(
        c.worker, c.queues, c.job_types, c.max_jobs, c.lease_seconds, c.request_id, c.weights, c.confirms_start)
      into v_jobs
      from jsonb_to_record(claim) as c (worker text, queues text[], job_types text[], max_jobs integer,
        lease_seconds real, request_id uuid, weights real[], confirms_start boolean);
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      -- An error without one of our codes means that a parameter has the wrong type.
      v_error := case when sqlstate not like 'PT%' then 'PQ_INVALID_ARGUMENT: claim: ' else '' end
        || concat_ws(': ', sqlerrm, nullif(v_detail, ''));
    end;
  end if;
  return jsonb_build_object('outcomes', v_outcomes, 'jobs', v_jobs)
    || jsonb_strip_nulls(jsonb_build_object('claim_error', v_error));
end
$$;
comment on function public.report_jobs is
  'Writes the outcomes of attempts, many at a time, and may claim the next jobs.';

-- Ends one attempt and returns the new status of the job: if error is null, the job is completed; otherwise it is
-- retried or failed. Only a legacy lease, which claim_next_job grants, may be ended without its lease_id.
create function public.complete_job(
  job_id uuid, result jsonb default null, error text default null, lease_id uuid default null)
returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_outcome jsonb;
begin
  v_job := picture_queue._lock_job(job_id, p_needs_lease => false);
  if lease_id is null and not (v_job.lease_is_legacy and v_job.lease_id is not null) then
    perform picture_queue._raise_error('PQ_STALE_LEASE', format('job %s was not claimed by claim_next_job', job_id), 'pass its lease_id');
  end if;
  v_outcome := picture_queue._report(jsonb_build_array(jsonb_build_object(
    'job_id', job_id, 'lease_id', coalesce(lease_id, v_job.lease_id), 'result', result, 'error', error,
    'outcome', case when error is null then 'completed' else 'failed' end))) -> 0;
  if v_outcome ->> 'outcome' = 'stale' then
    perform picture_queue._raise_error('PQ_STALE_LEASE', format('job %s is %s', job_id, v_job.status));
  end if;
  return v_outcome ->> 'status';
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', job_id));
  raise;
end
$$;
comment on function public.complete_job is 'Ends one attempt: completed, or retried or failed when error is given.';


-- 330_function_cancel_retry.sql

-- Cancels a job, for its owner or a service key. picture_queue.cancel_job checks the caller's right to the job.
create function public.cancel_job(job_id uuid, request_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.cancel_job(job_id, request_id) $$;
comment on function public.cancel_job is 'Cancels a pending job at once; asks a running one to stop.';

-- Makes a failed or cancelled job pending again, with one more attempt if it has none left. A job whose parents have
-- not finished waits for them; a job whose parent is still failed or cancelled is refused. A pending job stays
-- unchanged, so the call can be repeated.
create function public.retry_job(job_id uuid, request_id uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_answer jsonb := picture_queue._find_answer('retry_job', request_id::text);
  v_status text;
  v_parent record;
begin
  if v_answer is not null then
    return v_answer;
  end if;
  v_status := (picture_queue._lock_job(job_id, p_needs_lease => false)).status;
  if v_status = 'completed' then
    perform picture_queue._raise_error('PQ_FINISHED_JOB', format('job %s is completed', job_id),
      'only a failed or cancelled job can be retried');
  elsif v_status = 'processing' then
    perform picture_queue._raise_error('PQ_RUNNING_JOB', format('job %s is processing', job_id));
  end if;
  select f.* into v_parent from picture_queue._failed_parents(array[job_id]) f limit 1;
  if found and v_status <> 'pending' then
    perform picture_queue._raise_error('PQ_CONFLICT',
      format('job %s depends on job %s, which is %s', job_id, v_parent.parent_id, v_parent.status),
      format('retry job %s first', v_parent.parent_id));
  elsif v_status <> 'pending' and picture_queue._retry_jobs(array[job_id]) = 0 then
    perform picture_queue._raise_error('PQ_CONFLICT', format('the unique key of job %s belongs to another job now', job_id),
      'cancel the other job first');
  end if;
  perform picture_queue._check_deferred_constraints();
  return picture_queue._store_answer('retry_job', request_id::text,
    jsonb_build_object('job_id', job_id, 'status', 'pending'));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('job %s is locked by another transaction', job_id));
  raise;
end
$$;
comment on function public.retry_job is 'Makes a failed or cancelled job pending again.';


-- 338_function__jobs_where.sql

-- Returns the SQL condition for a filter, for a query with job_queue as j. The condition becomes part of the text of
-- the query, so that Postgres plans each filter with the index that fits. Refuses unknown keys and invalid values, and
-- ignores keys whose value is null. Keys that every job fits add no condition. So the condition of a filter that
-- selects every job is 'true'. p_caller_rules: rules for keys that the caller handles itself. It reads no table, so
-- users may execute it.
create function picture_queue._jobs_where(p_filter jsonb, p_caller_rules jsonb default '{}') returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_filter jsonb := coalesce(nullif(p_filter, 'null'), '{}');
  v_where text;
begin
  perform picture_queue._check_fields('filter.', v_filter, p_caller_rules || '{
    "job_ids": ["uuids", 10000],
    "queue": ["text", 2000],
    "status": ["choice", "pending", "processing", "completed", "failed", "cancelled"],
    "hold": ["choice", "scheduled", "blocked", "waiting", "parked"],
    "job_type": ["text", 2000],
    "tag": ["text", 2000],
    "user_id": ["uuid"],
    "tenant": ["text", 2000],
    "batch_id": ["uuid"],
    "error": ["text", 2000],
    "reason": ["text", 2000],
    "metadata": ["object", 65536],
    "created_before": ["moment"],
    "created_after": ["moment"],
    "finished_before": ["moment"],
    "finished_after": ["moment"]
  }');
  select string_agg(' and ' || picture_queue._filter_condition(e.key, e.value #>> '{}'), '' order by e.key) into v_where
  from jsonb_each(v_filter) e
  where e.value <> 'null' and not p_caller_rules ? e.key and not case e.key
    when 'metadata' then e.value = '{}'
    when 'created_before' then (e.value #>> '{}')::timestamptz = 'infinity'
    when 'created_after' then (e.value #>> '{}')::timestamptz = '-infinity'
    else false end;
  return 'true' || coalesce(v_where, '');
end
$$;

-- Returns the condition for one key of a filter. It adds conditions that follow from this one, so that the planner can
-- use the partial indexes.
create function picture_queue._filter_condition(p_key text, p_value text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case p_key
    when 'job_ids' then format('j.id = any (%L::uuid[])', array(select jsonb_array_elements_text(p_value::jsonb)))
    when 'status' then format('j.status = %L', p_value) || case p_value
      when 'pending' then ''
      when 'processing' then ' and (j.hold is null or j.hold = ''parked'')'
      else ' and j.finished_at is not null' end
    when 'hold' then format('j.hold = %L', p_value) || case p_value
      when 'parked' then ' and j.status = ''processing'''
      when 'blocked' then ' and j.status = ''pending'' and j.blocked_on is not null'
      else ' and j.status = ''pending''' end
    when 'tag' then format('%L = any (j.tags)', p_value)
    when 'user_id' then format('j.user_id = %L', p_value)
    when 'batch_id' then format('j.batch_id = %L', p_value)
    when 'tenant' then format('coalesce(j.tenant, j.user_id::text) = %L', p_value)
    when 'error' then format('strpos(lower(j.error), lower(%L)) > 0', p_value)
    when 'reason' then format('picture_queue._reason(j.error) = %L', p_value)
    when 'metadata' then format('j.metadata @> %L', p_value)
    when 'created_before' then format('j.created_at < %L', p_value)
    when 'created_after' then format('j.created_at > %L', p_value)
    when 'finished_before' then format(
      'j.status in (''completed'', ''failed'', ''cancelled'') and j.finished_at < %L', p_value)
    when 'finished_after' then format(
      'j.status in (''completed'', ''failed'', ''cancelled'') and j.finished_at > %L', p_value)
    else format('j.%I = %L', p_key, p_value)
  end
$$;


-- 340_function_read.sql

-- The functions in this file run with the rights of the caller: row level security decides which rows the caller sees.
create function public.get_job(job_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._require((select to_jsonb(j) from public.job_queue j where j.id = get_job.job_id),
    'PQ_UNKNOWN_JOB', format('job_id is %s', get_job.job_id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.get_job is 'A job of the caller.';

-- Lists jobs, newest first. filter: the keys of _jobs_where; limit (1 to 1000, default 100); before_seq (the seq of
-- the last row of the previous page). A page ends after limit rows, or with the row that makes it larger than 8 MiB.
--
-- The query is written so that the planner's choice of an index does not depend on statistics:
-- - If the filter has an owner, a batch or ids, it reads the index of that column. `offset 0` keeps the planner from
--   using an index of the other conditions.
-- - If the filter has a finishing time or a hold, the planner chooses its partial index.
-- - Otherwise it reads jobs by queue and status, newest first, in ranges of seq. The index job_queue_listed has all
--   jobs except running and parked ones, for which there are other indexes. Each range is four times as long as the
--   range before, so that rare jobs are found in few steps. The first range has no upper bound unless the filter has
--   before_seq, since a running job may be newer than all other jobs.
create function public.list_jobs(filter jsonb default '{}') returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set seq_page_cost = 100
as $$
declare
  v_where text := picture_queue._jobs_where(
    filter, '{"limit": ["integer", 1, 1000], "before_seq": ["integer", 0, 999999999999999999]}');
  v_limit bigint := coalesce((filter ->> 'limit')::bigint, 100);
  v_upper_seq bigint := coalesce((filter ->> 'before_seq')::bigint, 9223372036854775807);
  v_lower_seq bigint := 0;
  v_seq_span bigint := v_limit * 4;  -- the length of the next range of seq
  v_owner text := filter ->> 'user_id';
  v_listed_filter jsonb := coalesce(nullif(filter, 'null'), '{}') - '{status,limit,before_seq}'::text[];
  v_range_where text := ' and j.seq >= $1 and j.seq < $2 order by j.seq desc limit $3';
  v_listed_where text;
  v_queues text[];
  v_from_clause text;
  v_job jsonb;
  v_jobs jsonb[] := '{}'::jsonb[];
  v_bytes bigint := 0;
begin
  -- If our policy is the only one for reads, users see only their own jobs, so read the index by owner. A project may
  -- have added policies that show users more jobs.
  if row_security_active('public.job_queue') and 1 = (
    select count(*) from pg_catalog.pg_policy p where p.polrelid = 'public.job_queue'::regclass and p.polcmd in ('r', '*'))
  then
    v_owner := coalesce(auth.uid(), '00000000-0000-0000-0000-000000000000');
  end if;
  if coalesce(filter ->> 'job_ids', filter ->> 'batch_id', v_owner) is not null then
    v_from_clause := format('(select * from public.job_queue o where o.%s and o.seq < $2 order by o.seq desc offset 0) j where %s',
      case when filter ->> 'job_ids' is not null
          then format('id = any (%L)', array(select jsonb_array_elements_text(filter -> 'job_ids')))
        when filter ->> 'batch_id' is not null then format('batch_id = %L', filter ->> 'batch_id')
        else format('user_id = %L', v_owner) end, v_where);
  elsif coalesce(filter ->> 'finished_before', filter ->> 'finished_after', nullif(filter ->> 'hold', 'waiting')) is not null then
    v_from_clause := format('public.job_queue j where j.seq < $2 and %s', v_where);
  else
    v_listed_where := picture_queue._jobs_where(v_listed_filter - 'queue') || v_range_where;
    v_where := picture_queue._jobs_where(v_listed_filter) || v_range_where;
    select format('(%s) j', string_agg(case when s.hold is null
        then format('select l.* from unnest($4) q (name) cross join lateral (select * from public.job_queue j '
          'where j.queue = q.name and j.status = %L and %s) l', s.status, v_listed_where)
        else format('(select * from public.job_queue j where j.status = %L and %s and %s)', s.status, s.hold, v_where) end,
      ' union all ')) into v_from_clause
    from (values ('pending', null), ('completed', null), ('failed', null), ('cancelled', null),
      ('processing', 'j.hold is null'), ('processing', 'j.hold = ''parked''')) as s (status, hold)
    where s.status = coalesce(filter ->> 'status', case when filter ->> 'hold' = 'waiting' then 'pending' end, s.status);
    with recursive queues (name) as (
      select coalesce(filter ->> 'queue', (select min(j.queue) from public.job_queue j where j.status <> 'processing'))
      union all
      select (select min(j.queue) from public.job_queue j where j.status <> 'processing' and j.queue > q.name)
      from queues q where filter ->> 'queue' is null and q.name is not null
    )
    select array_agg(q.name), max(greatest(
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'pending'),
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'completed'),
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'failed'),
      (select max(j.seq) from public.job_queue j where j.queue = q.name and j.status = 'cancelled')))
    into v_queues, v_lower_seq
    from queues q where q.name is not null;
    v_lower_seq := greatest(least(v_upper_seq, coalesce(v_lower_seq, 0) + 1) - v_seq_span, 0);
  end if;
  loop
    for v_job in execute format('select to_jsonb(j) from (select j.* from %s order by j.seq desc limit $3) j', v_from_clause)
      using v_lower_seq, v_upper_seq, v_limit - cardinality(v_jobs), v_queues
    loop
      v_jobs := v_jobs || v_job;
      v_bytes := v_bytes + pg_column_size(v_job);
      exit when v_bytes > 8388608;  -- 8 MiB
    end loop;
    exit when v_lower_seq = 0 or cardinality(v_jobs) = v_limit or v_bytes > 8388608;
    v_upper_seq := v_lower_seq;
    v_seq_span := v_seq_span * 4;
    v_lower_seq := greatest(v_upper_seq - v_seq_span, 0);
  end loop;
  return to_jsonb(v_jobs);
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.list_jobs is 'Jobs of the caller, newest first.';

-- Returns a generation with its images. Users may execute this function, since it runs with the rights of the caller.
create function picture_queue._with_images(p_generation public.generations) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$
  select to_jsonb(p_generation) || jsonb_build_object('images', coalesce(
    (select jsonb_agg(to_jsonb(i) order by i.n) from public.images i where i.generation_id = p_generation.id), '[]'))
$$;

create function public.get_generation(generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._require((
    select picture_queue._with_images(g) from public.generations g
    where g.id = get_generation.generation_id and not g.deleted),
    'PQ_UNKNOWN_GENERATION', format('generation_id is %s', get_generation.generation_id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.get_generation is 'A generation of the caller with its images.';

-- Lists generations, newest first. filter: status, model_id, kind, favourite (true or false), user_id; search (words
-- that the prompt has, in any order, ignoring case); limit (1 to 1000, default 100); before and before_id (created_at
-- and id of the last row of the previous page; the id separates rows with the same time). A page ends after limit rows,
-- or with the row that makes it larger than 8 MiB.
--
-- With custom plans the planner sees which conditions the filter has, so that it can use the index of the favourites.
create function public.list_generations(filter jsonb default '{}') returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_custom_plan
as $$
declare
  v_generation jsonb;
  v_generations jsonb[] := '{}'::jsonb[];
  v_bytes bigint := 0;
  v_matching_ids uuid[];
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'), picture_queue._generation_filter());
  if filter ->> 'before' is null and filter ->> 'before_id' is not null then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('filter.before_id is %s without filter.before', filter ->> 'before_id'),
      'pass created_at and id of the last generation of the previous page');
  elsif filter ->> 'search' is not null then
    v_matching_ids := picture_queue.search_generations(filter);
  end if;
  for v_generation in
    select picture_queue._with_images(g) from public.generations g
    where not g.deleted
      and (filter ->> 'search' is null or g.id = any (v_matching_ids))
      and (filter ->> 'status' is null or g.status = filter ->> 'status')
      and (filter ->> 'model_id' is null or g.model_id = filter ->> 'model_id')
      and (filter ->> 'kind' is null or g.kind = filter ->> 'kind')
      and (filter ->> 'favourite' is null or g.favourite = (filter ->> 'favourite')::boolean)
      and (filter ->> 'user_id' is null or g.user_id = (filter ->> 'user_id')::uuid)
      and (g.created_at, g.id) < (coalesce((filter ->> 'before')::timestamptz, 'infinity'),
        coalesce((filter ->> 'before_id')::uuid, '00000000-0000-0000-0000-000000000000'))
    order by g.created_at desc, g.id desc limit coalesce((filter ->> 'limit')::bigint, 100)
  loop
    v_generations := v_generations || v_generation;
    v_bytes := v_bytes + pg_column_size(v_generation);
    exit when v_bytes > 8388608;  -- 8 MiB
  end loop;
  return to_jsonb(v_generations);
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.list_generations is 'Generations of the caller with their images, newest first.';


-- 342_function_failures.sql

-- Dead letters: the reasons of failures. Changes of locked jobs: discard and cancel.

-- Returns the reason of an error: its text without the parts that differ from one failure to the next (quoted text, ids
-- and numbers).
create function picture_queue._reason(p_error text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    left(p_error, 2000),
    '"[^"]*"|`[^`]*`|(?<![[:alnum:]])''[^'']*''(?![[:alnum:]])', '"…"', 'g'),
    '[[:<:]][0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}[[:>:]]', 'ID', 'gi'),
    '[[:<:]](?=[[:alpha:]]*[0-9])[0-9a-z]{12,}[[:>:]]|[[:<:]]0x[0-9a-f]+[[:>:]]', 'ID', 'gi'),
    '[0-9]+([.,][0-9]+)*', 'N', 'g'), 500)
$$;

-- Counts the newest 10,000 failed jobs of a filter by reason, the most frequent first. If the filter names another
-- status, it counts the jobs in that status that have an error, such as jobs that wait for a retry.
create function public.failure_reasons(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_where text := picture_queue._jobs_where(case when filter ->> 'status' is not null then filter
    else coalesce(nullif(filter, 'null'), '{}') || '{"status": "failed"}' end);
  v_reasons jsonb;
begin
  execute format($sql$
    with failed as materialized (
      select j.id, coalesce(j.error, '') as error, j.job_type, coalesce(j.finished_at, j.updated_at) as failed_at
      from public.job_queue j
      where %s and (j.status = 'failed' or j.error is not null) order by j.finished_at desc limit 10000
    ),
    -- Compute the reason once for each text, since many texts are equal.
    reasons as materialized (
      select d.error, picture_queue._reason(d.error) as reason from (select distinct f.error from failed f) d
    )
    select coalesce(jsonb_agg(jsonb_build_object('reason', g.reason, 'count', g.n, 'job_types', g.job_types,
      'first_at', g.first_at, 'last_at', g.last_at, 'example_job_id', g.example) order by g.n desc, g.last_at desc), '[]')
    from (
      select r.reason, count(*) as n, array_agg(distinct f.job_type order by f.job_type) as job_types,
        min(f.failed_at) as first_at, max(f.failed_at) as last_at, (array_agg(f.id order by f.failed_at desc))[1] as example
      from failed f join reasons r on r.error = f.error
      group by r.reason order by n desc, last_at desc limit 100
    ) g $sql$, v_where)
  into v_reasons;
  return v_reasons;
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.failure_reasons is 'Counts failed jobs by reason.';

-- Deletes finished jobs with their history and log, and subtracts them from the counts. The caller has locked the
-- jobs. Batches keep their counts. A job is kept while it has children that are not resolved yet, since these need its
-- status. Returns the number of deleted jobs.
create function picture_queue._discard_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_discarded integer;
begin
  perform picture_queue._check_references();
  with deleted as (
    delete from public.job_queue j where j.id = any (p_ids) and j.finished_at is not null
      and not exists (select from picture_queue.dependency d where d.parent_id = j.id)
    returning j.queue, j.status
  ),
  counted as (
    insert into picture_queue.depth_change (queue, status, hold, n, at)
    select d.queue, d.status, null, -count(*), picture_queue._now() from deleted d group by d.queue, d.status
  )
  select count(*) into v_discarded from deleted;
  return v_discarded;
end
$$;

-- Cancels locked jobs, as cancel_job cancels one: a pending job ends, a running job is asked to stop, a parked job is
-- claimed once more. A pending job with a prediction in progress, for example after a snooze, is claimed once more
-- too, since its handler must cancel the prediction. p_reason: the error of the jobs that end. Returns the number of
-- jobs.
create function picture_queue._cancel_jobs(p_ids uuid[], p_reason text default null) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_changes picture_queue.change[];
  v_queues text[];
begin
  with requested as (
    update public.job_queue j set cancel_requested_at = picture_queue._now() where j.id = any (p_ids)
    returning j.id, j.queue, j.status, j.hold, j.generation_id
  )
  select array_agg(picture_queue._change(a.id, a.action, case a.action when 'cancel' then p_reason end))
      filter (where a.action is not null),
    array_agg(distinct a.queue) filter (where a.status = 'processing')
  into v_changes, v_queues
  from (
    select r.id, r.queue, r.status, case
      when r.hold = 'parked' then 'wake'
      when r.status = 'processing' then null
      when r.generation_id is null or not picture_queue._has_live_prediction(r.generation_id) then 'cancel'
      when r.hold = 'scheduled' then 'promote' end as action
    from requested r
  ) a;
  perform picture_queue._transition(v_changes);
  perform picture_queue._wake_workers(v_queues, 'cancel');
  return cardinality(p_ids);
end
$$;


-- 343_function_change_jobs.sql

-- Retries, and changes of many jobs at once.

-- Returns the dependencies of these jobs that prevent a retry: their parent failed or was cancelled, and
-- on_parent_failure is not 'run'.
create function picture_queue._failed_parents(p_children uuid[])
returns table (child_id uuid, parent_id uuid, status text)
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return query
  select d.child_id, d.parent_id, p.status
  from (
    select f.* from picture_queue.failed_dependency f where f.child_id = any (p_children)
    union all
    -- Links that no follow-up has resolved yet.
    select o.* from picture_queue.dependency o where o.child_id = any (p_children)
  ) d
  cross join lateral (select j.status from public.job_queue j where j.id = d.parent_id offset 0) p
  where d.on_parent_failure <> 'run' and p.status in ('failed', 'cancelled')
  order by d.child_id, d.parent_id;
end
$$;

-- Makes retried jobs wait again for the parents that have not finished. A parent may finish in a transaction that does
-- not see the restored link, so follow-ups check these children again, like new children.
create function picture_queue._restore_dependencies(p_children uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  with removed as (
    delete from picture_queue.failed_dependency f where f.child_id = any (p_children)
    returning f.child_id, f.parent_id, f.on_parent_failure
  ),
  restored as (
    insert into picture_queue.dependency (child_id, parent_id, on_parent_failure)
    select r.child_id, r.parent_id, r.on_parent_failure
    from removed r
    cross join lateral (select j.finished_at from public.job_queue j where j.id = r.parent_id offset 0) p
    where p.finished_at is null
    on conflict do nothing
    returning child_id
  )
  insert into picture_queue.follow_up (kind, subject)
  select distinct 'child', r.child_id from restored r;
  perform picture_queue._transition((
    select array_agg(picture_queue._change(d.child_id, 'wait'))
    from (select distinct o.child_id from picture_queue.dependency o where o.child_id = any (p_children)) d));
end
$$;

-- Retries jobs that the caller has locked. Of several jobs with the same unique key it retries only the newest, and
-- none if the key belongs to another job now. A job whose parents have not finished waits for them again; a job whose
-- parent is still failed or cancelled is not retried. Returns the number of retried jobs.
create function picture_queue._retry_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_excluded uuid[] := array(select distinct f.child_id from picture_queue._failed_parents(p_ids) f);
  v_changes picture_queue.change[];
  v_changed_jobs picture_queue.changed_job[];
begin
  select array_agg(picture_queue._change(p.id, 'retry')) into v_changes
  from (
    select j.id, case when 'pending' = any (j.unique_states) then j.unique_key end as unique_key,
      row_number() over (
        partition by j.unique_key, 'pending' = any (j.unique_states) order by j.seq desc) as nth
    from public.job_queue j where j.id = any (p_ids) and j.id <> all (v_excluded)
  ) p
  where p.unique_key is null or p.nth = 1 and not exists (
    select from public.job_queue o
    where o.unique_key = p.unique_key and o.status = any (o.unique_states) and o.id <> p.id);
  v_changed_jobs := picture_queue._transition(v_changes);
  perform picture_queue._renumber_jobs(p_ids);
  perform picture_queue._restore_dependencies(array(select m.id from unnest(v_changed_jobs) m));
  perform picture_queue._wake_workers(array(select distinct m.queue from unnest(v_changed_jobs) m), 'enqueue');
  return coalesce(cardinality(v_changed_jobs), 0);
exception when unique_violation then
  perform picture_queue._raise_error('PQ_CONFLICT', 'a job with one of the unique keys was enqueued just now', 'repeat the call');
  return null;
end
$$;

-- Returns the jobs of this list that one call may retry: all but generations beyond the first p_max_generations. Each
-- generation reserves its cost, and if the project has a budget, every start waits for its account until the call has
-- ended. So generations come last.
create function picture_queue._choose_retries(p_ids uuid[], p_max_generations integer) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return array(
    select c.id
    from (
      select u.id, j.is_generation, row_number() over (partition by j.is_generation order by u.n) as place
      from unnest(p_ids) with ordinality as u (id, n)
      cross join lateral (
        select o.generation_id is not null as is_generation from public.job_queue o where o.id = u.id offset 0) j
    ) c
    where not c.is_generation or c.place <= p_max_generations
    order by c.is_generation, c.place);
end
$$;

-- Returns the SQL condition for jobs that an action can change now. Without it, thousands of jobs that cannot change
-- would hide the others from a call that takes the first 10,000. Scalar subqueries keep the plan of the filter: each
-- searches an index once for each job.
create function picture_queue._changeable_condition(p_action text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case p_action
    when 'retry' then ' and (
      select true from picture_queue.failed_dependency d
      cross join lateral (select p.status from public.job_queue p where p.id = d.parent_id offset 0) p
      where d.child_id = j.id and d.on_parent_failure <> ''run'' and p.status in (''failed'', ''cancelled'') limit 1) is null
      and (j.unique_key is null or ''pending'' <> all (j.unique_states) or (
        select true from public.job_queue o
        where o.unique_key = j.unique_key and o.status = any (o.unique_states) and o.id <> j.id limit 1) is null)'
    when 'discard' then ' and (select true from picture_queue.dependency d where d.parent_id = j.id limit 1) is null'
    else ' and j.cancel_requested_at is null' end
$$;

-- Locks and returns up to p_limit jobs that meet one of the conditions and the further condition p_and; skips locked
-- jobs, and the jobs p_except. Each of the conditions has its own query: with one query for all states, Postgres 15 may
-- read all jobs of a queue.
create function picture_queue._lock_matching(
  p_conditions text[], p_and text, p_order text, p_limit integer, p_except uuid[])
returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_condition text;
  v_found uuid[];
  v_ids uuid[] := '{}'::uuid[];
begin
  foreach v_condition in array p_conditions loop
    if cardinality(v_ids) < p_limit then
      execute format('select array(select j.id from public.job_queue j where %s %s %s %s limit %s for update skip locked)',
        v_condition, p_and, case when p_except <> '{}' then 'and j.id <> all ($1)' end, p_order, p_limit - cardinality(v_ids))
      into v_found using p_except;
      v_ids := v_ids || v_found;
    end if;
  end loop;
  return v_ids;
end
$$;

-- Does a step (retry, cancel, discard or purge) for up to p_limit of the p_matched jobs that meet one of the
-- conditions. Jobs for which the step failed before come last. A retry goes on with the children of the jobs that it
-- has retried. Returns the number of changed jobs, and whether jobs are left that another call may change. A caller may
-- repeat the call until more is false: each call changes a job, or records the failure of one that had not failed
-- before, or raises PQ_BUSY, or has spent two seconds on jobs for which the step fails.
create function picture_queue._change_matching(
  p_step text, p_conditions text[], p_matched bigint, p_limit integer, p_order text,
  out changed integer, out more boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_changeable text := picture_queue._changeable_condition(p_step);
  v_has_failed text := format(
    '(select true from picture_queue.failed_step f where f.kind = %L and f.subject = j.id::text)', p_step);
  v_any_failed boolean := exists (select from picture_queue.failed_step f where f.kind = p_step);
  v_new uuid[] := '{}'::uuid[];  -- jobs for which the step had not failed
  v_ids uuid[];
  v_tried uuid[] := '{}'::uuid[];
  v_generations integer := 0;
  v_changed integer;
  v_condition text;
  v_is_left boolean;
begin
  changed := 0;
  more := false;
  for v_round in 1 .. 20 loop
    v_ids := picture_queue._lock_matching(p_conditions,
      v_changeable || case when v_any_failed then format(' and %s is null', v_has_failed) else '' end, p_order,
      p_limit - cardinality(v_tried), v_tried);
    if v_round = 1 and v_ids = '{}' and not v_any_failed then
      -- All jobs may be locked. Wait for one of them within lock_timeout, since most transactions are short.
      begin
        foreach v_condition in array p_conditions loop
          execute format('select true from public.job_queue j where %s %s %s limit 1 for update', v_condition, v_changeable, p_order)
          into v_is_left;
          exit when v_is_left;
        end loop;
      exception when lock_not_available or deadlock_detected then
        perform picture_queue._raise_busy('the matching jobs are locked by other transactions');
      end;
      v_ids := picture_queue._lock_matching(p_conditions, v_changeable, p_order, p_limit, '{}');
    end if;
    v_new := v_new || v_ids;
    if v_any_failed and v_round = 1 then
      v_ids := v_ids || picture_queue._lock_matching(p_conditions, format('%s and %s', v_changeable, v_has_failed), p_order,
        p_limit - cardinality(v_ids), '{}');
    end if;
    if p_step = 'retry' then
      v_ids := picture_queue._choose_retries(v_ids, 500 - v_generations);
      v_generations := v_generations + (
        select count(*) from public.job_queue j where j.id = any (v_ids) and j.generation_id is not null);
    end if;
    v_changed := picture_queue._run_isolated(p_step, v_ids::text[], 1000);
    v_tried := v_tried || v_ids;
    changed := changed + v_changed;
    exit when p_step <> 'retry' or v_changed = 0 or cardinality(v_tried) >= p_limit
      or not exists (select from picture_queue.failed_dependency) or picture_queue._is_out_of_time();
  end loop;

  if changed = p_matched then
    return;
  end if;
  foreach v_condition in array p_conditions loop
    execute format('select exists (select from public.job_queue j where %s %s and (%s is null or $1 and j.id <> all ($2)))',
      v_condition, v_changeable, v_has_failed)
    into v_is_left using changed > 0, v_tried;
    more := more or v_is_left;
  end loop;
  if more and changed = 0 and not picture_queue._is_out_of_time() and not exists (
    select from picture_queue.failed_step f where f.kind = p_step and f.subject = any (v_new::text[]))
  then
    perform picture_queue._raise_busy('the matching jobs are locked by other transactions, or wait for maintenance');
  end if;
end
$$;

-- Retries, cancels or discards the jobs of a filter: up to 10,000 in a call, or filter.limit. retry applies to failed
-- jobs, and to cancelled jobs if the filter has that status; cancel to pending and processing jobs; discard to
-- finished jobs. Locked jobs are skipped; if all are locked, PQ_BUSY. A call retries up to 500 generations. The answer
-- has matched (counted up to 100,000), changed, and more: whether jobs are left that another call may change. With
-- preview the call only counts. An empty filter is refused, since it would select every job.
create function public.change_jobs(
  action text, filter jsonb, preview boolean default false, request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_limit_rule jsonb := jsonb '{"limit": ["integer", 1, 10000]}';
  v_where text := picture_queue._jobs_where(filter, v_limit_rule);
  v_limit integer := coalesce((filter ->> 'limit')::integer, 10000);
  v_states text[] := case action
    when 'retry' then case when filter ->> 'status' is null then array['failed'] else array['failed', 'cancelled'] end
    when 'cancel' then array['pending', 'processing', 'parked']
    when 'discard' then array['completed', 'failed', 'cancelled'] end;
  v_conditions text[];
  v_condition text;
  v_count bigint;
  v_matched bigint := 0;
  v_changed integer := 0;
  v_more boolean;
  v_answer jsonb := picture_queue._find_answer('change_jobs', request_id::text);
begin
  perform picture_queue._check_isolation();
  if v_answer is not null then
    return v_answer;
  end if;
  perform picture_queue._raise_problem(case
    when v_states is null then format('action is %s', left(quote_nullable(action), 100))
    when v_where = 'true' then 'filter selects every job'
  end, 'an action is retry, cancel or discard; all failed jobs are {"status": "failed"}');
  if action = 'discard' and not coalesce(preview, false) then
    perform picture_queue._check_references();
  end if;
  v_conditions := array(
    select v_where || ' and ' || case s.state
      when 'parked' then picture_queue._filter_condition('hold', s.state)
      when 'processing' then 'j.status = ''processing'' and j.hold is null'
      else picture_queue._filter_condition('status', s.state) end
    from unnest(v_states) with ordinality as s (state, n) order by s.n);
  foreach v_condition in array v_conditions loop
    execute format('select count(*) from (select from public.job_queue j where %s limit %s) m', v_condition, 100000 - v_matched)
    into v_count;
    v_matched := v_matched + v_count;
  end loop;
  v_more := v_matched > v_limit;
  if v_matched > 0 and not coalesce(preview, false) then
    select c.changed, c.more into v_changed, v_more
    from picture_queue._change_matching(action, v_conditions, v_matched, v_limit, '') c;
  end if;
  return picture_queue._store_answer('change_jobs', request_id::text, jsonb_build_object(
    'matched', v_matched, 'changed', v_changed, 'more', v_more));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.change_jobs is 'Retries, cancels or discards the jobs of a filter; preview only counts.';


-- 350_function_worker.sql

-- Registers a worker, its queues, and its job types with their policies. The call is idempotent.
create function public.register_worker(worker text, queues text[], job_types jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(coalesce(
    case when coalesce(length(worker), 0) not between 1 and 200 or worker ~ '[[:cntrl:]]'
      then format('worker is %s, not 1 to 200 characters without line breaks',
        coalesce(to_jsonb(left(worker, 100)), 'null')) end,
    case when coalesce(cardinality(queues), 0) not between 1 and 1000
      then format('queues has %s entries, not 1 to 1000', coalesce(cardinality(queues), 0)) end,
    (select format('queues has %s', coalesce(to_jsonb(left(q, 100)), 'null')) from unnest(queues) q
      where q is null or picture_queue._value_problem(to_jsonb(q), '["name", 63, "_.-"]') is not null limit 1),
    case when jsonb_typeof(job_types) is distinct from 'object' then 'job_types is not an object' end,
    (select format('job_types has %s entries, at most 1000 are possible', count(*))
      from jsonb_object_keys(job_types) having count(*) > 1000),
    (select p.problem from jsonb_each(job_types) e
      cross join lateral (select coalesce(
        case when picture_queue._value_problem(to_jsonb(e.key), '["name", 128, "_.:-"]') is not null
          then format('job_types has %s, which is not a name', to_jsonb(left(e.key, 100))) end,
        picture_queue._fields_problem(format('job_types.%s.', e.key), e.value,
          picture_queue._policy_rules() || '{"queue": ["name", 63, "_.-"], "capabilities": ["object"]}'),
        picture_queue._fields_problem(format('job_types.%s.capabilities.', e.key), nullif(e.value -> 'capabilities', 'null'), '{
          "webhook": ["boolean"],
          "cancel": ["boolean"],
          "progress": ["boolean"],
          "recover": ["choice", "list", "id", "none"]
        }')) as problem) p
      where p.problem is not null limit 1)));
  -- Do not write unchanged policies, so that a worker that restarts waits for no row lock. Lock the rows in the order
  -- of their names, to avoid deadlocks; `offset 0` keeps the planner from changing the order.
  perform picture_queue._write_row('picture_queue.job_type', 'name', c.name, to_jsonb(c) - 'name')
  from (
    select p.*
    from jsonb_each(job_types) e
    cross join lateral jsonb_populate_record(null::picture_queue.job_type, e.value || jsonb_build_object('name', e.key)) p
    where not exists (select from picture_queue.job_type t where t.name = e.key and to_jsonb(t) = to_jsonb(p))
    order by e.key offset 0
  ) c;
  perform picture_queue._touch_worker(
    worker, queues, array(select k from jsonb_object_keys(job_types) k order by k), false);
  return picture_queue.version();
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.register_worker is
  'Registers a worker and its job types; returns the version of the database.';

-- Removes a worker. If it holds the lease of maintenance, the lease ends, and a message tells another worker to
-- acquire it.
create function public.unregister_worker(worker text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._write_row('picture_queue.worker', 'name', worker, null);
  update picture_queue.maintenance m set leased_until = '-infinity'
  where m.only_row = any (array(
    select o.only_row from picture_queue.maintenance o where o.worker = unregister_worker.worker for update skip locked));
  if found then
    perform picture_queue._wake_workers((
      select w.queues[:1] from picture_queue.worker w order by w.seen_at desc limit 1), 'take over');
  end if;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.unregister_worker is 'Removes a worker that has stopped.';


-- 360_function_version.sql

-- Returns version (of the SQL), contract (a number that rises when a function is added or changed) and
-- oldest_client_contract (clients that were written for this contract or a later one work with these functions).
create function picture_queue.version() returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select jsonb_build_object('version', '0.1.0', 'contract', 6, 'oldest_client_contract', 1) $$;

create function public.picture_queue_version() returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.version() $$;
comment on function public.picture_queue_version is 'The version of picture-queue in this database.';


-- 362_function_setting.sql

-- Changes settings of the project. changes: the settings by name; null resets a setting to its default.
create function public.set_setting(changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('', coalesce(changes, 'null'), picture_queue._policy_rules() || '{
    "max_payload_bytes": ["integer", 1, 2147483647],
    "max_result_bytes": ["integer", 1, 2147483647],
    "max_prompt_length": ["integer", 1, 2147483647],
    "max_user_uploads": ["integer", 0, 1000000],
    "timeout_grace_seconds": ["number", 0, 86400],
    "cancel_grace_seconds": ["number", 0, 86400],
    "unknown_queue": ["choice", "create", "refuse"],
    "keep_completed_seconds": ["number", 60, 3153600000],
    "keep_cancelled_seconds": ["number", 60, 3153600000],
    "keep_failed_seconds": ["number", 60, 3153600000],
    "archive": ["boolean"],
    "keep_archive_months": ["integer", 1, 2147483647],
    "keep_generations_days": ["integer", 1, 36500],
    "default_model": ["text", 200],
    "strip_metadata": ["boolean"],
    "estimate_usd_per_second": ["number", 0, 1]
  }');
  if not exists (
    select from picture_queue.model m
    where m.model_id = coalesce(changes ->> 'default_model', m.model_id) and m.enabled and m.unavailable_reason is null)
  then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('default_model is %s', changes ->> 'default_model'),
      'list_models() shows the models that generations can use');
  end if;
  perform picture_queue._write_row('picture_queue.setting', 'only_row', 'true', changes);
  return public.get_settings();
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_setting is 'Changes settings of the project.';

create function public.get_settings() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return (select to_jsonb(s) - 'only_row' from picture_queue.setting s);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.get_settings is 'The settings of the project.';

-- Rules for the policy fields that a project, a queue and a job type have in common, in the format of _check_fields.
create function picture_queue._policy_rules() returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select '{
    "max_attempts": ["integer", 1, 1000000000],
    "timeout_seconds": ["number", 0.001, 31536000],
    "lease_seconds": ["number", 0.001, 31536000],
    "backoff_policy": ["choice", "constant", "linear", "exponential"],
    "backoff_seconds": ["number", 0.001, 31536000],
    "backoff_cap_seconds": ["number", 0.001, 31536000],
    "backoff_jitter": ["number", 0, 1]
  }'::jsonb
$$;

-- Inserts or updates the row whose column p_key_column is p_key, with values that the caller has checked. A null value
-- sets the column to its default. If p_changes is null, it deletes the row. One statement writes all columns, since a
-- check constraint may concern several columns. Returns whether a row was inserted, updated or deleted.
create function picture_queue._write_row(p_table regclass, p_key_column text, p_key text, p_changes jsonb)
returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_rows integer;
begin
  perform picture_queue._check_isolation();
  execute case when p_changes is null then format('delete from %s where %I = %L', p_table, p_key_column, p_key)
    else (
      select format('insert into %1$s (%2$I%3$s) values (%4$L%5$s) on conflict (%2$I) do %6$s', p_table, p_key_column,
        string_agg(format(', %I', c.key), '' order by c.key), p_key,
        string_agg(coalesce(', ' || quote_literal(c.value), ', default'), '' order by c.key),
        coalesce('update set ' || string_agg(format('%1$I = excluded.%1$I', c.key), ', '), 'nothing'))
      from jsonb_each_text(p_changes) as c (key, value)) end;
  get diagnostics v_rows = row_count;
  return v_rows > 0;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy(format('another transaction is changing the row of %s in %s', quote_nullable(p_key), p_table));
  return null;
end
$$;


-- 364_function_queue.sql

-- Queues: their settings, pausing, draining, purging.

-- Creates a queue if there is none, and changes its settings; null resets a setting to its default. If fair_share or
-- aging_seconds changes, the jobs of the queue get new places in the order of claims: the oldest 10,000 at once, the
-- others by maintenance.
create function public.set_queue(queue text, changes jsonb default '{}') returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_old_queue record;
begin
  changes := coalesce(changes, '{}');
  perform picture_queue._check_fields('', changes, picture_queue._policy_rules() || '{
    "events": ["choice", "none", "status", "progress"],
    "fair_share": ["boolean"],
    "aging_seconds": ["number", 0.001, 31536000],
    "breaker_failures": ["integer", 1, 2147483647],
    "breaker_seconds": ["number", 0.001, 31536000],
    "draining": ["boolean"]
  }');
  perform picture_queue._raise_problem(case when coalesce(queue, '') !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'
    then format('queue is %s', quote_nullable(left(queue, 100))) end);
  perform picture_queue._write_row('picture_queue.queue', 'name', queue, '{}');
  select * into v_old_queue from picture_queue.queue q where q.name = set_queue.queue for no key update;
  perform picture_queue._write_row('picture_queue.queue', 'name', queue, changes);
  update picture_queue.queue q set reorder_after = 0, reorder_again_at = picture_queue._now() + interval '1 minute'
  where q.name = set_queue.queue
    and (q.fair_share, q.aging_seconds) is distinct from (v_old_queue.fair_share, v_old_queue.aging_seconds);
  if found then
    perform picture_queue._reorder_queues(array[queue], 10000);
  end if;
  return picture_queue._queue(queue);
exception
  when check_violation then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', (
      select string_agg(format('%s is %s', c.key, c.value), ', ' order by c.key)
      from jsonb_each_text(changes) as c (key, value) where c.key in ('fair_share', 'aging_seconds')),
      'a queue has one of them: set fair_share to false or aging_seconds to null');
    return null;
  when lock_not_available or deadlock_detected then
    return picture_queue._raise_busy();
end
$$;
comment on function public.set_queue is 'Creates a queue or changes its settings.';

-- Returns the numbers of jobs by queue and state. Finished jobs count until they are pruned.
create function picture_queue._depths()
returns table (queue text, status text, hold text, n bigint)
language sql stable rows 100 set search_path = pg_catalog, pg_temp
as $$
  select c.queue, c.status, c.hold, sum(c.n)::bigint
  from (
    select d.queue, d.status, d.hold, d.n from picture_queue.depth d
    union all
    select d.queue, d.status, d.hold, d.n::bigint from picture_queue.depth_change d
  ) c
  group by c.queue, c.status, c.hold
$$;

-- Returns a page of the queues, sorted by name (_check_fields has the filter), or only the queue p_queue, with counts
-- of unfinished jobs.
create function picture_queue._queues(p_filter jsonb, p_queue text default null) returns setof jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(p_filter, 'null'));
  return query
  with states as materialized (
    select d.queue, jsonb_object_agg(coalesce(d.hold, d.status), d.n) as jobs from picture_queue._depths() d
    where d.status in ('pending', 'processing') and d.n <> 0 group by d.queue
  )
  select to_jsonb(q) - '{paused_until,reorder_after,reorder_again_at}'::text[] || jsonb_build_object(
    'paused', coalesce(q.paused_until > n.now, false),
    'resume_at', case when q.paused_until > n.now then nullif(q.paused_until, 'infinity') end,
    'pause_reason', case when q.paused_until > n.now then q.pause_reason end,
    'jobs', coalesce(s.jobs, '{}'))
  from picture_queue.queue q
  cross join (select picture_queue._now() as now offset 0) n
  left join states s on s.queue = q.name
  where (p_queue is null or q.name = p_queue) and q.name > coalesce(p_filter ->> 'after', '')
  order by q.name limit coalesce((p_filter ->> 'limit')::integer, 10000);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;

-- Returns one queue; refuses an unknown name.
create function picture_queue._queue(p_queue text) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select picture_queue._require((select q from picture_queue._queues('{}', coalesce(p_queue, '')) q),
    'PQ_UNKNOWN_QUEUE', format('queue is %s', left(quote_nullable(p_queue), 100)))
$$;

create function public.list_queues(filter jsonb default '{}') returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select coalesce(jsonb_agg(q), '[]') from picture_queue._queues(filter) q $$;
comment on function public.list_queues is 'The queues, their settings, and how many jobs each has.';

-- Returns the problem with the end of a pause; null if there is none. It refuses times after 9998, which clients
-- cannot read.
create function picture_queue._resume_at_problem(p_at timestamptz) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return case when p_at <= picture_queue._now() then format('resume_at is %s, which is past', p_at)
    when p_at > '9998-12-31T23:59Z' then format('resume_at is %s, not a time to 9998', p_at) end;
end
$$;

-- Pauses a queue: no jobs are claimed from it until resume_at, or until it is resumed. Running jobs continue.
create function public.pause_queue(queue text, resume_at timestamptz default null, reason text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._queue(queue);
  perform picture_queue._raise_problem(picture_queue._resume_at_problem(resume_at), 'name a time in the future, or none');
  perform picture_queue._write_row('picture_queue.queue', 'name', queue, jsonb_build_object(
    'paused_until', coalesce(resume_at, 'infinity'), 'pause_reason', left(reason, 500)));
  return picture_queue._queue(queue);
end
$$;
comment on function public.pause_queue is 'Stops claims from a queue.';

create function public.resume_queue(queue text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._queue(queue);
  perform picture_queue._write_row('picture_queue.queue', 'name', queue,
    '{"paused_until": null, "pause_reason": null, "draining": false}');
  perform picture_queue._write_row('picture_queue.breaker', 'queue', queue, null);
  perform picture_queue._wake_workers(array[queue], 'enqueue');
  return picture_queue._queue(queue);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.resume_queue is 'Ends the pause or the draining of a queue.';

create function public.drain_queue(queue text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select public.set_queue(picture_queue._queue(queue) ->> 'name', '{"draining": true}') $$;
comment on function public.drain_queue is 'Refuses new jobs for a queue and runs the existing ones.';

-- Cancels the pending jobs of a queue, the oldest 10,000 in a call; running and parked jobs continue. As with
-- cancel_job, a job with a prediction in progress is claimed once more, so that its handler cancels the prediction.
-- With preview the call only counts. more: as in change_jobs.
create function public.purge_queue(queue text, preview boolean default false, request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
set seq_page_cost = 100
as $$
declare
  v_matched bigint;
  v_changed integer := 0;
  v_more boolean := false;
  v_answer jsonb := picture_queue._find_answer('purge_queue', request_id::text);
begin
  perform picture_queue._check_isolation();
  if v_answer is not null then
    return v_answer;
  end if;
  v_matched := (
    select coalesce(sum(j.n::bigint), 0) from jsonb_each_text(picture_queue._queue(queue) -> 'jobs') as j (state, n)
    where j.state in ('pending', 'scheduled', 'blocked', 'waiting'));
  if not coalesce(preview, false) then
    select c.changed, c.more into v_changed, v_more
    from picture_queue._change_matching('purge', array[format('j.queue = %L and j.status = ''pending''', queue)], v_matched,
      10000, 'order by j.seq') c;
  end if;
  return picture_queue._store_answer('purge_queue', request_id::text, jsonb_build_object(
    'matched', v_matched, 'changed', v_changed, 'more', v_more));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.purge_queue is 'Cancels the pending jobs of a queue.';


-- 365_function__reorder.sql

-- New places in the order of claims for the jobs of a queue whose fair_share or aging_seconds was changed.

-- Updates the place (rank, turn, tenant) of jobs to the current order of their queue, as _assign_order computes it for
-- new jobs. The caller has locked the jobs. A job whose place already fits that order keeps it. Under fair_share the
-- tenants take turns from the head of the queue, and the jobs of each tenant stay in the order of seq. Returns the
-- number of jobs.
create function picture_queue._renumber_jobs(p_ids uuid[]) returns integer
language sql volatile set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with misplaced as (
    select j.id, j.seq, j.queue, q.fair_share, p.rank, p.turn,
      case when q.fair_share then coalesce(j.tenant, default_tenant.tenant) else nullif(j.tenant, default_tenant.tenant) end as tenant
    from public.job_queue j
    join picture_queue.queue q on q.name = j.queue
    cross join lateral (
      select case when q.aging_seconds is null then -j.priority else 0 end as rank,
        extract(epoch from greatest(j.created_at, case when j.attempt = 0 then j.scheduled_for end))
          - coalesce(j.priority::double precision * q.aging_seconds, 0) as turn
    ) p
    -- The tenant that a job without a tenant gets under fair_share.
    cross join lateral (select coalesce(j.user_id::text, '') as tenant) default_tenant
    -- The turn of a job shows which order it fits: under fair_share a turn is a small number above 0, otherwise a Unix
    -- time above a billion.
    where j.id = any (p_ids) and (j.rank <> p.rank or case
      when q.fair_share then j.tenant is null or j.turn <= 0 or j.turn >= 1000000000
      else j.tenant = default_tenant.tenant or abs(j.turn - p.turn) > 1 end)
  ),
  tenant_state as (
    select l.queue, l.tenant, l.rank, 1 / coalesce(w.weight, 1) as step, coalesce((
      select o.turn from public.job_queue o
      where o.status = 'pending' and o.hold is null and o.tenant is not null
        and o.queue = l.queue and o.tenant = l.tenant and o.rank = l.rank and o.seq < l.first_seq
      order by o.turn desc limit 1), 0) as last_turn
    from (
      select m.queue, m.tenant, m.rank, min(m.seq) as first_seq from misplaced m
      where m.fair_share group by m.queue, m.tenant, m.rank
    ) l
    left join picture_queue.tenant w on w.name = l.tenant
  )
  update public.job_queue j set rank = n.rank, turn = n.turn, tenant = n.tenant
  from (
    select m.id, m.rank, m.tenant, coalesce(
      l.last_turn + l.step * row_number() over (partition by m.queue, m.tenant, m.rank order by m.seq), m.turn) as turn
    from misplaced m
    left join tenant_state l on l.queue = m.queue and l.tenant = m.tenant and l.rank = m.rank
  ) n
  where j.id = any (p_ids) and j.id = n.id;
  select cardinality(p_ids)
$$;

-- Gives the next p_limit jobs of these queues their new places, in order of seq; running jobs too, since they may be
-- retried. It skips locked jobs, and records jobs that cannot be updated in failed_step. A second pass, a minute after
-- the change of the queue, processes these jobs again. Returns the number of jobs examined.
create function picture_queue._reorder_queues(p_queues text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_queue picture_queue.queue;
  v_ids uuid[];
  v_last_seq bigint;
  v_remaining integer := p_limit;
begin
  for v_queue in
    select * from picture_queue.queue q
    where q.name = any (p_queues) and q.reorder_after is not null order by q.name for no key update skip locked
  loop
    exit when v_remaining <= 0;
    select array_agg(o.id order by o.seq), max(o.seq) into v_ids, v_last_seq
    from (
      (select j.id, j.seq from public.job_queue j
        where j.queue = v_queue.name and j.status = 'pending' and j.seq > v_queue.reorder_after
        order by j.seq limit v_remaining)
      union all
      (select j.id, j.seq from public.job_queue j
        where j.status = 'processing' and (j.hold is null or j.hold = 'parked') and j.queue = v_queue.name
          and j.seq > v_queue.reorder_after
        order by j.seq limit v_remaining)
      order by seq limit v_remaining
    ) o;
    perform picture_queue._run_isolated('renumber', array(
      select j.id from public.job_queue j where j.id = any (v_ids) order by j.id for update skip locked
    )::text[], v_remaining);
    -- If the time is used up, reorder_after stays unchanged: the next call begins with the same jobs.
    exit when picture_queue._is_out_of_time();
    update picture_queue.queue q set
      reorder_after = case when v_last_seq is not null then v_last_seq when v_queue.reorder_again_at <= v_now then 0
        when v_queue.reorder_again_at is not null then v_queue.reorder_after end,
      reorder_again_at = case when v_last_seq is not null or v_queue.reorder_again_at > v_now then v_queue.reorder_again_at end
    where q.name = v_queue.name;
    v_remaining := v_remaining - coalesce(cardinality(v_ids), 0);
  end loop;
  return p_limit - v_remaining;
end
$$;


-- 366_function_limit.sql

-- Limits and pauses of keys, and the weights of tenants.

-- Returns the problem with the key of a limit; null if there is none. '<kind>:*' stands for each key of a kind.
create function picture_queue._limit_key_problem(p_key text, p_may_be_kind boolean) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when coalesce(p_key, '') !~ '^[^[:cntrl:]]{1,200}$' then format('key is %s', quote_nullable(left(p_key, 300)))
    when p_key not like '%*%' then null
    when not p_may_be_kind then format('key is %s, and only one key at a time can be paused', quote_literal(p_key))
    when p_key !~ '^[^:*]+:[*]$' then format('key is %s: a limit for each key of a kind is <kind>:*, such as user:*', quote_literal(p_key))
  end
$$;

-- Sets the rule of a key, or with <kind>:* of each key of a kind: how many of its jobs may run at once, and how many
-- may start in any period. Jobs that run already count. If the key has such jobs, no other job of the key starts until
-- maintenance has counted them: if this call counted them, their rows would stay locked until the caller commits. Jobs
-- that a claim is starting at this moment are counted within two seconds.
create function public.set_limit(
  key text, max_running integer default null, rate integer default null, period_seconds real default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(coalesce(picture_queue._limit_key_problem(key, true), case
    when max_running < 1 then format('max_running is %s, not 1 or more', max_running)
    when rate < 1 then format('rate is %s, not 1 or more', rate)
    when rate > 100000 then format('rate is %s, not at most 100000', rate)
    when period_seconds <= 0 or period_seconds > 31536000 then format('period_seconds is %s, not above 0 to 31536000', period_seconds)
    when max_running is null and rate is null then 'neither max_running nor rate is given'
    when (rate is null) <> (period_seconds is null) then 'rate and period_seconds are not given together'
  end), 'pause_key() stops all starts; delete_limit() ends a limit');
  perform picture_queue._write_row('picture_queue.limit_rule', 'key', key, jsonb_build_object(
    'max_running', max_running, 'rate', rate, 'period_seconds', period_seconds, 'created_at', picture_queue._now(),
    'counted', not exists (select from picture_queue._uncounted_jobs(array[key])), 'count_at', picture_queue._now()));
  perform picture_queue._recheck_keys(key);
  return (select l from picture_queue._limit_rows('{}', key) l);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_limit is 'Limits how many jobs of a key run at once or start in a period.';

-- Returns the first p_limit keys that block jobs, in alphabetical order. One index search finds each key, and skips
-- the remaining jobs of the previous key.
create function picture_queue._blocking_keys(p_limit integer) returns setof text
language sql stable rows 100 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with recursive blocked as (
    (select j.blocked_on as key, 1 as n from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null order by j.blocked_on limit 1)
    union all
    select o.key, b.n + 1 from blocked b
    cross join lateral (
      select j.blocked_on as key from public.job_queue j
      where j.status = 'pending' and j.blocked_on is not null and j.blocked_on > b.key order by j.blocked_on limit 1) o
    where b.n < p_limit
  )
  select b.key from blocked b
$$;

-- Unblocks jobs after the rule of a key, or of the keys of a kind, has changed: jobs of a hundred keys at once, the
-- others by maintenance, which also counts running jobs under a new rule.
create function picture_queue._recheck_keys(p_key text) returns void
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100 set lock_timeout = '2s'
as $$
begin
  insert into picture_queue.freed_key (key, n)
  -- All blocking keys: the argument is the highest integer.
  select k, 0 from picture_queue._blocking_keys(2147483647) k where k = p_key or split_part(k, ':', 1) || ':*' = p_key;
  perform picture_queue._unblock_freed_keys();
  perform picture_queue._wake_maintenance(picture_queue._now());
end
$$;

create function public.delete_limit(key text, request_id uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  if picture_queue._find_answer('delete_limit', request_id::text) is not null then
    return;
  end if;
  perform picture_queue._store_answer('delete_limit', request_id::text, '{}');
  if not picture_queue._write_row('picture_queue.limit_rule', 'key', key, null) then
    perform picture_queue._raise_error('PQ_UNKNOWN_LIMIT', format('key is %s', quote_nullable(left(key, 200))));
  end if;
  perform picture_queue._recheck_keys(key);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.delete_limit is 'Ends the limit of a key.';

-- Returns a page of the limits, sorted by key (_check_fields has the filter), or only the limit of p_key. It includes
-- keys that have a rule, are paused, or have jobs to unblock at a later time.
create function picture_queue._limit_rows(p_filter jsonb, p_key text default null) returns setof jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(p_filter, 'null'));
  return query
  select jsonb_build_object(
    'key', k.key, 'max_running', r.max_running, 'rate', r.rate, 'period_seconds', r.period_seconds,
    'paused', coalesce(l.paused_until > picture_queue._now(), false),
    'resume_at', case when l.paused_until > picture_queue._now() then nullif(l.paused_until, 'infinity') end,
    'running', greatest(coalesce(l.running, 0) - (
      select coalesce(sum(f.n), 0) from picture_queue.freed_key f where f.key = k.key), 0),
    'waiting', (select count(*) from public.job_queue j
      where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked'))
  from (
    select u.key
    from (
      select o.key from picture_queue.limit_rule o
      union
      select o.key from picture_queue.limit_key o where o.paused_until > picture_queue._now()
      union
      select f.key from picture_queue.freed_key f where f.at > picture_queue._now()
    ) u
    where (p_key is null or u.key = p_key) and u.key > coalesce(p_filter ->> 'after', '')
    order by u.key limit coalesce((p_filter ->> 'limit')::integer, 10000)
  ) k
  left join picture_queue.limit_rule r on r.key = k.key
  left join picture_queue.limit_key l on l.key = k.key
  order by k.key;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;

create function public.list_limits(filter jsonb default '{}') returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select coalesce(jsonb_agg(l), '[]') from picture_queue._limit_rows(filter) l $$;
comment on function public.list_limits is 'The limits, and the keys that are paused or that jobs wait for.';

-- Pauses a key until p_until, or resumes it if p_until is null. Raises PQ_BUSY if another transaction keeps the key
-- locked for two seconds.
create function picture_queue._set_key_pause(p_key text, p_until timestamptz) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(
    coalesce(picture_queue._limit_key_problem(p_key, false), picture_queue._resume_at_problem(nullif(p_until, 'infinity'))),
    'name one key, and a resume_at in the future or none');
  for v_try in 1..40 loop  -- each try waits for up to 50 milliseconds
    exit when picture_queue._lock_keys(array[p_key]) <> '{}';
    if v_try = 40 then
      perform picture_queue._raise_busy(format('another transaction has locked the key %s', p_key));
    end if;
  end loop;
  perform picture_queue._add_running(array[p_key], array[0]);  -- inserts a missing row
  update picture_queue.limit_key k set paused_until = p_until, pause_reason = null, version = k.version + 1
  where k.key = p_key;
  perform picture_queue._plan_unblocking(array[p_key]);
  perform picture_queue._recheck_keys(p_key) where p_until is null;
  return jsonb_build_object('key', p_key, 'paused', p_until is not null, 'resume_at', nullif(p_until, 'infinity'));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

-- Pauses a key until resume_at, or until resume_key is called. Running jobs continue.
create function public.pause_key(key text, resume_at timestamptz default null) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select picture_queue._set_key_pause(key, coalesce(resume_at, 'infinity')) $$;
comment on function public.pause_key is 'Pauses a limit key: none of its jobs starts.';

create function public.resume_key(key text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select picture_queue._set_key_pause(key, null) $$;
comment on function public.resume_key is 'Ends the pause of a key.';

-- Sets the weight of a tenant: a tenant of weight 3 gets three turns for each turn of a tenant of weight 1.
create function public.set_tenant(tenant text, weight real) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue._raise_problem(case
    when coalesce(length(tenant), 0) not between 1 and 200
      then format('tenant is %s, not 1 to 200 characters', quote_nullable(left(tenant, 200)))
    when coalesce(weight, 0) not between 0.001 and 1000 then format('weight is %s, not 0.001 to 1000', weight)
  end, 'the weight of a tenant without one is 1');
  perform picture_queue._write_row('picture_queue.tenant', 'name', tenant, jsonb_build_object('weight', weight));
  return jsonb_build_object('tenant', tenant, 'weight', weight);
end
$$;
comment on function public.set_tenant is 'Sets the weight of a tenant for fair sharing.';

create function public.list_tenants(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(jsonb_build_object('tenant', t.name, 'weight', t.weight) order by t.name), '[]')
    from (
      select * from picture_queue.tenant o
      where o.name > coalesce(filter ->> 'after', '') order by o.name limit coalesce((filter ->> 'limit')::integer, 10000)
    ) t);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_tenants is 'The tenants that have a weight.';


-- 368_function_batch.sql

-- Enqueues a batch of jobs. When all have finished, successfully or not, the callback job is enqueued; its payload
-- gets batch_id and the counts. A call that repeats a batch_id returns the existing jobs; a call that repeats a
-- request_id returns the answer of the first call.
create function public.enqueue_batch(
  jobs jsonb, callback jsonb default null, batch_id uuid default gen_random_uuid(), metadata jsonb default '{}',
  request_id uuid default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_answer jsonb := picture_queue._find_answer('enqueue_batch', request_id::text);
  v_jobs jsonb;
begin
  if v_answer is not null then
    return v_answer;
  end if;
  batch_id := coalesce(batch_id, gen_random_uuid());
  metadata := coalesce(nullif(metadata, 'null'), '{}');
  callback := nullif(callback, 'null');
  perform picture_queue._raise_problem(coalesce(
    case when jsonb_typeof(metadata) <> 'object' then 'metadata is not an object' end,
    'metadata ' || picture_queue._json_problem(metadata, (select s.max_payload_bytes from picture_queue.setting s)),
    case when jsonb_typeof(callback) <> 'object' then 'callback is not a job' end,
    (select format('callback: options.%s is not possible, since a callback waits only for its batch', k)
      from unnest('{depends_on,batch_id}'::text[]) k where callback -> 'options' -> k <> 'null' limit 1)));
  if callback is not null then
    -- Check the callback as it will be enqueued, with the longest possible counts in its payload.
    perform picture_queue._check_jobs(jsonb_build_array(case
      when coalesce(jsonb_typeof(callback -> 'payload') in ('object', 'null'), true)
      then callback || jsonb_build_object('payload',
        coalesce(nullif(callback -> 'payload', 'null'), '{}') || jsonb_build_object('batch_id', batch_id,
          'total', 1000000000, 'completed', 1000000000, 'failed', 1000000000, 'cancelled', 1000000000))
      else callback end), 'callback');
  end if;
  insert into picture_queue.batch (id, callback, metadata, created_at)
  values (enqueue_batch.batch_id, enqueue_batch.callback, enqueue_batch.metadata, picture_queue._now())
  on conflict (id) do nothing;
  if not found then
    return picture_queue._store_answer('enqueue_batch', request_id::text, jsonb_build_object('batch_id', batch_id, 'jobs', (
      select coalesce(jsonb_agg(jsonb_build_object('job_id', j.id, 'outcome', 'existing') order by j.seq), '[]')
      from (select * from public.job_queue o where o.batch_id = enqueue_batch.batch_id order by o.seq limit 100000) j)));
  end if;
  v_jobs := picture_queue._enqueue(case when jsonb_typeof(jobs) = 'array' then (
    select coalesce(jsonb_agg(e.item || jsonb_build_object('options',
        coalesce(nullif(e.item -> 'options', 'null'), '{}') || jsonb_build_object('batch_id', enqueue_batch.batch_id))
      order by e.i), '[]')
    from jsonb_array_elements(jobs) with ordinality as e (item, i)) else jobs end);
  -- A batch without jobs has finished at once, so enqueue its callback.
  perform picture_queue._count_batches(array[enqueue_batch.batch_id]);
  return picture_queue._store_answer('enqueue_batch', request_id::text,
    jsonb_build_object('batch_id', batch_id, 'jobs', v_jobs));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, 'another call needs some of the same ids, keys, batches or parents');
  raise;
end
$$;
comment on function public.enqueue_batch is
  'Enqueues a batch of jobs, and a callback that runs when all have finished.';

create function public.get_batch(batch_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  -- Add the changes of the counts that maintenance has not moved from follow_up to the batch yet.
  return picture_queue._require((
    select to_jsonb(b) || jsonb_build_object(
      'completed', c.completed, 'failed', c.failed, 'cancelled', c.cancelled,
      'open', b.total - c.completed - c.failed - c.cancelled,
      'progress', case when b.total = 0 then 100 else 100 * (c.completed + c.failed + c.cancelled) / b.total end)
    from picture_queue.batch b
    cross join lateral (
      select b.completed + coalesce(sum((f.data ->> 'completed')::integer), 0) as completed,
        b.failed + coalesce(sum((f.data ->> 'failed')::integer), 0) as failed,
        b.cancelled + coalesce(sum((f.data ->> 'cancelled')::integer), 0) as cancelled
      from picture_queue.follow_up f where f.subject = b.id and f.kind = 'batch') c
    where b.id = get_batch.batch_id), 'PQ_UNKNOWN_BATCH', format('batch_id is %s', get_batch.batch_id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.get_batch is 'A batch with its counts and progress.';


-- 370_function_event_history.sql

-- Sends an external event. If no job is parked on the event, it is kept for a day, for jobs that park later. A second
-- event of the same name replaces a kept event. A second call with the same event_id changes nothing and returns the
-- answer of the first.
create function public.send_event(name text, payload jsonb default null, event_id text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
declare
  v_call text := 'send_event ' || name;
  v_answer jsonb;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(coalesce(
    case when coalesce(length(name), 0) not between 1 and 200 or name ~ '[[:cntrl:]]'
      then format('name is %s', quote_nullable(left(name, 300))) end,
    'payload ' || picture_queue._json_problem(payload, (select s.max_payload_bytes from picture_queue.setting s)),
    case when length(event_id) not between 1 and 200 then format('event_id is %s', quote_literal(left(event_id, 300))) end),
    'name and event_id have 1 to 200 characters, and name has no control characters');
  v_answer := picture_queue._find_answer(v_call, event_id);
  if v_answer is not null then
    return v_answer;
  end if;
  v_answer := jsonb_build_object('woken', picture_queue._send_event(name, payload));
  return picture_queue._store_answer(v_call, event_id, v_answer);
exception when deadlock_detected or lock_not_available then
  return picture_queue._raise_busy(
    format('another transaction is sending event %s, or parking a job on it', left(name, 200)));
end
$$;
comment on function public.send_event is 'Sends an external event to the jobs parked on it.';

-- Appends lines to the log of a job, and keeps the last 200.
create function public.log_job(job_id uuid, lease_id uuid, lines jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
as $$
declare
  v_attempt integer;
begin
  v_attempt := (picture_queue._lock_job(job_id, lease_id)).attempt;
  perform picture_queue._raise_problem(case
    when not picture_queue._is_object_list(lines) or jsonb_path_exists(lines, '$[*] ? (!(@.message.type() == "string"))')
      then 'lines is not a list of {at, level, message}, with a text as message'
    when exists (select from jsonb_array_elements(lines) e
      where e -> 'level' not in ('"debug"', '"info"', '"warning"', '"error"'))
      then 'lines has a level that is not debug, info, warning or error'
    when exists (select from jsonb_to_recordset(lines) as l (at timestamptz)
      where l.at not between '1970-01-01Z' and '9998-12-31T23:59Z') then 'lines has a time that is not from 1970 to 9998'
  end, 'pass lines as a list of {at, level, message}; at and level are optional');
  insert into picture_queue.log (job_id, attempt, at, level, message)
  select log_job.job_id, v_attempt, coalesce(l.at, picture_queue._now()), coalesce(l.level, 'info'), left(l.message, 2000)
  from rows from (jsonb_to_recordset(lines) as (at timestamptz, level text, message text))
    with ordinality as l (at, level, message, i)
  where l.i > jsonb_array_length(lines) - 200
    -- Skip the lines that are stored already: the client retries a call if its answer was lost.
    and not exists (
      select from picture_queue.log o
      where o.job_id = log_job.job_id and o.at = l.at and o.message = left(l.message, 2000))
  order by l.i;
  delete from picture_queue.log l
  where l.job_id = log_job.job_id and l.id <= (
    select o.id from picture_queue.log o where o.job_id = log_job.job_id order by o.id desc offset 200 limit 1);
  return jsonb_build_object('kept', (select count(*) from picture_queue.log l where l.job_id = log_job.job_id));
exception
  when deadlock_detected or lock_not_available then
    return picture_queue._raise_busy(format('job %s is locked by another transaction', job_id));
  when data_exception then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'lines: ' || sqlerrm,
      'pass lines as a list of {at, level, message}; at and level are optional');
    return null;
end
$$;
comment on function public.log_job is 'Appends log lines to a job, under its lease.';

-- Returns the history of a job: its changes of state, its failed attempts with their internal detail, and its log.
-- Claims are not recorded; they are derived from started_at of the attempts.
create function public.get_job_history(job_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
begin
  select * into v_job from public.job_queue j where j.id = get_job_history.job_id;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', job_id));
  end if;
  return jsonb_build_object(
    'timeline', (
      select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('at', e.at, 'action', e.action, 'status', e.status,
        'hold', e.hold, 'attempt', e.attempt, 'worker', e.worker, 'error', e.error)) order by e.at, e.n)
      from (
        select v_job.created_at as at, 'enqueue' as action, 'pending' as status, null as hold, 0 as attempt,
          null as worker, null as error, 0 as n
        union all
        select h.started_at, 'claim', 'processing', null, greatest(h.attempt, 1), h.worker, null, h.id
        from picture_queue.history h
        -- The row of the action wake repeats started_at of the row of the action park, which shows this claim already.
        where h.job_id = v_job.id and h.started_at is not null and h.action <> 'wake'
        union all
        select h.at, h.action, h.status, h.hold, h.attempt, h.worker, h.error, h.id
        from picture_queue.history h where h.job_id = v_job.id
        union all
        -- The number 9e18 is above every id of the history, so these rows come last among rows of the same time.
        select v_job.started_at, 'claim', 'processing', null, v_job.attempt, v_job.worker, null, 9e18
        where v_job.status = 'completed' or (v_job.status = 'processing' and v_job.hold is null)
        union all
        select v_job.finished_at, 'complete', 'completed', null, v_job.attempt, v_job.worker, null, 9e18
        where v_job.status = 'completed'
      ) e),
    'attempts', (
      select coalesce(jsonb_agg(jsonb_build_object('attempt', h.attempt, 'worker', h.worker, 'started_at', h.started_at,
        'ended_at', h.at, 'duration_seconds', h.duration_seconds, 'error', h.error, 'detail', h.detail) order by h.id), '[]')
      from picture_queue.history h
      where h.job_id = v_job.id and h.action in ('fail', 'back_off', 'expire')),
    'log', (
      select coalesce(jsonb_agg(jsonb_build_object('at', l.at, 'attempt', l.attempt, 'level', l.level,
        'message', l.message) order by l.id), '[]')
      from picture_queue.log l where l.job_id = v_job.id));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.get_job_history is 'The timeline, failed attempts and log of a job.';


-- 375_function__cron.sql

-- A parsed cron expression, in the syntax of Vixie cron (crontab(5)): minute, hour, day of month, month, day of week.
-- A field may have lists, ranges and steps; months and weekdays may have names. Both 0 and 7 are Sunday. The arrays
-- hold the matching numbers, ascending.
--
-- is_fixed: neither the minute nor the hour field begins with a star, so the expression names times of the day. If
-- daylight saving skips such a time, the schedule runs at the moment of the change; if such a time occurs twice, the
-- schedule runs once, at the first. Other expressions, such as */15, run at each matching minute of the local clock.
-- is_either: neither day field begins with a star, so a day matches if it matches at least one of the two fields.
create type picture_queue.cron as (
  minutes integer[],
  hours integer[],
  days integer[],
  months integer[],
  weekdays integer[],
  is_fixed boolean,
  is_either boolean
);

-- Returns the numbers that one field of an expression matches, ascending. p_names: the names of the numbers, beginning
-- with p_low.
create function picture_queue._cron_field(
  p_field text, p_text text, p_low integer, p_high integer, p_names text[] default '{}')
returns integer[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_part text;
  v_captures text[];
  v_range_ends integer[];
  v_step integer;
  v_numbers integer[] := array[]::integer[];
  v_problem text;
begin
  foreach v_part in array string_to_array(p_text, ',') loop
    v_captures := regexp_match(v_part, '^(?:[*]|([0-9]{1,4}|[a-z]{3})(?:-([0-9]{1,4}|[a-z]{3}))?)(?:/([0-9]{1,4}))?$');
    select array_agg(case when w ~ '[0-9]' then w::integer else p_low - 1 + array_position(p_names, w) end order by i)
    into v_range_ends
    from unnest(v_captures[1:2]) with ordinality as e (w, i);
    v_step := coalesce(v_captures[3], '1')::integer;
    v_problem := case
      when v_captures is null then 'is not a number, range or step'
      when (v_captures[1] is not null and v_range_ends[1] is null) or (v_captures[2] is not null and v_range_ends[2] is null)
        then 'is not a known name'
      when least(v_range_ends[1], v_range_ends[2]) < p_low or greatest(v_range_ends[1], v_range_ends[2]) > p_high
        then format('is not within %s to %s', p_low, p_high)
      when v_range_ends[1] > v_range_ends[2] then 'ends before it begins'
      when v_step not between 1 and p_high then format('has a step that is not within 1 to %s', p_high)
    end;
    if v_problem is not null then
      perform picture_queue._raise_error('PQ_INVALID_CRON', format('%s is "%s", which %s', p_field, v_part, v_problem),
        'a field is * or a list of numbers and ranges, with a step if wanted, such as */15, 1-5,10 or fri-7; '
        || 'use every_seconds for other intervals');
    end if;
    v_numbers := v_numbers || array(select generate_series(
      coalesce(v_range_ends[1], p_low),
      case when v_range_ends[1] is null or (v_range_ends[2] is null and v_captures[3] is not null) then p_high
        else coalesce(v_range_ends[2], v_range_ends[1]) end,
      v_step));
  end loop;
  return array(select distinct n from unnest(v_numbers) n order by n);
end
$$;

-- Parses a cron expression; raises an error if it is invalid.
create function picture_queue._cron_fields(p_cron text) returns picture_queue.cron
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := lower(btrim(p_cron, E' \t\n'));
  v_fields text[];
  v_cron picture_queue.cron;
begin
  v_text := coalesce('{
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"
  }'::jsonb ->> v_text, v_text);
  v_fields := regexp_split_to_array(v_text, '[[:space:]]+');
  if length(v_text) > 500 or cardinality(v_fields) is distinct from 5 then
    perform picture_queue._raise_error('PQ_INVALID_CRON',
      format('cron is "%s", which has %s fields, not 5', left(p_cron, 100), coalesce(cardinality(v_fields), 0)),
      'write minute, hour, day of month, month, day of week, such as 30 9 * * mon-fri; or @hourly, @daily, @weekly, '
      || '@monthly, @yearly');
  end if;
  v_cron.minutes := picture_queue._cron_field('minute', v_fields[1], 0, 59);
  v_cron.hours := picture_queue._cron_field('hour', v_fields[2], 0, 23);
  v_cron.days := picture_queue._cron_field('day of month', v_fields[3], 1, 31);
  v_cron.months := picture_queue._cron_field('month', v_fields[4], 1, 12,
    '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  v_cron.weekdays := picture_queue._cron_field('day of week', v_fields[5], 0, 7, '{sun,mon,tue,wed,thu,fri,sat}');
  if v_cron.weekdays @> '{7}' then
    v_cron.weekdays := 0 || v_cron.weekdays;
  end if;
  v_cron.is_fixed := left(v_fields[1], 1) <> '*' and left(v_fields[2], 1) <> '*';
  v_cron.is_either := left(v_fields[3], 1) <> '*' and left(v_fields[5], 1) <> '*';
  return v_cron;
end
$$;

-- Returns the next run of an expression in a time zone after p_after; null if there is none within eight years. On a
-- day on which the UTC offset changes, each local time is computed with the offset before and with the offset after
-- the change. The local clock shows such a time once, twice (if the clock is set back) or never (if it is set
-- forward).
create function picture_queue._cron_next(p_cron text, p_timezone text, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron picture_queue.cron := picture_queue._cron_fields(p_cron);
  v_local_after timestamp := p_after at time zone p_timezone;
  v_day date;
  v_minute integer;
  v_moment_before timestamptz;  -- a moment before the day, and one after it
  v_moment_after timestamptz;
  v_old_offset interval;  -- the UTC offset at these moments
  v_new_offset interval;
  v_next timestamptz;
begin
  -- Begin a day earlier, since the clock may be set back past midnight.
  for v_day_offset in -1..(v_local_after + interval '8 years')::date - v_local_after::date loop
    v_day := v_local_after::date + v_day_offset;
    continue when extract(month from v_day)::integer <> all (v_cron.months) or not case when v_cron.is_either
      then extract(day from v_day)::integer = any (v_cron.days) or extract(dow from v_day)::integer = any (v_cron.weekdays)
      else extract(day from v_day)::integer = any (v_cron.days) and extract(dow from v_day)::integer = any (v_cron.weekdays)
      end;
    v_moment_before := (v_day::timestamp at time zone p_timezone) - interval '2 hours';
    v_moment_after := ((v_day + 1)::timestamp at time zone p_timezone) + interval '2 hours';
    v_old_offset := (v_moment_before at time zone p_timezone) - (v_moment_before at time zone 'UTC');
    v_new_offset := (v_moment_after at time zone p_timezone) - (v_moment_after at time zone 'UTC');
    if v_old_offset = v_new_offset then
      v_minute := floor(extract(epoch from v_local_after - v_day) / 60);
      select (v_day + make_interval(mins => min(h * 60 + m)) - v_old_offset) at time zone 'UTC' into v_next
      from unnest(v_cron.hours) h cross join unnest(v_cron.minutes) m where h * 60 + m > v_minute;
    else
      select min(c.at) into v_next
      from unnest(v_cron.hours) h
      cross join unnest(v_cron.minutes) m
      cross join lateral (select v_day + make_interval(mins => h * 60 + m) as local) t
      cross join lateral (
        select (t.local - v_old_offset) at time zone 'UTC' as old_at, (t.local - v_new_offset) at time zone 'UTC' as new_at) u
      cross join lateral (
        select u.old_at at time zone p_timezone = t.local as is_old, u.new_at at time zone p_timezone = t.local as is_new) k
      cross join lateral unnest(array[
        case when k.is_old then u.old_at end,
        case when k.is_new and not (v_cron.is_fixed and k.is_old) then u.new_at end,
        -- The clock skips this time, so the schedule runs at the moment of the change.
        case when v_cron.is_fixed and not (k.is_old or k.is_new) then (
          select min(g) from generate_series(u.new_at, u.old_at, interval '1 minute') g
          where (g at time zone p_timezone) - (g at time zone 'UTC') = v_new_offset) end]) as c (at)
      where c.at > p_after;
    end if;
    if v_next is not null then
      return v_next;
    end if;
  end loop;
  return null;
end
$$;


-- 376_function__schedule.sql

-- A *tick* is a time at which a schedule is due. Each tick enqueues one job, even if several workers do maintenance at
-- once: the row of the schedule is locked, and the id of the job is a hash of name and tick.

-- Returns the first tick after a time; null if there is none. Intervals are counted in whole microseconds from
-- created_at, so that the ticks do not drift.
create function picture_queue._schedule_next(p_schedule picture_queue.schedule, p_after timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_step numeric := round(p_schedule.every_seconds::numeric * 1000000);
begin
  if p_schedule.cron is not null then
    return picture_queue._cron_next(p_schedule.cron, p_schedule.timezone, p_after);
  end if;
  return p_schedule.created_at + interval '1 microsecond'
    * (v_step * (1 + div(extract(epoch from p_after - p_schedule.created_at) * 1000000, v_step)))::double precision;
end
$$;

-- Returns the ticks of a due schedule that enqueue a job now, and its next tick. The column missed selects the ticks.
-- - all: every due tick, the oldest first; at most p_limit, and the others stay due.
-- - once: only the latest due tick.
-- - skip: only the latest due tick, and only if it is under two minutes late. Two minutes, because without a worker
--   only pg_cron does maintenance, once a minute.
create function picture_queue._schedule_due(
  p_schedule picture_queue.schedule, p_now timestamptz, p_limit integer,
  out ticks timestamptz[], out next_at timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_latest timestamptz := p_schedule.next_at;
  v_end timestamptz := p_now;  -- the latest due tick is not after this time
  v_tick timestamptz;
begin
  if p_schedule.missed = 'all' then
    next_at := p_schedule.next_at;
    while next_at <= p_now and coalesce(cardinality(ticks), 0) < p_limit loop
      ticks := ticks || next_at;
      next_at := picture_queue._schedule_next(p_schedule, next_at);
    end loop;
    return;
  end if;
  -- Search the latest tick by bisection, since very many ticks may have been missed. Ticks are at least a second
  -- apart.
  while v_end - v_latest >= interval '1 second' loop
    v_tick := picture_queue._schedule_next(p_schedule, v_latest + (v_end - v_latest) / 2);
    if v_tick <= p_now then
      v_latest := v_tick;
    else
      v_end := v_latest + (v_end - v_latest) / 2;
    end if;
  end loop;
  ticks := case when p_schedule.missed = 'once' or v_latest > p_now - interval '2 minutes'
    then array[v_latest] else '{}' end;
  next_at := picture_queue._schedule_next(p_schedule, v_latest);
end
$$;

-- Returns the job that a tick of a schedule enqueues; its metadata has the schedule and the tick.
create function picture_queue._schedule_job(p_schedule picture_queue.schedule, p_tick timestamptz, p_job_id uuid)
returns jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select p_schedule.job || jsonb_build_object('job_id', p_job_id, 'options',
    coalesce(nullif(p_schedule.job -> 'options', 'null'), '{}') || jsonb_build_object('metadata',
      coalesce(nullif(p_schedule.job #> '{options,metadata}', 'null'), '{}') || jsonb_build_object(
        'schedule', p_schedule.name, 'tick', (to_jsonb(p_tick at time zone 'UTC') #>> '{}') || '+00:00')))
$$;

-- Enqueues the jobs of those of these schedules that are due, and sets the next tick of each; locked schedules are
-- skipped. An error of one schedule is written to its last_error, and the other schedules still run. If the job of a
-- tick is refused, the tick is not tried again, unless the error is transient. The lock timeout bounds the wait for an
-- open transaction that enqueues the same unique job. At most p_limit jobs are enqueued, divided among the schedules.
-- Returns the number of jobs.
create function picture_queue._run_due_schedules(p_names text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_schedule picture_queue.schedule;
  v_ticks timestamptz[];
  v_next_tick timestamptz;
  v_answer jsonb;
  v_error text;
  v_detail text;
  v_job_count integer := 0;
begin
  for v_schedule in
    select * from picture_queue.schedule s
    where s.name = any (p_names) and not s.paused and s.next_at <= v_now
    order by s.next_at for update skip locked
  loop
    exit when picture_queue._is_out_of_time();
    v_next_tick := null;
    v_answer := '[]'::jsonb;
    begin
      select d.ticks, d.next_at into v_ticks, v_next_tick
      from picture_queue._schedule_due(v_schedule, v_now, greatest(p_limit / cardinality(p_names), 1)) d;
      if v_ticks <> '{}' then
        v_answer := picture_queue._enqueue((
          select jsonb_agg(picture_queue._schedule_job(v_schedule, t,
            md5('picture_queue schedule ' || v_schedule.name || ' ' || extract(epoch from t))::uuid) order by t)
          from unnest(v_ticks) t));
      end if;
      v_error := case when v_next_tick is null then 'The schedule has no further tick.' end;
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      v_error := left(concat_ws(': ', sqlerrm, nullif(v_detail, '')), 1000);
      -- After a transient error the tick stays due, for the next round. If the next tick could not be computed, it is
      -- computed again in a minute.
      if picture_queue._is_transient(sqlstate) then
        v_next_tick := v_schedule.next_at;
      elsif v_next_tick is null then
        v_next_tick := v_now + interval '1 minute';
      end if;
    end;
    update picture_queue.schedule s set
      next_at = v_next_tick,
      paused = v_next_tick is null,
      last_at = case when v_answer <> '[]' then v_ticks[cardinality(v_ticks)] else s.last_at end,
      last_job_id = coalesce((v_answer -> -1 ->> 'job_id')::uuid, s.last_job_id),
      last_error = v_error
    where s.name = v_schedule.name;
    v_job_count := v_job_count + jsonb_array_length(v_answer);
  end loop;
  return v_job_count;
end
$$;

-- Returns a schedule; refuses an unknown name.
create function picture_queue._get_schedule(p_name text) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._require((select to_jsonb(s) from picture_queue.schedule s where s.name = p_name),
    'PQ_UNKNOWN_SCHEDULE', format('name is %s', to_jsonb(left(p_name, 200))));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;


-- 377_function_schedule.sql

-- Creates or replaces a schedule. Fields that are missing get their defaults, except that a paused schedule stays
-- paused.
create function public.set_schedule(name text, schedule jsonb) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_fields jsonb := schedule;
  v_timezone jsonb;
  v_new_row jsonb;
  v_old_row jsonb;
  v_next_at timestamptz;
begin
  perform picture_queue._check_isolation();
  if jsonb_typeof(schedule) = 'object' then
    select coalesce(jsonb_object_agg(e.key, e.value), '{}') into v_fields
    from jsonb_each(schedule) e where e.value <> 'null';
  end if;
  perform picture_queue._raise_problem(case
    when name is null or picture_queue._value_problem(to_jsonb(name), '["name", 128, "_.:-"]') is not null
      then format('name is %s', coalesce(to_jsonb(left(name, 200)), 'null'))
    when jsonb_typeof(schedule) is distinct from 'object' then 'schedule is not an object'
    when (v_fields ? 'cron') = (v_fields ? 'every_seconds') then 'one of cron and every_seconds is needed'
    else coalesce(
      picture_queue._fields_problem('', (
        select jsonb_object_agg(e.key, e.value) from jsonb_each(v_fields) e
        where e.key in ('cron', 'every_seconds', 'timezone', 'missed', 'paused')), '{
          "cron": ["text", 2147483647, 0],
          "every_seconds": ["number", 1, 31536000],
          "timezone": ["text", 2147483647, 0],
          "missed": ["choice", "skip", "once", "all"],
          "paused": ["boolean"]
        }'), (
        select format('%s is for one job, and a schedule enqueues many', array_to_string(k.path, '.'))
        from (values ('{job_id}'::text[]), ('{scheduled_for}'), ('{idempotency_key}'), ('{generation_id}'),
          ('{options,expires_at}'), ('{options,depends_on}'), ('{options,batch_id}')) as k (path)
        where v_fields #>> k.path is not null limit 1))
  end, 'pass cron or every_seconds; optionally timezone, missed and paused; and the fields of a job, with '
    'options such as delay_seconds, expires_in_seconds and unique');
  -- Store the name of the zone as pg_timezone_names writes it. Refuse abbreviations (CEST) and offsets (UTC+3): they
  -- ignore daylight saving, and Postgres reads the sign of such an offset in the opposite direction.
  v_timezone := picture_queue._require(case when coalesce(v_fields ->> 'timezone', 'UTC') = 'UTC' then '"UTC"' else (
      select to_jsonb(min(z.name)) from pg_catalog.pg_timezone_names z
      where lower(z.name) = lower(v_fields ->> 'timezone')) end,
    'PQ_INVALID_CRON', format('timezone is "%s"', left(v_fields ->> 'timezone', 100)),
    'use a name such as Europe/Berlin; the view pg_timezone_names lists all');
  v_new_row := jsonb_build_object(
    'name', name,
    'cron', regexp_replace(btrim(v_fields ->> 'cron', E' \t\n'), '[[:space:]]+', ' ', 'g'),
    'every_seconds', (v_fields ->> 'every_seconds')::double precision,
    'timezone', v_timezone,
    'missed', coalesce(v_fields ->> 'missed', 'once'),
    'job', v_fields - '{cron,every_seconds,timezone,missed,paused}'::text[],
    'created_at', v_now);
  v_next_at := picture_queue._schedule_next(jsonb_populate_record(null::picture_queue.schedule, v_new_row), v_now);
  if v_next_at is null then
    perform picture_queue._raise_error('PQ_INVALID_CRON',
      format('cron is "%s", which has no date within eight years', v_new_row ->> 'cron'), 'use a day that exists in that month');
  end if;
  -- Validate the job as a tick will enqueue it.
  perform picture_queue._check_jobs(jsonb_build_array(picture_queue._schedule_job(
    jsonb_populate_record(null::picture_queue.schedule, v_new_row), v_now, gen_random_uuid())));

  select to_jsonb(s) into v_old_row from picture_queue.schedule s where s.name = set_schedule.name for update;
  v_new_row := v_new_row || jsonb_build_object('created_at', coalesce(v_old_row -> 'created_at', v_new_row -> 'created_at'),
    'paused', coalesce(v_fields -> 'paused', v_old_row -> 'paused', 'false'));
  if v_old_row is null or v_old_row || v_new_row <> v_old_row then
    v_next_at := case
      when (v_new_row ->> 'paused')::boolean then null
      when v_old_row -> 'paused' = 'false' and v_old_row || jsonb_build_object('cron', v_new_row -> 'cron', 'every_seconds',
        v_new_row -> 'every_seconds', 'timezone', v_new_row -> 'timezone') = v_old_row then (v_old_row ->> 'next_at')::timestamptz
      else picture_queue._schedule_next(jsonb_populate_record(null::picture_queue.schedule, v_new_row), v_now) end;
    perform picture_queue._write_row('picture_queue.schedule', 'name', name,
      v_new_row - 'name' || jsonb_build_object('next_at', v_next_at, 'updated_at', v_now, 'last_error', null));
    perform picture_queue._wake_maintenance(v_next_at);
  end if;
  return picture_queue._get_schedule(name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_schedule is 'Creates or replaces a schedule; a repeated call changes nothing.';

create function public.delete_schedule(name text, request_id uuid default null) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(picture_queue._find_answer('delete_schedule', request_id::text),
    picture_queue._store_answer('delete_schedule', request_id::text, jsonb_build_object(
      'deleted', picture_queue._write_row('picture_queue.schedule', 'name', name, null))))
$$;
comment on function public.delete_schedule is 'Deletes a schedule, but not its jobs. Returns whether it existed.';

create function public.pause_schedule(name text) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_isolation();
  update picture_queue.schedule s set paused = true, next_at = null, updated_at = picture_queue._now()
  where s.name = pause_schedule.name and not s.paused;
  return picture_queue._get_schedule(pause_schedule.name);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.pause_schedule is 'Pauses a schedule, so that it enqueues no jobs.';

-- Resumes a schedule. Ticks during the pause do not count as missed. set_schedule validates the schedule again.
create function public.resume_schedule(name text) returns jsonb
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
  select public.set_schedule(name, s -> 'job' || '{"paused": false}' || jsonb_build_object('cron', s -> 'cron',
    'every_seconds', s -> 'every_seconds', 'timezone', s -> 'timezone', 'missed', s -> 'missed'))
  from picture_queue._get_schedule(name) s
$$;
comment on function public.resume_schedule is 'Resumes a schedule from its next tick on.';

-- Enqueues a job of a schedule now. The call is idempotent if the caller passes a job_id.
create function public.run_schedule(name text, job_id uuid default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return picture_queue._enqueue(jsonb_build_array(picture_queue._schedule_job(
    jsonb_populate_record(null::picture_queue.schedule, picture_queue._get_schedule(name)), picture_queue._now(),
    coalesce(job_id, gen_random_uuid())))) -> 0;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;
comment on function public.run_schedule is
  'Enqueues a job of a schedule now, even if it is paused; its next tick does not change.';

-- Lists schedules by name. A page ends after limit rows, or with the row that makes it larger than 8 MiB.
create function public.list_schedules(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(to_jsonb(s) - 'bytes_before' order by s.name), '[]')
    from (
      select s.*, sum(length(s.job::text)) over (order by s.name) - length(s.job::text) as bytes_before
      from picture_queue.schedule s
      where s.name > coalesce(filter ->> 'after', '') order by s.name limit coalesce((filter ->> 'limit')::integer, 10000)
    ) s
    where s.bytes_before <= 8388608);  -- 8 MiB
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_schedules is 'The schedules, by name.';


-- 395_function__input_file.sql

-- Files of Supabase Storage in inputs: storage:uploads/<user id>/<name>, which a user uploaded, and
-- storage:pictures/<user id>/<generation id>/<n>.<extension>, a picture of an earlier generation. The name of such a
-- picture is also generation:<generation id>/<n> (n is 1 by default), even before the picture exists: a generation with
-- this input waits for the end of the other generation. The worker replaces these names with signed URLs.

-- Returns the generation and the number of the picture that an input names; null if it names none.
create function picture_queue._parse_reference(p_file text, out generation_id uuid, out n integer)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := regexp_match(p_file,
    '^generation:([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(?:/([1-9][0-9]{0,3}))?$', 'i');
begin
  generation_id := v_parts[1]::uuid;
  n := case when generation_id is not null then coalesce(v_parts[2]::integer, 1) end;
end
$$;

-- Returns the problem with an input for a file; null if it is an https:// address, a file of Storage or
-- a picture of a generation.
create function picture_queue._file_problem(p_file text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_file ~ '^https://[^[:space:]]+$' then null
    when starts_with(p_file, 'generation:') and (picture_queue._parse_reference(p_file)).n is not null then null
    when coalesce(length(p_file) > 500, true) or p_file !~ '^storage:(uploads|pictures)(/[A-Za-z0-9_-][A-Za-z0-9_.-]*){2,5}$'
      then 'is neither an https:// address nor storage:uploads/<user id>/<name> nor generation:<id>/<n>'
  end
$$;

-- Returns the texts at any depth of the inputs that begin with a prefix such as storage:, each with the name of its
-- input.
create function picture_queue._input_texts(p_input jsonb, p_prefix text) returns table (input text, value text)
language plpgsql immutable rows 1 set search_path = pg_catalog, pg_temp
as $$
begin
  if position('"' || p_prefix in p_input::text) = 0 then  -- a cheap check, which ends most calls here
    return;
  end if;
  return query
  select e.key, t.value #>> '{}'
  from jsonb_each(p_input) e
  cross join lateral jsonb_path_query(e.value, 'strict $.** ? (@.type() == "string")') as t (value)
  where starts_with(t.value #>> '{}', p_prefix);
end
$$;

-- Refuses files of Storage that belong to another user, or whose path is malformed. The check includes all texts, also
-- those of inputs that are not files, since a model may read such a text as a file. Callers without a user (p_user is
-- null) are services, which may name any file.
create function picture_queue._check_file_owner(p_input jsonb, p_user uuid) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_problem text;
begin
  if p_user is null then
    return;
  end if;
  select format('input.%s is %s, which is not a file of the user', left(t.input, 100), left(t.value, 200))
  into v_problem
  from picture_queue._input_texts(p_input, 'storage:') t
  where split_part(t.value, '/', 2) is distinct from p_user::text or picture_queue._file_problem(t.value) is not null
  order by t.input limit 1;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem,
      'upload the file to the folder of the user in the bucket uploads');
  end if;
end
$$;

-- Returns the pictures of generations that the inputs name: the name of the input, its text, the generation and the
-- number of the picture. The search includes all texts, also those of inputs that are not files.
create function picture_queue._references(p_input jsonb)
returns table (input text, reference text, generation_id uuid, n integer)
language plpgsql immutable rows 1 set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  if position('"generation:' in p_input::text) = 0 then  -- a cheap check, which ends most calls here
    return;
  end if;
  return query
  select t.input, t.value, r.generation_id, r.n
  from picture_queue._input_texts(p_input, 'generation:') t
  cross join lateral picture_queue._parse_reference(t.value) r
  where r.generation_id is not null;
end
$$;

-- Returns the unfinished jobs of the generations that an input names. Refuses generations of other users, and those
-- that do not exist. For a service (p_user is null) they may belong to anyone.
create function picture_queue._referenced_jobs(p_input jsonb, p_user uuid) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_references jsonb;
  v_problem text;
begin
  select jsonb_agg(to_jsonb(r) order by r.input) into v_references from picture_queue._references(p_input) r;
  if v_references is null then
    return '{}'::uuid[];
  elsif jsonb_array_length(v_references) > 100 then
    v_problem := format('input names %s pictures of generations, at most 100 are possible', jsonb_array_length(v_references));
  else
    select format('input.%s is %s, and %s', left(r.input, 100), r.reference,
      case when p_user is null then 'there is no such generation' else 'the user has no such generation' end) into v_problem
    from jsonb_to_recordset(v_references) as r (input text, reference text, generation_id uuid)
    where not exists (
      select from public.generations g
      where g.id = r.generation_id and not g.deleted and (p_user is null or g.user_id = p_user))
    limit 1;
  end if;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem, 'list_generations() shows the generations of the user');
  end if;
  return array(
    select distinct j.id
    from jsonb_to_recordset(v_references) as r (generation_id uuid)
    join public.generations g on g.id = r.generation_id
    join public.job_queue j on j.id = g.job_id
    where j.finished_at is null order by j.id);
end
$$;

-- Returns, for each picture of a generation that an input names, its path in Storage, which begins with the bucket.
-- Pictures that do not exist, or were deleted, are left out.
create function picture_queue._referenced_paths(p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return coalesce((
    select jsonb_object_agg(r.reference, 'pictures/' || i.path)
    from picture_queue._references(p_input) r
    join public.images i on i.generation_id = r.generation_id and i.n = r.n
    where not i.deleted), '{}');
end
$$;

-- Returns the names of the inputs whose files the operator's rules have added. p_requested is the input before the
-- rules were applied, and p_sent the input afterwards. The worker signs these files whoever owns them.
create function picture_queue._operator_files(p_requested jsonb, p_sent jsonb) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select e.key from jsonb_each(p_sent) e
    where (p_requested -> e.key) is distinct from e.value and exists (
      select from unnest('{storage:,generation:}'::text[]) f (prefix)
      cross join lateral picture_queue._input_texts(jsonb_build_object(e.key, e.value), f.prefix) t)
    order by e.key);
end
$$;

-- Returns whether the folder of a user in the bucket uploads has fewer files than max_user_uploads.
create function picture_queue._has_upload_room(p_user text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select s.max_user_uploads from picture_queue.setting s);
begin
  return (
    select count(*) < v_limit
    from (
      select from storage.objects o
      -- 0 is the character after the slash.
      where o.bucket_id = 'uploads' and o.name collate "C" >= p_user || '/' and o.name collate "C" < p_user || '0'
      limit v_limit
    ) f);
end
$$;

-- Returns whether the user has fewer uploaded files than max_user_uploads. The policy of the bucket calls it.
create function picture_queue.may_upload() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue._find_table('storage.objects', true) is not null
    and picture_queue._has_upload_room(picture_queue._caller_id()::text);
end
$$;
comment on function picture_queue.may_upload() is 'Whether the user has fewer uploaded files than max_user_uploads.';

-- Refuses a file of a user who already has max_user_uploads files. The policy cannot do this alone: for a signed upload
-- URL, Storage checks the policy when it signs the URL and not when the file arrives. The lock makes uploads of one
-- user at the same moment count each other. Storage reports 42501 to the client as 403.
create function picture_queue._limit_uploads() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_folder text := new.owner_id || '/';
begin
  -- A file that is renamed or replaced does not add to the number of files.
  if tg_op = 'UPDATE' and old.bucket_id = new.bucket_id and starts_with(old.name, v_folder)
    or exists (select from storage.objects o where o.bucket_id = new.bucket_id and o.name = new.name) then
    return new;
  end if;
  perform pg_catalog.pg_advisory_xact_lock(1903326074, pg_catalog.hashtext(new.owner_id) & 1023);
  if not picture_queue._has_upload_room(new.owner_id) then
    raise exception 'The user has as many files in the bucket uploads as max_user_uploads permits'
      using errcode = '42501', hint = 'Delete files, or raise max_user_uploads with set_setting.';
  end if;
  return new;
end
$$;

-- Returns whether the caller may read a file in the caller's folder of the bucket pictures. A file in the folder of a
-- generation needs a row in images: a worker that was killed may have stored a file before the row, and the generation
-- may then have failed or been cancelled. The policy of the bucket calls it for each file of a list.
create function picture_queue.may_read_picture(path text) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_user uuid := picture_queue._caller_id();
  v_folder text := split_part(path, '/', 2);
begin
  if v_folder !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    return true;
  end if;
  -- The comparison of user_id cannot use an index, so that the planner uses that of generation_id.
  return exists (
    select from public.images i
    where i.generation_id = v_folder::uuid and may_read_picture.path in (i.path, i.thumbnail_path)
      and not i.deleted and i.user_id is not distinct from v_user);
end
$$;
comment on function picture_queue.may_read_picture(text) is
  'Whether the user may read a file in their folder of the bucket pictures.';


-- 400_function__check_input.sql

-- Returns the problem with the value of one input; null if the value is valid. p_rule is an entry of model.inputs.
-- p_max_text is the maximum number of characters of a text that is not a URL. A model may read such a text as a prompt,
-- so it has the limit of prompts.
create function picture_queue._input_problem(p_rule jsonb, p_value jsonb, p_max_text integer) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_rule ->> 'type' = 'integer' and (jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}')::numeric % 1 <> 0)
      then 'is not a whole number'
    when case when jsonb_typeof(p_value) = 'number' then
        p_rule ->> 'type' = 'integer' and abs((p_value #>> '{}')::numeric) >= 2::numeric ^ 63 end
      then 'is beyond 64 bits'
    when p_rule ->> 'type' in ('number', 'string', 'boolean', 'array') and jsonb_typeof(p_value) <> p_rule ->> 'type'
      then format('is not of type %s', p_rule ->> 'type')
    when case when jsonb_typeof(p_value) = 'array' then jsonb_array_length(p_value) > 100 end
      then format('has %s entries, at most 100 are possible', jsonb_array_length(p_value))
    when p_rule ->> 'format' = 'uri' and exists (
      select from jsonb_array_elements_text(
        case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end) u
      where picture_queue._file_problem(u) is not null)
      then 'is neither an https:// address nor storage:uploads/<user id>/<name> nor generation:<id>/<n>'
    when jsonb_typeof(p_rule -> 'enum') = 'array' and not (p_rule -> 'enum') @> p_value
      then format('is not one of %s', picture_queue._list_values(array(select jsonb_array_elements_text(p_rule -> 'enum'))))
    when p_rule -> 'format' is null and exists (
      select from jsonb_array_elements_text(
        case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end) u
      where length(u) > p_max_text)
      then format('has over %s characters', p_max_text)
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric < (p_rule ->> 'minimum')::numeric
      then format('is below %s', p_rule ->> 'minimum')
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric > (p_rule ->> 'maximum')::numeric
      then format('is above %s', p_rule ->> 'maximum')
  end
$$;

-- Returns how many characters have to be inserted, deleted or replaced to turn one text into the other (the Levenshtein
-- distance). The texts are names of up to 100 characters.
create function picture_queue._edit_distance(p_from text, p_to text) returns integer
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_row integer[] := array(select generate_series(0, length(p_to)));  -- v_row[j + 1]: the distance to the first j characters
  v_diagonal integer;
  v_above integer;
begin
  for i in 1..length(p_from) loop
    v_diagonal := v_row[1];
    v_row[1] := i;
    for j in 1..length(p_to) loop
      v_above := v_row[j + 1];
      v_row[j + 1] := least(v_above + 1, v_row[j] + 1,
        v_diagonal + (substr(p_from, i, 1) <> substr(p_to, j, 1))::integer);
      v_diagonal := v_above;
    end loop;
  end loop;
  return v_row[length(p_to) + 1];
end
$$;

-- Returns the name that a mistyped name probably stands for; null if no name is similar. A name is similar if at most a
-- third of the characters differ, or if it begins with the mistyped name.
create function picture_queue._nearest_name(p_mistyped text, p_names text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select n.name
  from unnest(p_names) as n (name)
  cross join lateral (select picture_queue._edit_distance(lower(left(p_mistyped, 60)), lower(left(n.name, 60))) as distance) d
  where d.distance <= greatest(length(n.name), length(left(p_mistyped, 60))) / 3
    or length(p_mistyped) >= 3 and starts_with(lower(n.name), lower(p_mistyped))
  order by d.distance, n.name limit 1
$$;

-- Returns whether a prompt consists of spaces of any width, line breaks, control and format characters only.
create function picture_queue._is_blank(p_prompt text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(p_prompt, '') !~ (E'[^[:space:]\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c'
    || E'\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f'
    || E'\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]')
$$;

-- Returns the problem with the size and form of an input; null if there is none. This check limits the work of the
-- checks that follow.
create function picture_queue._input_form_problem(p_input jsonb, p_max_bytes integer) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when jsonb_typeof(p_input) is distinct from 'object' then 'input is not an object'
    else coalesce(
      'input ' || picture_queue._json_problem(p_input, p_max_bytes) || ': pass the URLs of files, not the files',
      case when (select count(*) from jsonb_object_keys(p_input)) > 100
        then format('input has %s fields, at most 100 are possible', (select count(*) from jsonb_object_keys(p_input))) end)
  end
$$;

-- Refuses a prompt or input that does not fit the model. The error names the field, the value and the rule. If several
-- inputs are invalid, the error names the first in alphabetical order. If the list of inputs of the model is
-- incomplete, unknown inputs are passed on unchecked, and the function returns a warning for each of them.
create function picture_queue._check_input(p_model_id text, p_prompt text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting picture_queue.setting;
  v_model picture_queue.model;
  v_prompt jsonb;  -- the entry of the prompt in the inputs of the model; null if the model takes no prompt
  v_names text[];
  v_problem text;
  v_nearest text;
begin
  select * into v_setting from picture_queue.setting;
  select * into v_model from picture_queue.model m where m.model_id = p_model_id;
  v_names := array(select r ->> 'name' from jsonb_array_elements(v_model.inputs) r);
  select r into v_prompt from jsonb_array_elements(v_model.inputs) r where r ->> 'name' = 'prompt';
  v_problem := case
    when length(p_prompt) > v_setting.max_prompt_length
      then format('prompt has %s characters, the limit is %s', length(p_prompt), v_setting.max_prompt_length)
    -- Many models have a default prompt. A text-to-image model must not draw this instead of the user's prompt. For
    -- other models, such as upscalers, the default prompt is useful.
    when (v_prompt ->> 'required' = 'true' or v_prompt is not null and v_model.kind = 'text-to-image')
      and picture_queue._is_blank(p_prompt) then 'prompt is empty'
    when v_prompt is null and coalesce(p_prompt, '') <> '' then format('%s takes no prompt', p_model_id)
    when p_input ? 'prompt' then 'input.prompt is not permitted, prompt is a separate argument'
    else coalesce(picture_queue._input_form_problem(p_input, v_setting.max_payload_bytes), (
      select format('input.%s is %s and %s', left(e.key, 100), left(e.value::text, 100), p.problem)
      from jsonb_each(p_input) e
      left join jsonb_array_elements(v_model.inputs) as r (rule) on r.rule ->> 'name' = e.key
      cross join lateral (select case when r.rule is not null
          then picture_queue._input_problem(r.rule, e.value, v_setting.max_prompt_length)
        when v_model.inputs_complete then 'is not an input of ' || p_model_id
        else picture_queue._input_problem('{}', e.value, v_setting.max_prompt_length) end as problem) p
      where p.problem is not null order by e.key limit 1), (
      select format('input.%s is missing', r.rule ->> 'name') from jsonb_array_elements(v_model.inputs) as r (rule)
      where (r.rule ->> 'required')::boolean and r.rule ->> 'name' <> 'prompt' and not p_input ? (r.rule ->> 'name') limit 1))
  end;
  if v_problem is not null then
    select picture_queue._nearest_name(k, array_remove(v_names, 'prompt')) into v_nearest
    from jsonb_object_keys(case jsonb_typeof(p_input) when 'object' then p_input else '{}' end) k
    where v_problem like '%is not an input of%' and k <> all (v_names) order by k limit 1;
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem, coalesce(
      'did you mean ' || v_nearest || '? ', '') || format('inputs of %s: %s', p_model_id, picture_queue._list_values(v_names)));
  end if;
  return (
    select coalesce(jsonb_agg(format('input.%s is not among the known inputs of %s, and is passed on unchecked%s',
      left(u.k, 100), p_model_id,
      -- The search for a similar name takes milliseconds.
      case when u.n <= 3 then '; did you mean ' || picture_queue._nearest_name(u.k, v_names) || '?' end) order by u.k), '[]')
    from (
      select k, row_number() over (order by k) as n from jsonb_object_keys(p_input) k where k <> all (v_names)) u);
end
$$;


-- 402_function__input_rule.sql

-- The operator's rules over inputs (picture_queue.input_rule).

-- Returns the rules that apply to each of these inputs of a model, for users of this plan (null: no plan). Of several
-- rules with the same action, the most specific applies. A rule with a plan is more specific than a rule without. After
-- that, the pattern of the model decides, then the pattern of the input. A rule `allow` cancels all locks, caps and
-- refusals that are equally or less specific. The function is plpgsql with a generic plan, since planning the query
-- takes longer than running it, and an SQL function would plan it for each call.
create function picture_queue._input_rules(p_model_id text, p_plan text, p_inputs text[])
returns table (input text, locked jsonb, preset jsonb, cap jsonb, is_refused boolean, refused_values jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  return query
  select most_specific.input, most_specific.locked[1], most_specific.preset[1], most_specific.cap[1],
    coalesce(most_specific.refused[1] = 'null', false), nullif(most_specific.refused[1], 'null')
  from (
    select rule.input,
      array_agg(rule.value order by rule.place, rule.value) filter (where rule.action = 'lock') as locked,
      array_agg(rule.value order by rule.place, rule.value) filter (where rule.action = 'default') as preset,
      array_agg(rule.value order by rule.place, rule.value) filter (where rule.action = 'cap') as cap,
      array_agg(coalesce(rule.value, 'null') order by rule.place, rule.value)
        filter (where rule.action = 'refuse') as refused
    from (
      select requested.input, matching.action, matching.value, matching.place,
        min(matching.place) filter (where matching.action = 'allow') over (partition by requested.input) as allowed_at
      from unnest(p_inputs) as requested (input)
      cross join lateral (
        -- place is 1 for the most specific rules.
        select o.action, o.value, rank() over (order by o.specificity desc) as place
        from picture_queue.input_rule o
        where (o.plan is null or o.plan = p_plan) and p_model_id like o.model_like escape '!'
          and lower(requested.input) like o.input_like escape '!'
      ) matching
    ) rule
    where rule.action in ('lock', 'default', 'cap', 'refuse')
      and (rule.action = 'default' or rule.place < coalesce(rule.allowed_at, 2147483647))
    group by rule.input
  ) most_specific;
end
$$;

-- Returns the number that a text is for most providers; null if it is none. A number with many characters, such as one
-- padded with zeros, is infinite. The text is read without space and control characters, as Python reads it.
create function picture_queue._text_number(p_text text) returns numeric
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_text text := regexp_replace(p_text, E'[\u0001-\u0020\u007f]', '', 'g');
begin
  return case
    when v_text !~* '^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)(e[+-]?[0-9]+)?$' then null
    when length(v_text) > 80 or v_text ~* 'e[+-]?[0-9]{3}' then 'infinity'
    else v_text::numeric end;
end
$$;

-- Returns whether a text is a number above a cap, since some providers convert texts to numbers. p_is_strict: the model
-- does not list the input, so its type is not known, and the model may convert the text with Python or JavaScript.
-- Python reads '9_9' as 99, and digits of all scripts. So a text that is long or not in ASCII counts as above the cap,
-- unless it has a letter that occurs in no number, such as those of https.
create function picture_queue._number_exceeds(p_text text, p_cap numeric, p_is_strict boolean) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_number numeric := picture_queue._text_number(p_text);
  v_text text := regexp_replace(p_text, E'[\u0001-\u0020\u007f]', '', 'g');
begin
  if p_cap is null then
    return false;
  elsif v_number is not null or not p_is_strict then
    return coalesce(v_number > p_cap, false);
  end if;
  return v_text ~* '^[+-]?([0-9_.]+(e[0-9_+-]*)?|0[box][0-9a-f_]*|inf|infinity|nan)$'
    or (v_text ~ E'[^\u0001-\u007f]' or length(v_text) > 80) and v_text !~ '[GHJ-MP-SU-WZghj-mp-su-wz]';
end
$$;

-- Applies one row of _input_rules to the value that the caller passed (p_passed). Returns the value to send (null:
-- none), and the problem with the passed value. p_rule is the entry of the input in model.inputs; null if the model
-- does not list the input.
create function picture_queue._apply_input_rule(
  p_rule jsonb, p_passed jsonb, p_locked jsonb, p_preset jsonb, p_cap jsonb, p_is_refused boolean,
  p_refused_values jsonb, out value jsonb, out problem text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_default jsonb := nullif(p_rule -> 'default', 'null');
  v_cap numeric := case when p_locked is null then (p_cap #>> '{}')::numeric end;
  v_exceeds boolean := jsonb_typeof(v_default) = 'number' and (v_default #>> '{}')::numeric > v_cap;
begin
  -- A value that is the default of the model counts as omitted, so that a form may send all defaults.
  if p_passed is null or p_passed = v_default and (p_is_refused or p_locked is not null or v_exceeds) then
    value := case
      when p_rule is null then null
      when p_locked is not null then nullif(p_locked, v_default)  -- the default of the model need not be sent
      when p_is_refused then null
      when jsonb_typeof(p_preset) = 'number' and (p_preset #>> '{}')::numeric > v_cap then p_cap
      when p_preset is null and v_exceeds then p_cap
      else p_preset end;
    return;
  end if;
  value := p_passed;
  problem := case
    when p_is_refused then 'is not permitted in this project'
    when exists (
      select from jsonb_array_elements(p_refused_values) r
      where r = p_passed or jsonb_typeof(p_passed) = 'array' and exists (
        select from jsonb_array_elements(p_passed) g where g = r))
      then 'is a value that this project does not permit'
    when p_passed <> p_locked then format('is not permitted, this project permits only %s', left(p_locked::text, 100))
    else case jsonb_typeof(p_passed)
      when 'number' then case when (p_passed #>> '{}')::numeric > v_cap
        then format('is above %s, the maximum of this project', v_cap) end
      when 'array' then case
        when jsonb_array_length(p_passed) > v_cap
          then format('has %s entries, this project permits %s', jsonb_array_length(p_passed), v_cap)
        when p_rule is null and exists (
          select from jsonb_array_elements(p_passed) g
          where case jsonb_typeof(g) when 'number' then (g #>> '{}')::numeric > v_cap
            when 'string' then picture_queue._number_exceeds(g #>> '{}', v_cap, true) end)
          then format('has a number above %s, the maximum of this project', v_cap) end
      when 'string' then case
        when picture_queue._number_exceeds(p_passed #>> '{}', v_cap, p_rule is null)
          then format('is above %s, the maximum of this project', v_cap)
        when p_rule -> 'format' is null and length(p_passed #>> '{}') > v_cap
          then format('has %s characters, this project permits %s', length(p_passed #>> '{}'), v_cap) end
    end end;
end
$$;

-- Applies the operator's rules to an input, and returns the input to send: locked values and defaults are added, and
-- defaults of the model above a cap are lowered to the cap. A value that is the model's default counts as omitted.
-- Refuses a value that a rule does not permit, unless _check_input will refuse the value. p_plan: the plan of the user;
-- null: none.
create function picture_queue._apply_input_rules(p_model_id text, p_plan text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting picture_queue.setting;
  v_inputs jsonb := (select m.inputs from picture_queue.model m where m.model_id = p_model_id);
  v_problem text;
  v_inputs_with_rules text[];
  v_values jsonb;
begin
  select * into v_setting from picture_queue.setting;
  if picture_queue._input_form_problem(p_input, v_setting.max_payload_bytes) is not null then
    return p_input;  -- _check_input refuses it
  end if;
  select (array_agg(format('input.%s is %s and %s', left(rules.input, 100), left((p_input -> rules.input)::text, 100),
      applied.problem) order by rules.input)
      filter (where applied.problem is not null and (listed.rule is null
        or picture_queue._input_problem(listed.rule, p_input -> rules.input, v_setting.max_prompt_length) is null)))[1],
    array_agg(rules.input), jsonb_object_agg(rules.input, applied.value) filter (where applied.value is not null)
  into v_problem, v_inputs_with_rules, v_values
  from picture_queue._input_rules(p_model_id, p_plan, array(
    select i ->> 'name' from jsonb_array_elements(v_inputs) i where i ->> 'name' <> 'prompt'
    union select k from jsonb_object_keys(p_input) k)) rules
  left join jsonb_array_elements(v_inputs) as listed (rule) on listed.rule ->> 'name' = rules.input
  cross join lateral picture_queue._apply_input_rule(listed.rule, p_input -> rules.input, rules.locked, rules.preset,
    rules.cap, rules.is_refused, rules.refused_values) applied;
  if v_problem is not null then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', v_problem,
      'omit it, or change its value; list_input_rules() shows the rules to the operator');
  end if;
  return p_input - coalesce(v_inputs_with_rules, '{}') || coalesce(v_values, '{}');
end
$$;


-- 404_function__model.sql

-- Returns the job type of the generations of a kind and a provider. Each provider has its own job types. A worker
-- claims only job types that it has a handler for, so a worker without the provider never claims the job.
create function picture_queue._generation_job_type(p_kind text, p_provider text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case p_kind
      when 'text-to-image' then 'generate-image'
      when 'image-variation' then 'vary-image'
      when 'image-edit' then 'edit-image'
      when 'upscale' then 'upscale-image'
      when 'background-removal' then 'remove-background'
      when 'vector' then 'vectorize-image'
    end || case when p_provider <> 'replicate' then ':' || p_provider else '' end
$$;

-- Returns the input of a model that takes the picture of an earlier step: the first required file, else the first file.
-- A mask comes last. Null if the model takes no picture.
create function picture_queue._picture_input(p_inputs jsonb) returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select r.rule from jsonb_array_elements(p_inputs) with ordinality as r (rule, i)
  where r.rule ->> 'format' = 'uri'
  order by coalesce((r.rule ->> 'required')::boolean, false) desc, r.rule ->> 'name' ~ 'mask', r.i limit 1
$$;

-- Returns the default model of a kind for a step that gets a picture: the model with the lowest expected cost, of the
-- models that are offered and take a picture. If the step has a prompt (p_prompted), models that take a prompt come
-- first; otherwise models that do not require a prompt. Null if there is no such model.
create function picture_queue._default_model(p_kind text, p_prompted boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  return (
    select m.model_id
    from picture_queue.model m
    left join lateral (
      select r.rule from jsonb_array_elements(m.inputs) as r (rule) where r.rule ->> 'name' = 'prompt' limit 1) p on true
    where m.kind = p_kind and m.enabled and m.unavailable_reason is null
      and picture_queue._picture_input(m.inputs) is not null
    order by case when p_prompted then p.rule is null else coalesce((p.rule ->> 'required')::boolean, false) end,
      picture_queue._cost(m.model_id, '{}') ->> 'price_unit' is null,
      (picture_queue._cost(m.model_id, '{}') ->> 'amount_usd')::numeric, m.model_id limit 1);
end
$$;

-- Returns the model of a generation with its provider, and the kind of the generation: p_kind, or if it is null the
-- kind of the model. If p_model_id is null, the model is the default model.
create function picture_queue._resolve_model(
  p_model_id text, p_kind text, out model_id text, out kind text, out provider text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_model record;
begin
  select m.* into v_model from picture_queue.model m
  where m.model_id = coalesce(p_model_id, (select s.default_model from picture_queue.setting s));
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('model_id is %s', left(quote_nullable(p_model_id), 200)));
  elsif v_model.unavailable_reason is not null then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL',
      format('model_id is %L, which is not offered: %s', v_model.model_id, v_model.unavailable_reason));
  elsif not v_model.enabled then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL',
      format('model_id is %L, which this project has disabled', v_model.model_id));
  elsif p_kind <> v_model.kind and not v_model.also_kinds ? p_kind then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('options.kind is %s, and %s does %s', p_kind, v_model.model_id,
        concat_ws(', ', v_model.kind, (select string_agg(k, ', ') from jsonb_array_elements_text(v_model.also_kinds) k))),
      format('models of this kind: %s', picture_queue._list_values(array(
        select m.model_id from picture_queue.model m
        where m.enabled and m.unavailable_reason is null and (m.kind = p_kind or m.also_kinds ? p_kind)
        order by m.model_id))));
  end if;
  model_id := v_model.model_id;
  provider := v_model.provider;
  kind := coalesce(p_kind, v_model.kind);
end
$$;


-- 410_function_start_generation.sql

-- Checks the options of a generation and returns its owner; null: the generation belongs to no user. The default of
-- p_rules has the options of start_generation. _check_steps validates options.then.
create function picture_queue._generation_user(p_options jsonb, p_rules jsonb default '{
    "scheduled_for": ["time"],
    "idempotency_key": ["text", 255],
    "generation_id": ["uuid"],
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "reuse": ["boolean"],
    "then": ["object"],
    "user_id": ["uuid"],
    "priority": ["integer", -1000000000, 1000000000]
  }')
returns uuid
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_user uuid;
begin
  perform picture_queue._check_fields('options.',
    case when p_options ? 'then' then p_options || '{"then": null}' else p_options end, p_rules);
  if picture_queue._is_service() then
    return (p_options ->> 'user_id')::uuid;
  end if;
  v_user := picture_queue._caller_id();
  if v_user is null then
    perform picture_queue._raise_error('PQ_NOT_AUTHENTICATED', 'the token names no user');
  elsif p_options ?| array['user_id', 'priority'] then
    perform picture_queue._raise_error('PQ_NOT_ALLOWED', 'options.user_id and options.priority need a service key',
      'omit them: the generation belongs to the caller');
  end if;
  return v_user;
end
$$;

-- Returns the id of the generation that a call starts or repeats: options.generation_id if the user has this
-- generation, or the id of the user's generation with options.idempotency_key, or options.generation_id, or a new id.
create function picture_queue._generation_id(p_options jsonb, p_user uuid) returns uuid
language sql volatile set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select g.id from public.generations g
    where g.id = (p_options ->> 'generation_id')::uuid and g.user_id is not distinct from p_user), (
    select j.generation_id from public.job_queue j
    where j.idempotency_key = p_options ->> 'idempotency_key' and j.user_id = p_user and j.generation_id is not null
    union all
    select j.generation_id from public.job_queue j
    where p_user is null and j.idempotency_key = p_options ->> 'idempotency_key' and j.user_id is null
      and j.generation_id is not null
    limit 1), (p_options ->> 'generation_id')::uuid, gen_random_uuid())
$$;

-- Checks the model, prompt and input of a request against the catalogue and the operator's rules. Returns the model,
-- the input to send, warnings, the jobs whose pictures the generation uses, so that it has to wait for them, and the
-- inputs whose files the rules have added.
-- p_picture: the picture of the previous step of a chain, for the input that takes a picture.
create function picture_queue._check_generation(
  p_user uuid, p_prompt text, p_model_id text, p_kind text, p_input jsonb, p_picture text default null,
  out model_id text, out kind text, out provider text, out version text, out input jsonb, out warnings jsonb,
  out depends_on uuid[], out operator_files text[])
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_rule jsonb;
  v_requested jsonb;
begin
  select r.model_id, r.kind, r.provider into model_id, kind, provider
  from picture_queue._resolve_model(p_model_id, p_kind) r;
  input := p_input;
  if p_picture is not null and jsonb_typeof(p_input) = 'object' then
    v_rule := (select picture_queue._picture_input(m.inputs) from picture_queue.model m
      where m.model_id = _check_generation.model_id);
    if v_rule is null then
      perform picture_queue._raise_error('PQ_INVALID_INPUT', format('model_id is %L, which takes no picture', model_id),
        'choose a model with an input of format uri; list_models() shows the inputs of each model');
    elsif p_input ? (v_rule ->> 'name') then
      perform picture_queue._raise_error('PQ_INVALID_INPUT',
        format('input.%s is given, but it gets the picture of the previous step', v_rule ->> 'name'), 'omit it');
    end if;
    input := input || jsonb_build_object(v_rule ->> 'name',
      case when v_rule ->> 'type' = 'array' then jsonb_build_array(p_picture) else to_jsonb(p_picture) end);
  end if;
  v_requested := input;
  input := picture_queue._apply_input_rules(model_id, (
    select a.plan from picture_queue.account a where a.key = 'user:' || p_user), input);
  warnings := picture_queue._check_input(model_id, p_prompt, input);
  perform picture_queue._check_file_owner(p_input, p_user);  -- an operator's default may be a file of the operator
  operator_files := picture_queue._operator_files(v_requested, input);
  depends_on := picture_queue._referenced_jobs(p_input, p_user);
  version := (select m.version from picture_queue.model m where m.model_id = _check_generation.model_id);
end
$$;

-- Returns the job of a generation in the format of _enqueue. The id of the job is a hash of the generation's id, so a
-- repeated call finds the same job. p_operator_files: see _operator_files. p_job_options: further options of the job.
create function picture_queue._generation_job(
  p_generation_id uuid, p_user uuid, p_kind text, p_provider text, p_model_id text, p_options jsonb,
  p_operator_files text[], p_job_options jsonb default '{}')
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'job_id', md5('picture_queue job of generation ' || p_generation_id)::uuid,
    'job_type', picture_queue._generation_job_type(p_kind, p_provider), 'generation_id', p_generation_id,
    'payload', jsonb_build_object('generation_id', p_generation_id) || case
      when cardinality(p_operator_files) > 0 then jsonb_build_object('operator_files', p_operator_files) else '{}' end,
    'user_id', p_user, 'priority', p_options -> 'priority',
    'scheduled_for', p_options -> 'scheduled_for',
    'idempotency_key', p_options -> 'idempotency_key',
    -- During an outage of the provider, a worker pauses this limit key, and so the jobs of all job types of the
    -- provider.
    'options', p_job_options || jsonb_build_object('limit_keys',
      array['provider:' || p_provider, 'model:' || left(p_model_id, 190)]));
end
$$;

-- Returns the answer of start_generation for an existing generation, with the steps of its chain.
create function picture_queue._started_generation(
  p_id uuid, p_job_id uuid, p_status text, p_batch_id uuid, p_position integer)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_started jsonb := jsonb_build_object('generation_id', p_id, 'job_id', p_job_id, 'status', p_status);
  v_steps jsonb := (
    select jsonb_agg(jsonb_build_object('generation_id', g.id, 'job_id', g.job_id, 'status', g.status)
      order by g.batch_step)
    from public.generations g
    where g.batch_id = p_batch_id and g.batch_position = p_position and g.batch_step > 0);
begin
  return v_started || case when p_batch_id is null then '{}' else jsonb_build_object('batch_id', p_batch_id) end
    || case when v_steps is null then '{}' else jsonb_build_object('steps', v_steps) end;
end
$$;

-- Refuses a start that repeats the id or the idempotency key of a deleted generation: get_generation does not find such
-- a generation, and it gets no pictures. If its row was removed too, its job shows that there was a generation. One
-- statement searches for both, since a concurrent call may commit both.
create function picture_queue._check_deleted(p_generation_id uuid, p_user uuid, p_options jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
begin
  if not p_options ?| '{generation_id,idempotency_key}' or not exists (
    select from public.generations g
    where g.id = p_generation_id and g.user_id is not distinct from p_user and g.deleted
    union all
    select from public.job_queue j
    where j.id = md5('picture_queue job of generation ' || p_generation_id)::uuid and j.user_id is not distinct from p_user
      and not exists (select from public.generations g where g.id = p_generation_id))
  then
    return;
  end if;
  perform picture_queue._raise_error('PQ_CONFLICT', case
    when (p_options ->> 'generation_id')::uuid is distinct from p_generation_id
    then format('options.idempotency_key is %L, of generation %s, which was deleted',
      left(p_options ->> 'idempotency_key', 255), p_generation_id)
    else format('options.generation_id is %s, of a generation that was deleted', p_generation_id) end,
    'pass a new generation_id or idempotency_key to start another generation');
end
$$;

-- Checks prompt and input against the model and the operator's rules, then writes the generation and its job in one
-- transaction. A call that repeats options.generation_id or options.idempotency_key returns the existing generation.
-- With options.reuse the function returns an equal finished generation if there is one, and starts none. With
-- options.then the generation is the first of a chain.
create function picture_queue.start_generation(p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_user uuid;
  v_generation_id uuid;
  v_cost jsonb;
  v_existing record;
  v_model record;
  v_reusable jsonb;
  v_job jsonb;
  v_job_row record;
begin
  v_user := picture_queue._generation_user(p_options);
  v_generation_id := picture_queue._generation_id(p_options, v_user);
  perform picture_queue._check_deleted(v_generation_id, v_user, p_options);
  select g.* into v_existing from public.generations g where g.id = v_generation_id;
  if v_existing.user_id is not distinct from v_user and v_existing.id is not null then
    -- Answer from the generation, since its job may have been pruned.
    return picture_queue._started_generation(
      v_existing.id, v_existing.job_id, v_existing.status, v_existing.batch_id, v_existing.batch_position);
  elsif v_existing.id is null and coalesce(p_options -> 'then', 'null') not in ('null', '[]') then
    return picture_queue._start_chain(v_user, v_generation_id, p_prompt, p_model_id, p_input, p_options);
  end if;
  v_model := picture_queue._check_generation(v_user, p_prompt, p_model_id, p_options ->> 'kind', p_input);
  if v_existing.id is not null then
    perform picture_queue._raise_error('PQ_CONFLICT', format('options.generation_id is %s', v_generation_id),
      'use a new uuid for each generation');
  end if;
  v_reusable := picture_queue._find_reusable(
    p_options, v_user, v_model.model_id, v_model.version, coalesce(p_prompt, ''), v_model.input);
  if v_reusable is not null then
    return v_reusable;
  elsif v_model.depends_on <> '{}' then
    return picture_queue._start_dependent(v_user, v_generation_id, p_prompt, p_model_id, p_input, p_options);
  end if;

  v_cost := picture_queue._check_spending(v_user, v_model.model_id, v_model.input, v_generation_id,
    picture_queue._generation_job_type(v_model.kind, v_model.provider), p_options ->> 'idempotency_key');
  v_job := picture_queue._enqueue(jsonb_build_array(picture_queue._generation_job(v_generation_id, v_user,
    v_model.kind, v_model.provider, v_model.model_id, p_options, v_model.operator_files))) -> 0;
  select * into v_job_row from public.job_queue where id = (v_job ->> 'job_id')::uuid;
  if v_job ->> 'outcome' = 'created' then
    insert into public.generations
      (id, user_id, job_id, kind, model_id, model_version, prompt, input, status, created_at, updated_at)
    values (v_job_row.generation_id, v_user, v_job_row.id, v_model.kind, v_model.model_id,
      v_model.version, coalesce(p_prompt, ''), v_model.input, v_job_row.status, v_job_row.created_at, v_job_row.created_at);
    perform picture_queue._reserve(v_job_row.generation_id, v_user, v_model.model_id, v_cost);
  end if;
  return jsonb_build_object(
    'generation_id', v_job_row.generation_id, 'job_id', v_job_row.id, 'status', v_job_row.status)
    || case when v_model.warnings = '[]' then '{}' else jsonb_build_object('warnings', v_model.warnings) end;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;

create function public.start_generation(
  prompt text, model_id text default null, input jsonb default '{}', options jsonb default '{}')
returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
  select picture_queue.start_generation(prompt, model_id, coalesce(input, '{}'), coalesce(options, '{}'))
$$;
comment on function public.start_generation is 'Starts a generation; returns at once, with generation_id and job_id.';


-- 411_function__start_requests.sql

-- Chains and batches of generations. Both are a batch of jobs (picture_queue.batch). A generation of a batch has the id
-- of the batch, the position of its request in the call and its step in the chain of this request. Each step is a
-- separate generation, with its own job, cost and refund. The job of a step depends on the job of the previous step.

-- Refuses options.then, or the field `then` of a request, if it is not a list of up to 5 valid steps. p_path: the name
-- of the list.
create function picture_queue._check_steps(p_path text, p_steps jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(p_steps, 'null') = 'null' then
    return;
  elsif jsonb_typeof(p_steps) <> 'array' then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', p_path || ' is not a list', 'pass a list of steps');
  elsif jsonb_array_length(p_steps) > 5 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('%s has %s steps, at most 5 are possible', p_path, jsonb_array_length(p_steps)), 'use fewer steps');
  end if;
  perform picture_queue._check_fields(format('%s[%s].', p_path, s.i - 1), s.step, '{
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "model_id": ["text", 200],
    "prompt": ["text", 1000000, 0],
    "input": ["object"]
  }')
  from jsonb_array_elements(p_steps) with ordinality as s (step, i);
  perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
    format('%s[%s] has neither model_id nor kind', p_path, s.i - 1), 'name the model of the step, or its kind')
  from jsonb_array_elements(p_steps) with ordinality as s (step, i)
  where coalesce(s.step ->> 'model_id', s.step ->> 'kind') is null;
end
$$;

-- Refuses the requests of start_generations if they are not a list of 1 to 100 objects with known fields. This check
-- limits the work of the checks that follow.
create function picture_queue._check_requests(p_requests jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer := case when jsonb_typeof(p_requests) = 'array' then jsonb_array_length(p_requests) end;
  v_request record;
begin
  perform picture_queue._raise_problem(case
    when v_count is null then 'requests is not a list'
    when v_count not between 1 and 100 then format('requests has %s entries, 1 to 100 are possible', v_count)
    else 'requests ' || picture_queue._json_problem(p_requests, 100 * (select s.max_payload_bytes from picture_queue.setting s))
    end, 'pass a list of objects with prompt, model_id, input, kind and then');
  for v_request in
    select format('requests[%s].', r.i - 1) as path, r.request from jsonb_array_elements(p_requests) with ordinality as r (request, i)
  loop
    perform picture_queue._check_fields(v_request.path,
      case when v_request.request ? 'then' then v_request.request || '{"then": null}' else v_request.request end, '{
        "prompt": ["text", 1000000, 0],
        "model_id": ["text", 200],
        "input": ["object"],
        "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
        "then": ["object"]
      }');
    perform picture_queue._check_steps(v_request.path || 'then', v_request.request -> 'then');
  end loop;
end
$$;

-- Raises the error of one request again, with the path of the request in front of the name of the field.
create function picture_queue._raise_request_error(
  p_path text, p_sqlstate text, p_message text, p_detail text, p_hint text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_detail text := regexp_replace(p_detail, '^options[.]', '');
begin
  raise exception using errcode = p_sqlstate, message = p_message, hint = p_hint, detail = case
    when p_path is null then p_detail
    when v_detail ~ '^(prompt|model_id|kind|input)([. ]|$)' then p_path || '.' || v_detail
    else p_path || ': ' || p_detail end;
end
$$;

-- Returns the path of a request or step in an error; null: the first generation of a chain.
create function picture_queue._request_path(p_is_batch boolean, p_position bigint, p_step bigint) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select nullif(concat_ws('.',
    case when p_is_batch then format('requests[%s]', p_position) end,
    case when p_step > 0
      then format('%s[%s]', case when p_is_batch then 'then' else 'options.then' end, p_step - 1) end), '')
$$;

-- Returns the steps of requests in the order of the call: the position of the request, the step of its chain (from 0),
-- and the path of the step in errors. n is the place of the step in the call, from 1.
create function picture_queue._list_steps(p_requests jsonb, p_is_batch boolean)
returns table (
  n bigint, request_position bigint, step bigint, path text, prompt text, model_id text, kind text, input jsonb)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select row_number() over (order by r.i, s.step), r.i - 1, s.step, picture_queue._request_path(p_is_batch, r.i - 1, s.step),
    s.item ->> 'prompt', s.item ->> 'model_id', s.item ->> 'kind', coalesce(nullif(s.item -> 'input', 'null'), '{}')
  from jsonb_array_elements(p_requests) with ordinality as r (request, i)
  cross join lateral (
    select 0 as step, r.request as item
    union all
    select t.i, t.item
    from jsonb_array_elements(coalesce(nullif(r.request -> 'then', 'null'), '[]')) with ordinality as t (item, i)) s
$$;

-- Refuses a call that starts more generations than the rates of a user allow, before other work. The error names the
-- first generation that exceeds a rate. p_account: the answer of _open_account.
create function picture_queue._check_step_rates(
  p_user uuid, p_account jsonb, p_requests jsonb, p_is_batch boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_left integer := picture_queue._starts_left(p_user, p_account -> 'account', p_account -> 'budget');
  v_path text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if v_left is null or not (p_account -> 'is_counted')::boolean then
    return;
  end if;
  select s.path into v_path from picture_queue._list_steps(p_requests, p_is_batch) s where s.n = v_left + 1;
  if found then
    perform picture_queue._check_rates(p_user, p_account -> 'account', p_account -> 'budget', v_left);
  end if;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;

-- Returns the default model of each kind for which a step after the first names no model, by the name that
-- _step_model uses.
create function picture_queue._default_models(p_requests jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_object_agg(d.kind || d.has_prompt, picture_queue._default_model(d.kind, d.has_prompt)), '{}')
    from (
      select distinct s.kind, not picture_queue._is_blank(s.prompt) as has_prompt
      from picture_queue._list_steps(p_requests, true) s
      where s.step > 0 and s.model_id is null
    ) d);
end
$$;

-- Returns the model of a step after the first: the named model, or the default model of its kind. Refuses a step that
-- cannot use the picture of the previous step. p_previous_kind: the kind of the previous step.
create function picture_queue._step_model(
  p_model_id text, p_kind text, p_prompt text, p_previous_kind text, p_default_models jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_model_id text := coalesce(p_model_id, p_default_models ->> (p_kind || not picture_queue._is_blank(p_prompt)));
begin
  if v_model_id is null then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('kind is %s, and no model of this kind takes a picture',
      p_kind));
  elsif p_previous_kind = 'vector' then
    perform picture_queue._raise_error('PQ_INVALID_INPUT', 'the previous step makes a vector picture, which no model takes',
      'make it the last step');
  end if;
  return v_model_id;
end
$$;

-- Returns the job of a step in the format of _enqueue. p_model: the answer of _check_generation. p_id: the id of the
-- generation; null: a new id. p_previous: the job of the previous step, which the job of this step waits for.
create function picture_queue._step_job(
  p_user uuid, p_batch_id uuid, p_id uuid, p_model jsonb, p_options jsonb, p_previous jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
  v_parents jsonb := (p_model -> 'depends_on') || coalesce(p_previous -> 'job_id', '[]');
begin
  return picture_queue._generation_job(coalesce(p_id, gen_random_uuid()), p_user, p_model ->> 'kind',
    p_model ->> 'provider', p_model ->> 'model_id',
    case when p_previous is null then p_options else p_options - '{scheduled_for,idempotency_key}'::text[] end,
    array(select jsonb_array_elements_text(p_model -> 'operator_files')),
    jsonb_strip_nulls(jsonb_build_object('batch_id', p_batch_id, 'depends_on', nullif(v_parents, '[]'))));
end
$$;

-- Writes the generation of a step, and the reservation of its cost. p_step: the row of _list_steps. p_model: the answer
-- of _check_generation. p_job: the job of the step.
create function picture_queue._insert_step(
  p_user uuid, p_batch_id uuid, p_step jsonb, p_model jsonb, p_job jsonb, p_cost jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- Each row has a later time than the row before. So lists, which have the newest row first, keep an exact order.
  v_at timestamptz := picture_queue._now() + (p_step ->> 'n')::integer * interval '1 microsecond';
begin
  insert into public.generations (id, user_id, job_id, batch_id, batch_position, batch_step, kind, model_id, model_version,
    prompt, input, status, cost_usd, cost_is_estimate, created_at, updated_at)
  values ((p_job ->> 'generation_id')::uuid, p_user, (p_job ->> 'job_id')::uuid, p_batch_id,
    case when p_batch_id is not null then (p_step ->> 'request_position')::integer end,
    case when p_batch_id is not null then (p_step ->> 'step')::integer end, p_model ->> 'kind', p_model ->> 'model_id',
    p_model ->> 'version', coalesce(p_step ->> 'prompt', ''), p_model -> 'input', 'pending',
    case when p_cost ->> 'price_unit' is not null then (p_cost ->> 'amount_usd')::numeric end,
    coalesce(p_cost ->> 'price_unit' = 'second', false), v_at, v_at)
  on conflict (id) do nothing;
  if not found then
    perform picture_queue._raise_busy('another call starts the same generation at the same time');
  end if;
  perform picture_queue._write_reservation((p_job ->> 'generation_id')::uuid, p_user, p_model ->> 'model_id', p_cost);
end
$$;

-- Returns an account with a cost added to its spending and taken from its credits.
create function picture_queue._charge_account(p_account jsonb, p_cost jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
  v_amount numeric := (p_cost ->> 'amount_usd')::numeric;
begin
  return p_account || jsonb_build_object('day_usd', (p_account ->> 'day_usd')::numeric + v_amount,
    'month_usd', (p_account ->> 'month_usd')::numeric + v_amount,
    'credits_usd', (p_account ->> 'credits_usd')::numeric
      - case when (p_cost ->> 'from_credits')::boolean then v_amount else 0 end);
end
$$;

-- Adds the costs of new generations to the account of their user.
create function picture_queue._add_user_costs(p_user uuid, p_costs jsonb[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_sum record;
begin
  select sum((c ->> 'amount_usd')::numeric) as usd,
    coalesce(-sum((c ->> 'amount_usd')::numeric) filter (where (c ->> 'from_credits')::boolean), 0) as credits_usd,
    count(*) filter (where (c ->> 'counted')::boolean)::integer as pending
  into v_sum
  from unnest(p_costs) as c;
  perform picture_queue._add_to_account('user:' || p_user, v_sum.usd, v_sum.credits_usd, v_sum.pending);
end
$$;

-- Adds the costs of new generations to the account of the project, if there is one, and refuses those that exceed its
-- budget. p_paths: the paths of the generations in errors.
create function picture_queue._charge_project(p_paths text[], p_costs jsonb[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_account jsonb := picture_queue._lock_project();
  v_budget jsonb := (select to_jsonb(b) from picture_queue.budget b where b.key = 'project');
  v_item record;
  v_path text;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if v_account is null then
    return;
  end if;
  for v_item in select * from unnest(p_paths, p_costs) with ordinality as c (path, cost, n) order by c.n loop
    v_path := v_item.path;
    perform picture_queue._check_amounts(
      v_account, v_budget, (v_item.cost ->> 'amount_usd')::numeric, v_item.cost ->> 'price_unit');
    v_account := picture_queue._charge_account(v_account, v_item.cost);
  end loop;
  perform picture_queue._add_to_account('project', (select sum((c ->> 'amount_usd')::numeric) from unnest(p_costs) as c), 0, 0);
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;

-- Checks requests and their steps in the order of the call, and writes their generations and jobs, all or none. Returns
-- warnings. Each cost is counted before the next request is checked, so that budgets and credits count all requests.
-- Each account is written only once, since a transaction that writes a row many times reads all its versions again
-- each time. The account of the project is written last, since all starts in the project wait for its lock. The rows of
-- the generations are written before the jobs: a job whose parent has just failed is cancelled at once, which settles
-- its generation. p_options: the options of start_generation, with the id of the first generation, or the options of
-- start_generations. p_is_batch: whether errors name entries of requests.
create function picture_queue._start_requests(
  p_user uuid, p_batch_id uuid, p_requests jsonb, p_options jsonb, p_is_batch boolean)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_account jsonb;  -- the answer of _open_account
  v_flags jsonb := '{}'::jsonb;  -- the fields that _write_reservation needs in addition to those of _cost
  v_step record;
  v_path text;
  v_default_models jsonb;
  v_model jsonb;
  v_job jsonb;  -- the job of the previous step, and then of the current one
  v_jobs jsonb[] := '{}'::jsonb[];
  v_kind text;  -- the kind of the previous step
  v_cost jsonb;
  v_costs jsonb[] := '{}'::jsonb[];
  v_paths text[] := '{}'::text[];
  v_warnings jsonb := '[]'::jsonb;
  v_message text;
  v_detail text;
  v_hint text;
begin
  if p_user is not null then
    v_account := (select to_jsonb(a) from picture_queue._open_account(p_user) a);
    v_flags := jsonb_build_object('counted', v_account -> 'is_counted',
      'from_credits', coalesce(v_account #> '{budget,needs_credits}', 'false'));
    perform picture_queue._check_step_rates(p_user, v_account, p_requests, p_is_batch);
  end if;
  v_default_models := picture_queue._default_models(p_requests);
  for v_step in select * from picture_queue._list_steps(p_requests, p_is_batch) s order by s.n loop
    v_path := v_step.path;
    v_paths := v_paths || v_path;
    v_job := case when v_step.step > 0 then v_job end;
    v_model := (
      select to_jsonb(g) from picture_queue._check_generation(p_user, v_step.prompt,
        case when v_step.step = 0 then v_step.model_id
          else picture_queue._step_model(v_step.model_id, v_step.kind, v_step.prompt, v_kind, v_default_models) end,
        v_step.kind, v_step.input, 'generation:' || (v_job ->> 'generation_id')) g);
    v_kind := v_model ->> 'kind';
    v_warnings := v_warnings || case when v_path is null then v_model -> 'warnings' else (
      select coalesce(jsonb_agg(v_path || '.' || w), '[]') from jsonb_array_elements_text(v_model -> 'warnings') w) end;
    v_job := picture_queue._step_job(p_user, p_batch_id,
      case when v_step.n = 1 then (p_options ->> 'generation_id')::uuid end, v_model, p_options, v_job);
    v_cost := picture_queue._cost(v_model ->> 'model_id', v_model -> 'input') || v_flags;
    if p_user is not null then
      perform picture_queue._check_funds(v_account -> 'account', v_account -> 'budget', v_cost);
      v_account := jsonb_set(v_account, '{account}', picture_queue._charge_account(v_account -> 'account', v_cost));
    end if;
    perform picture_queue._insert_step(p_user, p_batch_id, to_jsonb(v_step), v_model, v_job, v_cost);
    v_costs := v_costs || v_cost;
    v_jobs := v_jobs || v_job;
  end loop;
  v_path := null;
  if p_user is not null then
    perform picture_queue._add_user_costs(p_user, v_costs);
  end if;
  if jsonb_path_exists(picture_queue._enqueue(to_jsonb(v_jobs)), '$[*] ? (@.outcome != "created")') then
    perform picture_queue._raise_busy('another call starts the same generation at the same time');
  end if;
  perform picture_queue._charge_project(v_paths, v_costs);
  return v_warnings;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  if sqlstate like 'PT%' then
    perform picture_queue._raise_request_error(v_path, sqlstate, v_message, v_detail, v_hint);
  end if;
  raise;
end
$$;


-- 412_function__spending.sql

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


-- 413_function__settle.sql

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


-- 414_function_spending.sql

-- Functions for operators over budgets, accounts and the ledger. Users can read their own account.

-- Returns the problem with the key of a budget; null if there is none.
create function picture_queue._budget_key_problem(p_key text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case when coalesce(p_key, '') !~ '^(project|user:([*]|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})|plan:.*)$'
      or starts_with(p_key, 'plan:') and picture_queue._plan_problem(substr(p_key, 6)) is not null
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
  perform picture_queue._raise_problem(
    case when user_id is null then 'user_id is null' else picture_queue._plan_problem(plan) end);
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


-- 416_function_start_generations.sql

-- Starts of chains and batches of generations. _start_requests does the work.

-- Returns the answer for a generation that a concurrent call with the same generation_id or idempotency_key has started
-- in the meantime; null: there is none. Such a call of the same user holds the account of the user until it ends.
create function picture_queue._started_meanwhile(p_user uuid, p_options jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_id uuid;
begin
  if p_user is null or coalesce(p_options ->> 'generation_id', p_options ->> 'idempotency_key') is null then
    return null;
  end if;
  perform picture_queue._check_isolation();
  perform picture_queue._lock_account(p_user);
  v_id := picture_queue._generation_id(p_options, p_user);
  perform picture_queue._check_deleted(v_id, p_user, p_options);
  return (
    select picture_queue._started_generation(g.id, g.job_id, g.status, g.batch_id, g.batch_position)
    from public.generations g where g.id = v_id and g.user_id = p_user);
end
$$;

-- Starts one generation that uses pictures of unfinished generations, which its job waits for.
create function picture_queue._start_dependent(
  p_user uuid, p_generation_id uuid, p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_started jsonb := picture_queue._started_meanwhile(p_user, p_options);
  v_warnings jsonb;
begin
  if v_started is not null then
    return v_started;
  end if;
  v_warnings := picture_queue._start_requests(p_user, null, jsonb_build_array(jsonb_build_object('prompt', p_prompt,
    'model_id', p_model_id, 'input', p_input, 'kind', p_options -> 'kind')),
    p_options || jsonb_build_object('generation_id', p_generation_id), false);
  return (
    select picture_queue._started_generation(g.id, g.job_id, g.status, null, null)
    from public.generations g where g.id = p_generation_id)
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
end
$$;

-- Starts a generation and the steps after it (options.then).
create function picture_queue._start_chain(
  p_user uuid, p_generation_id uuid, p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch uuid := gen_random_uuid();
  v_started jsonb;
  v_warnings jsonb;
begin
  perform picture_queue._check_steps('options.then', p_options -> 'then');
  if (p_options ->> 'reuse')::boolean then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'options.reuse is true, which is not possible with options.then',
      'start the chain with generation:<id> of the earlier picture as an input');
  end if;
  v_started := picture_queue._started_meanwhile(p_user, p_options);
  if v_started is not null then
    return v_started;
  end if;
  insert into picture_queue.batch (id, user_id, created_at) values (v_batch, p_user, picture_queue._now());
  v_warnings := picture_queue._start_requests(p_user, v_batch, jsonb_build_array(jsonb_build_object('prompt', p_prompt,
    'model_id', p_model_id, 'input', p_input, 'kind', p_options -> 'kind', 'then', p_options -> 'then')),
    p_options || jsonb_build_object('generation_id', p_generation_id), false);
  return (
    select picture_queue._started_generation(g.id, g.job_id, g.status, v_batch, 0)
    from public.generations g where g.id = p_generation_id)
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
end
$$;

-- Starts a batch of generations in one transaction, all or none. A call that repeats options.batch_id returns the
-- existing generations.
create function picture_queue.start_generations(p_requests jsonb, p_options jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_user uuid := picture_queue._generation_user(p_options, '{
    "batch_id": ["uuid"],
    "scheduled_for": ["time"],
    "user_id": ["uuid"],
    "priority": ["integer", -1000000000, 1000000000]
  }');
  v_batch uuid := coalesce((p_options ->> 'batch_id')::uuid, gen_random_uuid());
  v_owner uuid;
  v_exists boolean;
  v_warnings jsonb := '[]'::jsonb;
begin
  -- Existing generations are searched first, since the row of the batch may have been pruned. The insert below waits
  -- for a concurrent call with the same id.
  select g.user_id, true into v_owner, v_exists from public.generations g where g.batch_id = v_batch limit 1;
  if v_exists is null then
    perform picture_queue._check_requests(p_requests);
    insert into picture_queue.batch (id, user_id, created_at) values (v_batch, v_user, picture_queue._now())
    on conflict (id) do nothing;
    if found then
      v_warnings := picture_queue._start_requests(v_user, v_batch, p_requests, p_options, true);
      v_owner := v_user;
      v_exists := true;
    else
      select g.user_id, true into v_owner, v_exists from public.generations g where g.batch_id = v_batch limit 1;
    end if;
  end if;
  if v_exists and v_owner is not distinct from v_user and not exists (
    select from public.generations g where g.batch_id = v_batch and not g.deleted)
  then
    perform picture_queue._raise_error('PQ_CONFLICT',
      format('options.batch_id is %s, of a batch whose generations were deleted', v_batch), 'use a new uuid for each batch');
  elsif v_exists is null or v_owner is distinct from v_user then
    perform picture_queue._raise_error('PQ_CONFLICT', format('options.batch_id is %s', v_batch), 'use a new uuid for each batch');
  end if;
  return jsonb_build_object('batch_id', v_batch, 'generations', (
    select coalesce(jsonb_agg(
      picture_queue._started_generation(g.id, g.job_id, g.status, g.batch_id, g.batch_position) - 'batch_id'
      order by g.batch_position), '[]')
    from public.generations g where g.batch_id = v_batch and g.batch_step = 0))
    || case when v_warnings = '[]' then '{}' else jsonb_build_object('warnings', v_warnings) end;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;

create function public.start_generations(requests jsonb, options jsonb default '{}') returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
  select picture_queue.start_generations(coalesce(requests, 'null'), coalesce(options, '{}'))
$$;
comment on function public.start_generations is
  'Starts up to 100 generations at once, all or none; returns at once, with batch_id and the ids of each.';


-- 420_function_generation.sql

-- Cancels the job of a generation. The function runs with the caller's privileges, so row level security decides which
-- generations the caller sees. picture_queue.cancel_job checks that the caller may cancel the job.
create function public.cancel_generation(generation_id uuid, request_id uuid default null) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_generation jsonb;
begin
  v_generation := picture_queue._require((
    select to_jsonb(g) from public.generations g where g.id = cancel_generation.generation_id),
    'PQ_UNKNOWN_GENERATION', format('generation_id is %s', generation_id));
  return picture_queue.cancel_job((v_generation ->> 'job_id')::uuid, request_id)
    || jsonb_build_object('generation_id', generation_id);
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.cancel_generation is 'Cancels a generation of the caller.';


-- 421_function_generation_batch.sql

-- Returns a batch of generations (or a chain, which is a batch of one request): the counts, progress and status of the
-- batch, and its generations in the order of the call. Deleted generations are left out. The function runs with the
-- caller's privileges, so row level security decides which generations the caller sees.
-- progress: the mean of the generations; the progress of an ended generation counts as 100.
-- status: pending until the first generation has started; processing until the last has ended; then failed if any
-- failed, else cancelled if any was cancelled, else completed.
-- `offset 0` makes the planner look up each job by its id.
create function public.generation_batch(batch_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set seq_page_cost = 100
as $$
begin
  return picture_queue._require((
    select jsonb_build_object(
      'batch_id', generation_batch.batch_id, 'user_id', (array_agg(m.user_id))[1], 'total', count(*),
      'completed', count(*) filter (where m.status = 'completed'),
      'failed', count(*) filter (where m.status = 'failed'),
      'cancelled', count(*) filter (where m.status = 'cancelled'),
      'progress', floor(avg(case when m.ended then 100 else m.progress end))::integer,
      'status', case when bool_and(m.status = 'pending') then 'pending'
        when not bool_and(m.ended) then 'processing'
        when bool_or(m.status = 'failed') then 'failed'
        when bool_or(m.status = 'cancelled') then 'cancelled'
        else 'completed' end,
      'cost_usd', sum(m.cost_usd),
      'generations', jsonb_agg(jsonb_build_object('generation_id', m.id, 'job_id', m.job_id, 'kind', m.kind,
        'status', m.status, 'hold', m.hold, 'progress', m.progress, 'message', m.message, 'error', m.error,
        'position', m.batch_position, 'step', m.batch_step) order by m.batch_position, m.batch_step))
    from (
      select g.*, j.hold, j.message, coalesce(j.progress, case g.status when 'completed' then 100 else 0 end) as progress,
        g.status in ('completed', 'failed', 'cancelled') as ended
      from public.generations g
      left join lateral (
        select o.hold, o.message, o.progress from public.job_queue o where o.id = g.job_id offset 0) j on true
      where g.batch_id = generation_batch.batch_id and not g.deleted
    ) m
    having count(*) > 0),
    'PQ_UNKNOWN_BATCH', format('batch_id is %s', generation_batch.batch_id),
    'start_generations() returns the id of a batch; its generations were deleted, or belong to another user');
exception when lock_not_available or deadlock_detected then
  return picture_queue._require(null, 'PQ_BUSY', 'another transaction has locked a table that this call reads');
end
$$;
comment on function public.generation_batch is 'A batch of generations of the caller: its counts, progress and status.';

-- Cancels all generations of a batch of the caller that have not ended, each as cancel_job does. Returns the number of
-- generations of the batch in each state afterwards; cancel_requested is the number of generations that still run. The
-- call can be repeated.
create function picture_queue.cancel_generation_batch(p_batch_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' set seq_page_cost = 100
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user uuid := picture_queue._caller_id();
  v_jobs uuid[];
  v_open uuid[];
begin
  perform picture_queue._check_isolation();
  -- Users may call this function, and their session may have set this parameter to true.
  perform set_config('picture_queue.is_worker', 'false', true);  -- for _check_deferred_constraints and _enqueue_callbacks
  v_jobs := array(
    select g.job_id from public.generations g
    where g.batch_id = p_batch_id and not g.deleted and (v_is_service or g.user_id = v_user));
  if v_jobs = '{}' then
    perform picture_queue._raise_error('PQ_UNKNOWN_BATCH', format('batch_id is %s', p_batch_id),
      'start_generations() returns the id of a batch');
  end if;
  v_open := array(
    select j.id from public.job_queue j
    where j.id = any (v_jobs) and j.finished_at is null and j.cancel_requested_at is null
    order by j.id for update);
  if v_open <> '{}' then
    perform picture_queue._cancel_jobs(v_open);
    perform picture_queue._check_deferred_constraints();
  end if;
  return (
    select jsonb_build_object('batch_id', p_batch_id, 'total', count(*),
      'completed', count(*) filter (where g.status = 'completed'),
      'failed', count(*) filter (where g.status = 'failed'),
      'cancelled', count(*) filter (where g.status = 'cancelled'),
      'cancel_requested', count(*) filter (where g.status in ('pending', 'processing')))
    from public.generations g
    where g.batch_id = p_batch_id and not g.deleted and (v_is_service or g.user_id = v_user));
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm, format('batch %s is locked by another transaction', p_batch_id));
  raise;
end
$$;

create function public.cancel_generation_batch(batch_id uuid) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.cancel_generation_batch(batch_id) $$;
comment on function public.cancel_generation_batch is
  'Cancels the generations of a batch of the caller that have not ended.';


-- 422_function_gallery.sql

-- The gallery: search, favourites, reuse of equal pictures, and the deletion of generations with their files.

-- Returns the rules for the filter of list_generations, in the format of _check_fields.
create function picture_queue._generation_filter() returns jsonb
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select '{
    "status": ["choice", "pending", "processing", "completed", "failed", "cancelled"],
    "model_id": ["text", 200],
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "favourite": ["boolean"],
    "user_id": ["uuid"],
    "search": ["text", 1000],
    "limit": ["integer", 1, 1000],
    "before": ["moment"],
    "before_id": ["uuid"]
  }'::jsonb
$$;

-- Returns the ids of the generations that match the filter, the newest first; filter.search is required. For a user the
-- function searches the user's own generations. For a service key it searches the generations of filter.user_id, or
-- all. The function runs with the privileges of the owner of the tables: with row level security, Postgres would check
-- the owner of each row before it may use the index of words.
--
-- The search has two steps. The first step reads the newest rows; if the words are frequent, these contain a full page
-- of matches. Otherwise few rows have the words, and the second step finds them in the index of words. The function
-- chooses, because the planner has no statistics of prompts. The first step reads at most half a megabyte of stored
-- prompts, since to_tsvector takes a millisecond for a kilobyte.
create function picture_queue.search_generations(p_filter jsonb) returns uuid[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_custom_plan set seq_page_cost = 100
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_owner uuid := case when v_is_service then (p_filter ->> 'user_id')::uuid else picture_queue._caller_id() end;
  v_words tsquery := plainto_tsquery('simple'::regconfig, left(p_filter ->> 'search', 1000));
  v_limit bigint := coalesce((p_filter ->> 'limit')::bigint, 100);
  v_before timestamptz := coalesce((p_filter ->> 'before')::timestamptz, 'infinity');
  v_before_id uuid := coalesce((p_filter ->> 'before_id')::uuid, '00000000-0000-0000-0000-000000000000');
  v_ids uuid[];
begin
  if v_owner is null and not v_is_service then
    return '{}'::uuid[];
  elsif coalesce(numnode(v_words), 0) = 0 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('filter.search is %s, which has no word', to_jsonb(left(p_filter ->> 'search', 100))),
      'words consist of letters and digits');
  elsif numnode(v_words) > 63 then  -- each word is a node, and each "and" between two words
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT',
      format('filter.search has %s words, the limit is 32', (numnode(v_words) + 1) / 2), 'search for fewer words');
  end if;
  v_ids := array(
    select n.id
    from (
      select g.*, sum(pg_column_size(g.prompt)) over (order by g.created_at desc, g.id desc) as prompt_bytes
      from public.generations g
      where (v_owner is null or g.user_id = v_owner) and not g.deleted
        and (g.created_at, g.id) < (v_before, v_before_id)
      order by g.created_at desc, g.id desc limit greatest(v_limit * 2, 500)) n
    where n.prompt_bytes <= 500000 and to_tsvector('simple'::regconfig, left(n.prompt, 20000)) @@ v_words
      and (p_filter ->> 'status' is null or n.status = p_filter ->> 'status')
      and (p_filter ->> 'model_id' is null or n.model_id = p_filter ->> 'model_id')
      and (p_filter ->> 'kind' is null or n.kind = p_filter ->> 'kind')
      and (p_filter ->> 'favourite' is null or n.favourite = (p_filter ->> 'favourite')::boolean)
    order by n.created_at desc, n.id desc limit v_limit);
  if cardinality(v_ids) = v_limit then
    return v_ids;
  end if;
  if v_owner is not null then
    v_words := v_words && quote_literal(v_owner)::tsquery;
  end if;
  return array(
    with matching as materialized (
      select g.id, g.created_at from public.generations g
      where (to_tsvector('simple'::regconfig, left(g.prompt, 20000)) || coalesce(g.user_id::text, '')::tsvector) @@ v_words
        and (v_owner is null or g.user_id is not distinct from v_owner) and not g.deleted
        and (p_filter ->> 'status' is null or g.status = p_filter ->> 'status')
        and (p_filter ->> 'model_id' is null or g.model_id = p_filter ->> 'model_id')
        and (p_filter ->> 'kind' is null or g.kind = p_filter ->> 'kind')
        and (p_filter ->> 'favourite' is null or g.favourite = (p_filter ->> 'favourite')::boolean)
        and (g.created_at, g.id) < (v_before, v_before_id)
    )
    select m.id from matching m order by m.created_at desc, m.id desc limit v_limit);
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy('another transaction has locked a table that this call reads');
  return null;
end
$$;

-- If options.reuse is true, returns the answer of start_generation for an equal generation that has finished; null if
-- there is none. Equal generations have the same owner, model, version of the model, prompt and input (with the seed).
-- The index generations_equal has a hash of these values. The other conditions are written so that the planner uses no
-- other index.
create function picture_queue._find_reusable(
  p_options jsonb, p_user uuid, p_model_id text, p_version text, p_prompt text, p_input jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
begin
  if (p_options ->> 'reuse')::boolean is not true then
    return null;
  end if;
  return (
    with equal as materialized (
      select g.id, g.job_id, g.status, g.finished_at from public.generations g
      where md5(coalesce(g.user_id::text, '') || ' ' || g.model_id || ' ' || coalesce(g.model_version, '') || ' '
          || g.input::text || ' ' || g.prompt)
        = md5(coalesce(p_user::text, '') || ' ' || p_model_id || ' ' || coalesce(p_version, '') || ' '
          || p_input::text || ' ' || p_prompt)
        and g.user_id is not distinct from p_user and g.model_version is not distinct from p_version
        and (g.model_id, g.prompt, g.input) = (p_model_id, p_prompt, p_input)
        and g.status = 'completed' and not g.deleted and g.missing_images = '[]'
        and exists (select from public.images i where i.generation_id = g.id)
    )
    select jsonb_build_object('generation_id', e.id, 'job_id', e.job_id, 'status', e.status, 'reused', true)
    from equal e order by e.finished_at desc limit 1);
end
$$;

-- Marks or unmarks a generation of the caller as a favourite.
create function picture_queue.set_favourite(p_generation_id uuid, p_favourite boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_is_favourite boolean;
begin
  perform picture_queue._check_isolation();
  select g.favourite into v_is_favourite from public.generations g
  where g.id = p_generation_id and (picture_queue._is_service() or g.user_id = picture_queue._caller_id())
    and not g.deleted
  for update;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_GENERATION', format('generation_id is %s', p_generation_id));
  end if;
  update public.generations g set favourite = p_favourite where g.id = p_generation_id and v_is_favourite <> p_favourite;
exception when others then
  perform picture_queue._translate_error(
    sqlstate, sqlerrm, format('generation %s is locked by another transaction', p_generation_id));
  raise;
end
$$;

create function public.set_favourite(generation_id uuid, favourite boolean default true) returns jsonb
language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
as $$
begin
  perform picture_queue.set_favourite(generation_id, coalesce(favourite, true));
  return public.get_generation(generation_id);
end
$$;
comment on function public.set_favourite is 'Marks a generation of the caller as a favourite, or unmarks it.';

-- Enqueues jobs that delete the files of deleted generations, each job for 100 generations. A generation is skipped if
-- its earlier job has not finished. A failed job is retried for about a day; maintenance then enqueues another. Returns
-- the number of generations.
create function picture_queue._enqueue_deletions(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[] := array(
    select d.generation_id from picture_queue.deleted_generation d
    where d.generation_id = any (p_ids) and d.remove_at is null
    order by d.generation_id for update skip locked);
  v_due uuid[] := array(
    select d.generation_id from picture_queue.deleted_generation d
    where d.generation_id = any (v_ids) and not exists (
      select from public.job_queue j where j.id = d.job_id and j.finished_at is null)
    order by d.generation_id);
  v_job jsonb;
begin
  update picture_queue.deleted_generation d set enqueue_at = picture_queue._now() + interval '1 day'
  where d.generation_id = any (v_ids);
  while v_due <> '{}' loop
    v_job := picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
      'job_type', 'delete-pictures', 'payload', jsonb_build_object('generation_ids', v_due[:100]), 'max_attempts', 30,
      'options', '{"backoff": {"policy": "exponential", "base_seconds": 5, "cap_seconds": 3600}}'::jsonb)), true) -> 0;
    update picture_queue.deleted_generation d set job_id = (v_job ->> 'job_id')::uuid
    where d.generation_id = any (v_due[:100]);
    v_due := v_due[101:];
  end loop;
  return cardinality(v_ids);
end
$$;

-- Marks generations as deleted, with their images, and enqueues the deletion of their files in the same transaction.
-- Generations are skipped that are locked or already deleted, or whose job has not finished. A generation that has not
-- ended and whose job does not exist is cancelled, so that its reservation is refunded. Returns the number of
-- generations.
create function picture_queue._delete_generations(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[] := array(
    select g.id from public.generations g
    where g.id = any (p_ids) and not g.deleted and (g.status in ('completed', 'failed', 'cancelled')
      or not exists (select from public.job_queue j where j.id = g.job_id))
    order by g.id for update skip locked);
  v_without_job uuid[];
begin
  with cancelled as (
    update public.generations g
    set status = 'cancelled', finished_at = picture_queue._now(), updated_at = picture_queue._now()
    where g.id = any (v_ids) and g.status in ('pending', 'processing')
    returning g.id
  )
  select array_agg(c.id) into v_without_job from cancelled c;
  if v_without_job is not null then
    perform picture_queue._settle_ended(v_without_job);
  end if;
  update public.generations g set deleted = true where g.id = any (v_ids);
  update public.images i set deleted = true where i.generation_id = any (v_ids);
  insert into picture_queue.deleted_generation (generation_id, deleted_at, enqueue_at)
  select d.id, picture_queue._now(), picture_queue._now() from unnest(v_ids) as d (id);
  perform picture_queue._enqueue_deletions(v_ids);
  return cardinality(v_ids);
end
$$;

-- Deletes a generation of the caller. The rows are hidden at once; a worker deletes the files, and maintenance then
-- deletes the rows. A generation whose job has not finished is refused. A call with the request id of an earlier call
-- returns the answer of that call, even if the row no longer exists.
create function picture_queue.delete_generation(p_generation_id uuid, p_request_id uuid) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user uuid := picture_queue._caller_id();
  v_request text := concat_ws('/', coalesce(v_user::text, 'service'), p_generation_id || '/' || p_request_id);
  v_answer jsonb := jsonb_build_object('generation_id', p_generation_id, 'deleted', true);
  v_generation record;
begin
  perform picture_queue._check_isolation();
  -- Users may call this function, and their session may have set this parameter to true.
  perform set_config('picture_queue.is_worker', 'false', true);  -- for _check_deferred_constraints
  select g.id, g.job_id, g.status, g.deleted into v_generation from public.generations g
  where g.id = p_generation_id and (v_is_service or g.user_id = v_user) for update;
  if v_generation.deleted or exists (
    select from picture_queue.answer a where a.call = 'delete_generation' and a.id = v_request)
  then
    return v_answer;
  elsif v_generation.id is null then
    perform picture_queue._raise_error('PQ_UNKNOWN_GENERATION', format('generation_id is %s', p_generation_id));
  elsif picture_queue._delete_generations(array[p_generation_id]) = 0 then
    perform picture_queue._raise_error('PQ_RUNNING_JOB', format('generation %s is %s', p_generation_id, v_generation.status),
      'cancel_generation() first, or wait until it has finished');
  end if;
  perform picture_queue._check_deferred_constraints();
  insert into picture_queue.answer (call, id, answer, at)
  select 'delete_generation', v_request, v_answer, picture_queue._now() where p_request_id is not null
  on conflict do nothing;
  return v_answer;
exception when others then
  perform picture_queue._translate_error(
    sqlstate, sqlerrm, format('generation %s is locked by another transaction', p_generation_id));
  raise;
end
$$;

create function public.delete_generation(generation_id uuid, request_id uuid default null) returns jsonb
language sql volatile security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.delete_generation(generation_id, request_id) $$;
comment on function public.delete_generation is 'Deletes a finished generation of the caller with its pictures.';

-- For the worker: returns the generations with these ids that are deleted and whose files still exist, each with the
-- folder of its files and the paths of its images.
create function public.list_deleted_generations(generation_ids uuid[]) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(case when generation_ids is null or cardinality(generation_ids) > 1000
    then 'generation_ids is not a list of up to 1000 uuids' end, 'pass fewer ids');
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
      'generation_id', g.id, 'folder', coalesce(g.user_id::text, 'shared') || '/' || g.id,
      'paths', array(select i.path from public.images i where i.generation_id = g.id order by i.n)) order by g.id), '[]')
    from picture_queue.deleted_generation d
    join public.generations g on g.id = d.generation_id
    where d.generation_id = any (generation_ids) and d.remove_at is null and g.deleted);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_deleted_generations is 'Deleted generations whose files still exist.';

-- For the worker: records that the files of deleted generations are deleted. Returns the number of generations.
-- Maintenance deletes the rows of the generations when their predictions are two hours old. Until then begin_prediction
-- returns these predictions, so that no worker mistakes them for the lost prediction of another generation.
create function public.record_deleted_files(generation_ids uuid[]) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_recorded integer;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(case when generation_ids is null or cardinality(generation_ids) > 1000
    then 'generation_ids is not a list of up to 1000 uuids' end, 'pass fewer ids');
  update picture_queue.deleted_generation d
  set remove_at = greatest(picture_queue._now(), (
    select max(p.created_at) + interval '2 hours' from picture_queue.prediction p where p.generation_id = d.generation_id))
  where d.generation_id = any (array(
    select o.generation_id from picture_queue.deleted_generation o
    where o.generation_id = any (generation_ids) and o.remove_at is null order by o.generation_id for update));
  get diagnostics v_recorded = row_count;
  return jsonb_build_object('recorded', v_recorded);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.record_deleted_files is 'Records that the files of deleted generations are deleted.';

-- Deletes the rows of generations whose files are deleted. Returns the number of generations.
create function picture_queue._remove_generations(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows integer;
begin
  delete from public.generations g
  where g.id = any (array(
    select o.id from public.generations o
    where o.id = any (p_ids) and o.deleted order by o.id for update skip locked));
  get diagnostics v_rows = row_count;
  return v_rows;
end
$$;

-- Marks generations that are older than keep_generations_days as deleted, enqueues jobs again for files that were not
-- deleted, and deletes the rows of generations whose files were deleted, up to p_limit of each. Returns the numbers of
-- generations.
create function picture_queue._prune_generations(p_limit integer) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_days integer := (select s.keep_generations_days from picture_queue.setting s);
begin
  return jsonb_build_object(
    'deleted_generations', picture_queue._run_isolated('delete_generation', array(
      select g.id::text from public.generations g
      where v_days is not null and not g.deleted and g.created_at < v_now - make_interval(days => v_days)
        and g.status in ('completed', 'failed', 'cancelled')
        and g.id::text not in (select picture_queue._failed_subjects('delete_generation'))
      order by g.created_at, g.id limit p_limit), p_limit),
    'enqueued_deletions', picture_queue._run_isolated('delete_files', array(
      select d.generation_id::text from picture_queue.deleted_generation d
      where d.remove_at is null and d.enqueue_at <= v_now
        and d.generation_id::text not in (select picture_queue._failed_subjects('delete_files'))
      order by d.enqueue_at limit p_limit), p_limit),
    'removed_generations', picture_queue._run_isolated('remove_generation', array(
      select d.generation_id::text from picture_queue.deleted_generation d
      where d.remove_at <= v_now
        and d.generation_id::text not in (select picture_queue._failed_subjects('remove_generation'))
      order by d.remove_at limit p_limit), p_limit));
end
$$;


-- 425_function_model.sql

-- The models of the project.

-- Returns the model with this id (null: all models) in the format of list_models. rules has the operator's rules by
-- input, for users of this plan (null: no plan). capabilities are those of the provider, which its first worker
-- registers; null before.
create function picture_queue._model_rows(p_model_id text, p_plan text default null) returns setof jsonb
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select to_jsonb(m) || jsonb_build_object('default', m.model_id = s.default_model, 'capabilities', (
    select t.capabilities from picture_queue.job_type t
    where t.name = picture_queue._generation_job_type(m.kind, m.provider)), 'rules', coalesce((
    select jsonb_object_agg(r.input, jsonb_strip_nulls(jsonb_build_object('lock', r.locked, 'default', r.preset,
      'cap', r.cap, 'refuse', case when r.is_refused then 'true' else r.refused_values end)))
    from picture_queue._input_rules(m.model_id, p_plan, array(
      select i ->> 'name' from jsonb_array_elements(m.inputs) i where i ->> 'name' <> 'prompt')) r), '{}'))
  from picture_queue.model m cross join picture_queue.setting s
  where p_model_id is null or m.model_id = p_model_id
  order by m.model_id
$$;

-- Returns the models that generations can use. filter.kind selects a kind. With filter.include_disabled, which needs a
-- service key, the function also returns models that are disabled or cannot be offered.
create function picture_queue.list_models(p_filter jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', p_filter, '{
    "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
    "include_disabled": ["boolean"]
  }');
  if (p_filter ->> 'include_disabled')::boolean and not picture_queue._is_service() then
    perform picture_queue._raise_error('PQ_NOT_ALLOWED', 'filter.include_disabled needs a service key', 'omit it');
  end if;
  return (
    select coalesce(jsonb_agg(m order by m ->> 'model_id'), '[]')
    from picture_queue._model_rows(null, (
      select a.plan from picture_queue.account a where a.key = 'user:' || picture_queue._caller_id())) m
    where ((p_filter ->> 'include_disabled')::boolean or (m ->> 'enabled')::boolean and m ->> 'unavailable_reason' is null)
      and (p_filter ->> 'kind' is null or m ->> 'kind' = p_filter ->> 'kind' or m -> 'also_kinds' ? (p_filter ->> 'kind')));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.list_models(filter jsonb default '{}') returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.list_models(coalesce(nullif(filter, 'null'), '{}')) $$;
comment on function public.list_models is 'The models that generations can use, with their inputs.';

-- Returns the problem with an entry of model.inputs; null if there is none.
create function picture_queue._model_input_problem(p_path text, p_input jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_enum jsonb := nullif(p_input -> 'enum', 'null');
  v_default jsonb := nullif(p_input -> 'default', 'null');
  v_problem text := picture_queue._fields_problem(p_path, p_input - 'enum' - 'default', '{
    "name": ["text", 100],
    "type": ["choice", "string", "integer", "number", "boolean", "array"],
    "format": ["choice", "uri"],
    "required": ["boolean"],
    "minimum": ["number", -1e18, 1e18],
    "maximum": ["number", -1e18, 1e18],
    "description": ["text", 2000, 0]
  }');
begin
  return case
    when v_problem is not null then v_problem
    when p_input ->> 'name' is null or p_input ->> 'type' is null then format('%sname and %stype are required', p_path, p_path)
    when jsonb_typeof(v_enum) <> 'array' or jsonb_array_length(
        case jsonb_typeof(v_enum) when 'array' then v_enum else '[]' end) > 1000
      then format('%senum is not a list of up to 1000 values', p_path)
    -- The default of a file input may be the file of an example, whose URL is not checked.
    when v_default is not null and p_input ->> 'format' is null
      then format('%sdefault is %s and ', p_path, left(v_default::text, 100))
        || picture_queue._input_problem(p_input - 'minimum' - 'maximum', v_default, 100000)
  end;
end
$$;

-- Returns the problem with the changes of a model; null if there is none.
create function picture_queue._model_problem(p_changes jsonb, p_is_new boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_kinds text[] := '{text-to-image,image-variation,image-edit,upscale,background-removal,vector}'::text[];
  v_inputs jsonb := nullif(p_changes -> 'inputs', 'null');
  v_problem text;
begin
  v_problem := coalesce(
    'changes ' || picture_queue._json_problem(p_changes, 524288),
    picture_queue._fields_problem('changes.', p_changes - 'inputs', '{
      "kind": ["choice", "text-to-image", "image-variation", "image-edit", "upscale", "background-removal", "vector"],
      "also_kinds": ["list", 6, 40],
      "provider": ["name", 32, "_-"],
      "official": ["boolean"],
      "version": ["text", 200],
      "typical_seconds": ["number", 0, 86400],
      "price_usd_per_image": ["number", 0, 1000],
      "max_outputs_param": ["text", 100],
      "output": ["choice", "uri", "uri[]"],
      "progress_in_logs": ["choice", "percent", "text", "empty"],
      "inputs_complete": ["boolean"],
      "enabled": ["boolean"]
    }'),
    case when p_changes ->> 'provider' ~ '[A-Z]'
      then format('changes.provider is %s, which has capital letters', p_changes -> 'provider') end,
    case when p_is_new and (v_inputs is null or nullif(p_changes -> 'kind', 'null') is null)
      then 'changes.kind and changes.inputs are required for a new model' end,
    case when v_inputs is not null and (not picture_queue._is_object_list(v_inputs) or jsonb_array_length(v_inputs) > 200)
      then 'changes.inputs is not a list of up to 200 objects' end);
  if v_problem is null then
    select format('changes.also_kinds has %s, which is none of %s', k, array_to_string(v_kinds, ', ')) into v_problem
    from jsonb_array_elements_text(coalesce(nullif(p_changes -> 'also_kinds', 'null'), '[]')) k where k <> all (v_kinds) limit 1;
  end if;
  if v_problem is null then
    select coalesce(picture_queue._model_input_problem(format('changes.inputs[%s].', i.i - 1), i.input),
        case when count(*) over (partition by i.input ->> 'name') > 1
          then format('changes.inputs has %s twice', i.input ->> 'name') end) as problem into v_problem
    from jsonb_array_elements(coalesce(v_inputs, '[]')) with ordinality as i (input, i)
    order by problem nulls last limit 1;
  end if;
  return v_problem;
end
$$;

-- Returns the problem with inputs of a model that the operator's rules make unusable, for users of any plan; null if
-- there is none. Either the value that a rule adds does not fit the input, so that each generation is refused; or the
-- input is required, and the rules permit none of its values. p_prefix: the beginning of the text.
create function picture_queue._ruled_inputs_problem(p_prefix text, p_model_id text, p_inputs jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_max_text integer := (select s.max_prompt_length from picture_queue.setting s);
begin
  return (
    select p_prefix || format('%s, %s; its rules are %s', r.input, coalesce(p.problem, 'which is required, and of '
        'which the rules of this project permit no value'), concat_ws(', ', 'lock ' || left(r.locked::text, 100),
        'default ' || left(r.preset::text, 100), 'cap ' || r.cap::text, case when r.is_refused then 'refuse' end,
        'refuse ' || left(r.refused_values::text, 100), 'plan ' || o.plan))
    from (select null as plan union select i.plan from picture_queue.input_rule i) o
    cross join lateral picture_queue._input_rules(p_model_id, o.plan, array(
      select n ->> 'name' from jsonb_array_elements(p_inputs) n where n ->> 'name' <> 'prompt')) r
    join lateral jsonb_array_elements(p_inputs) as m (rule) on m.rule ->> 'name' = r.input
    cross join lateral picture_queue._apply_input_rule(m.rule, null, r.locked, r.preset, r.cap, r.is_refused,
      r.refused_values) a
    cross join lateral (select format('for which a rule of this project sets %s, which %s', left(a.value::text, 100),
      picture_queue._input_problem(m.rule, a.value, v_max_text)) as problem
      where a.value is not null and picture_queue._input_problem(m.rule, a.value, v_max_text) is not null
      union all
      select null
      where (m.rule ->> 'required')::boolean and a.value is null and (r.is_refused
        or (m.rule ->> 'minimum')::numeric > (r.cap #>> '{}')::numeric
        or jsonb_typeof(m.rule -> 'enum') = 'array' and not exists (
          select from jsonb_array_elements(m.rule -> 'enum') e
          cross join lateral picture_queue._apply_input_rule(m.rule, e, r.locked, r.preset, r.cap, r.is_refused,
            r.refused_values) g
          where g.problem is null))) p
    order by r.input, o.plan nulls first limit 1);
end
$$;

-- Adds a model to the project, or changes a model. changes: the fields to change; null resets a field to its default.
create function public.set_model(model_id text, changes jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_changes jsonb := nullif(changes, 'null');
  v_model record;
begin
  perform picture_queue._raise_problem(case
    when coalesce(model_id, '') !~ '^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$' or length(model_id) > 180
      then format('model_id is %s', left(quote_nullable(model_id), 200))
    when jsonb_typeof(v_changes) is distinct from 'object' then 'changes is not an object' end, 'a model is owner/name, as in the address of its page at Replicate');
  select m.kind, m.inputs, m.unavailable_reason, m.model_id = s.default_model as is_default into v_model
  from picture_queue.setting s cross join picture_queue.model m where m.model_id = set_model.model_id;
  perform picture_queue._raise_problem(coalesce(picture_queue._model_problem(v_changes, v_model.kind is null), case
    when v_model.unavailable_reason is not null and v_changes ->> 'enabled' = 'true'
      then format('changes.enabled is true, and %s cannot be offered: %s', model_id, v_model.unavailable_reason) end),
    'docs/sql.md describes the fields of a model and of its inputs');
  perform picture_queue._raise_problem(picture_queue._ruled_inputs_problem('changes.inputs has ', model_id, coalesce(
      nullif(v_changes -> 'inputs', 'null'), case when v_changes ->> 'enabled' = 'true' then v_model.inputs end)),
    'set another rule for this model and input first: set_input_rule(), for example with the action allow');
  if v_model.is_default and v_changes ->> 'enabled' = 'false' then
    perform picture_queue._raise_error('PQ_CONFLICT', format('%s is the default model', model_id),
      'set_setting() changes default_model');
  end if;
  -- kind and inputs have no default. So the insert of an upsert needs them, even if it becomes an update.
  perform picture_queue._write_row('picture_queue.model', 'model_id', model_id, v_changes || jsonb_build_object(
    'kind', coalesce(v_changes ->> 'kind', v_model.kind),
    'inputs', coalesce(nullif(v_changes -> 'inputs', 'null'), v_model.inputs), 'changed_at', picture_queue._now()));
  return (select m from picture_queue._model_rows(model_id) m);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_model is 'Adds or changes a model of the project.';


-- 426_function_input_rule.sql

-- The operator's rules over the inputs of generations.

-- Returns the problem with a rule; null if there is none. A locked or default value must fit each model that has the
-- input, because users could not correct it.
create function picture_queue._input_rule_problem(p_model text, p_input text, p_action text, p_value jsonb, p_plan text)
returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case
    when coalesce(p_model, '') !~ '^[A-Za-z0-9._:/*-]{1,200}$' then format('model is %s', left(quote_nullable(p_model), 200))
    when coalesce(p_input, '') !~ '^[A-Za-z0-9_.*-]{1,100}$' then format('input is %s', left(quote_nullable(p_input), 200))
    when p_input = 'prompt' then 'input is prompt, for which the setting max_prompt_length applies'
    when picture_queue._plan_problem(p_plan) is not null then picture_queue._plan_problem(p_plan)
    when coalesce(p_action, '') not in ('lock', 'default', 'cap', 'refuse', 'allow')
      then format('action is %s, not lock, default, cap, refuse or allow', left(quote_nullable(p_action), 100))
    when p_action in ('lock', 'default') and p_value is null then format('value is null, and %s needs a value', p_action)
    when p_action = 'cap' and (p_value is null or jsonb_typeof(p_value) <> 'number')
      then format('value is %s, and cap needs a number', coalesce(left(p_value::text, 100), 'null'))
    when p_action = 'refuse' and jsonb_typeof(p_value) <> 'array'
      then format('value is %s, and refuse takes a list of values, or none', left(p_value::text, 100))
    when p_action = 'allow' and p_value is not null
      then format('value is %s, and allow takes no value', left(p_value::text, 100))
    -- A generation would not wait for the picture, and the picture may be deleted.
    when p_action in ('lock', 'default') and exists (
      select from picture_queue._input_texts(jsonb_build_object('value', p_value), 'generation:'))
      then format('value is %s, which names a picture by its generation: name its file, storage:pictures/<path>',
        left(p_value::text, 100))
    else coalesce('value ' || picture_queue._json_problem(p_value, 8192), (
      select format('value is %s and %s (%s of %s)', left(p_value::text, 100), p.problem, i.rule ->> 'name', m.model_id)
      from picture_queue.model m
      cross join lateral jsonb_array_elements(m.inputs) as i (rule)
      cross join lateral (select picture_queue._input_problem(i.rule, p_value, s.max_prompt_length) as problem
        from picture_queue.setting s) p
      where p_action in ('lock', 'default') and p.problem is not null and i.rule ->> 'name' <> 'prompt'
        and m.model_id like replace(replace(p_model, '_', '!_'), '*', '%') escape '!'
        and lower(i.rule ->> 'name') like replace(replace(lower(p_input), '_', '!_'), '*', '%') escape '!'
      order by m.model_id limit 1)) end
$$;

-- Returns the problem with models that the rules for these patterns make unusable; null if there is none.
create function picture_queue._ruled_models_problem(p_model text, p_input text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select p.problem
  from picture_queue.model m
  cross join lateral (
    select jsonb_agg(i) as inputs from jsonb_array_elements(m.inputs) i
    where lower(i ->> 'name') like replace(replace(lower(p_input), '_', '!_'), '*', '%') escape '!') matching
  cross join lateral (
    select picture_queue._ruled_inputs_problem(format('model %s has ', m.model_id), m.model_id, matching.inputs) as problem) p
  where m.enabled and m.unavailable_reason is null and matching.inputs is not null and p.problem is not null
    and m.model_id like replace(replace(p_model, '_', '!_'), '*', '%') escape '!'
  order by m.model_id limit 1
$$;

-- Sets a rule over an input. model and input may be patterns with *. plan: the rule applies to users of this plan;
-- null: to all users. A rule that makes an enabled model unusable is refused. The actions are:
-- lock      permits only this value
-- default   is the value if the caller omits the input
-- cap       is the highest number, and the maximum number of entries of a list or of characters of a text
-- refuse    refuses the input, or if value is a list, these values
-- allow     cancels less specific rules
create function public.set_input_rule(
  model text, input text, action text, value jsonb default null, plan text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._raise_problem(
    picture_queue._input_rule_problem(model, input, action, nullif(value, 'null'), plan),
    'a model is owner/name and an input is its name; both may contain *, which stands for any characters');
  insert into picture_queue.input_rule as o (model, plan, input, action, value)
  values (set_input_rule.model, set_input_rule.plan, set_input_rule.input, set_input_rule.action,
    nullif(set_input_rule.value, 'null'))
  on conflict on constraint input_rule_key do update set value = excluded.value;
  if action <> 'allow' then
    perform picture_queue._raise_problem(picture_queue._ruled_models_problem(model, input),
      'set another rule for this model and input first, for example with the action allow, or disable the model: set_model()');
  end if;
  return jsonb_build_object('model', model, 'plan', plan, 'input', input, 'action', action, 'value', nullif(value, 'null'));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.set_input_rule is 'Sets a rule over an input of generations.';

-- Deletes a rule over an input. A deletion that makes an enabled model unusable is refused: a rule `allow` may cancel a
-- rule that the model does not fit.
create function public.delete_input_rule(
  model text, input text, action text, plan text default null, request_id uuid default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_problem text;
begin
  if picture_queue._find_answer('delete_input_rule', request_id::text) is not null then
    return;
  end if;
  perform picture_queue._store_answer('delete_input_rule', request_id::text, '{}');
  v_problem := picture_queue._ruled_models_problem(model, input);
  delete from picture_queue.input_rule r
  where r.model = delete_input_rule.model and r.input = delete_input_rule.input
    and r.action = delete_input_rule.action and r.plan is not distinct from delete_input_rule.plan;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_RULE', format('model is %s, input is %s, action is %s, plan is %s',
      left(quote_nullable(model), 200), left(quote_nullable(input), 200), left(quote_nullable(action), 100),
      left(quote_nullable(plan), 100)));
  elsif v_problem is null then
    perform picture_queue._raise_problem(picture_queue._ruled_models_problem(model, input),
      'delete or change the other rule for this input first, or disable the model: set_model()');
  end if;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy();
end
$$;
comment on function public.delete_input_rule is 'Deletes a rule over an input.';

-- Returns the rules by model, input, plan and action.
create function public.list_input_rules() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object(
        'model', r.model, 'plan', r.plan, 'input', r.input, 'action', r.action, 'value', r.value)
      order by r.model, r.input, r.plan, r.action), '[]')
    from picture_queue.input_rule r);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.list_input_rules is 'The rules over inputs of generations.';


-- 430_function_prediction.sql

-- The functions with which a worker runs a generation. They ensure that a prediction is paid for once. begin_prediction
-- inserts a row, which is committed before the provider is called, or returns the live row of a worker that died.
-- record_prediction stores the id of the prediction after the call. finish_prediction writes the final state. All of
-- them require the lease of the job and lock the row of the job.

-- Returns true if a row got its final state from an attempt that ended without a report, because its worker died or
-- released the job. The outcome of that attempt is not known, so the next attempt must repeat it with the same
-- prediction, rather than pay for another.
create function picture_queue._is_unreported(p_row picture_queue.prediction) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100
as $$
begin
  return not exists (
      select from picture_queue.prediction p
      where p.generation_id = p_row.generation_id and p.created_at > p_row.created_at)
    and (
      select coalesce(bool_and(h.action in ('expire', 'release')), false) from picture_queue.history h
      where h.job_id = p_row.job_id and h.at >= p_row.finished_at
        and h.action in ('expire', 'release', 'fail', 'back_off', 'snooze', 'park', 'cancel', 'retry'));
end
$$;

-- Returns the row of a generation that an attempt resumes: a live row; or a row that has succeeded and whose images are
-- saved; or a row with a prediction whose end was not reported, which becomes live again. Null if there is none. A
-- succeeded row without saved images, whose generation was cancelled, is not resumed: a retry creates another row.
create function picture_queue._resume_prediction(p_generation_id uuid) returns picture_queue.prediction
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_row picture_queue.prediction;
begin
  select * into v_row from picture_queue.prediction p
  where p.generation_id = p_generation_id
    and case
      when p.state = 'succeeded' then exists (
        select from public.images i where i.generation_id = p_generation_id and i.created_at >= p.created_at)
      when p.state in ('failed', 'lost') then p.prediction_id is not null and picture_queue._is_unreported(p)
      else p.state in ('creating', 'created') end
  order by p.state = 'succeeded', p.created_at desc limit 1;
  if v_row.state in ('failed', 'lost') then
    update picture_queue.prediction p
    set state = 'created', error = null, metrics = null, cost_usd = null, finished_at = null,
      updated_at = picture_queue._now()
    where p.id = v_row.id returning * into v_row;
  end if;
  return v_row;
end
$$;

-- Creates the row of a prediction, or resumes the existing one, and returns the data for the call of the provider:
-- - prediction.id: the id of the row; age_seconds: the time since its creation.
-- - resumed: true if the row existed before; see _resume_prediction.
-- - images: the saved images of this prediction, without those of earlier predictions.
-- - saved_paths: the paths of all files of the generation that have a row.
-- - files: the paths of the pictures of generations that the input names.
-- - owned: the prediction ids in the provider's rows of the last two hours, the newest 10,000. A prediction whose id is
--   not among them may have lost its row.
-- - rows_without_id: the rows of other generations with the same model whose prediction may exist although its id is
--   not recorded: those of the last two hours, the newest 1,000.
-- - equal_rows_without_id: those of rows_without_id that are live and have an equal input.
--   These three are only filled for a row that existed before and has no prediction id, and if lost is given. Each
--   start of a generation would otherwise read the rows of all others.
-- - running: the number of predictions of the last hour that have not ended, up to 10,000. The workers poll less often
--   if it is high.
-- lost is the id of a row of the generation whose prediction is searched for. This row is then returned, even if its
-- state is lost, and no row is created. Each row is committed before its prediction is created. So if the worker first
-- lists the predictions of the provider, and then calls this function, the row of each listed prediction is among owned
-- or rows_without_id.
create function public.begin_prediction(job_id uuid, lease_id uuid, lost uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_generation record;
  v_model record;
  v_row record;
  v_resumed boolean;
  v_is_searched boolean;
begin
  v_job := picture_queue._lock_job(job_id, lease_id);
  select * into v_generation from public.generations g where g.id = v_job.generation_id and not g.deleted;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_GENERATION', format('job %s has no generation', v_job.id));
  end if;
  select * into v_model from picture_queue.model m where m.model_id = v_generation.model_id;
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_MODEL', format('model_id is %s', v_generation.model_id));
  end if;
  if begin_prediction.lost is null then
    select * into v_row from picture_queue._resume_prediction(v_generation.id);
  else
    select * into v_row from picture_queue.prediction p
    where p.id = begin_prediction.lost and p.generation_id = v_generation.id;
  end if;
  v_resumed := v_row.id is not null;
  if not v_resumed and begin_prediction.lost is not null then
    perform picture_queue._raise_error('PQ_CONFLICT',
      format('prediction %s does not belong to job %s', begin_prediction.lost, job_id));
  elsif not v_resumed then
    insert into picture_queue.prediction (job_id, generation_id, attempt, provider, model_id, input, created_at, updated_at)
    values (v_job.id, v_generation.id, v_job.attempt, v_model.provider, v_model.model_id,
      v_generation.input || case when v_model.inputs @> '[{"name": "prompt"}]' and v_generation.prompt <> ''
        then jsonb_build_object('prompt', v_generation.prompt) else '{}' end,
      picture_queue._now(), picture_queue._now())
    returning * into v_row;
  end if;
  v_is_searched := (v_resumed and v_row.state = 'creating') or begin_prediction.lost is not null;
  return jsonb_build_object(
    'generation', to_jsonb(v_generation), 'model', to_jsonb(v_model), 'prediction', to_jsonb(v_row),
    'resumed', v_resumed,
    'age_seconds', extract(epoch from picture_queue._now() - v_row.created_at),
    'images', (select coalesce(jsonb_agg(to_jsonb(i) order by i.n), '[]') from public.images i
      where i.generation_id = v_generation.id and i.created_at >= v_row.created_at),
    'saved_paths', array(
      select f.path from public.images i cross join lateral (values (i.path), (i.thumbnail_path)) as f (path)
      where i.generation_id = v_generation.id and f.path is not null order by f.path),
    'files', picture_queue._referenced_paths(v_row.input),
    'strip_metadata', (select s.strip_metadata from picture_queue.setting s),
    'owned', array(
      select p.prediction_id from picture_queue.prediction p
      where v_is_searched and p.provider = v_row.provider and p.prediction_id is not null
        and p.created_at > picture_queue._now() - interval '2 hours'
      order by p.created_at desc limit 10000),
    'equal_rows_without_id', array(
      select p.id from picture_queue.prediction p
      where v_is_searched and p.provider = v_row.provider and p.prediction_id is null and p.state = 'creating'
        and p.created_at > picture_queue._now() - interval '2 hours' and p.model_id = v_row.model_id
        and p.input = v_row.input and p.generation_id <> v_generation.id
      order by p.created_at desc limit 1000),
    'rows_without_id', array(
      select p.id from picture_queue.prediction p
      where v_is_searched and p.provider = v_row.provider and p.prediction_id is null
        and p.state in ('creating', 'lost', 'canceled')
        and p.created_at > picture_queue._now() - interval '2 hours' and p.model_id = v_row.model_id
        and p.generation_id <> v_generation.id
      order by p.created_at desc limit 1000),
    'running', (select count(*) from (
      select from picture_queue.prediction p
      where p.provider = v_row.provider and p.state in ('creating', 'created')
        and p.created_at > picture_queue._now() - interval '1 hour' limit 10000) r));
exception when deadlock_detected or lock_not_available then
  return picture_queue._raise_busy(format('job %s or its generation is locked by another transaction', job_id));
end
$$;
comment on function public.begin_prediction is 'Creates the row of a prediction, or returns the existing one.';

-- Locks and returns a prediction of the job under this lease.
create function picture_queue._lock_prediction(p_job_id uuid, p_lease_id uuid, p_prediction uuid)
returns picture_queue.prediction
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_job public.job_queue := picture_queue._lock_job(p_job_id, p_lease_id);
  v_row picture_queue.prediction;
begin
  select * into v_row from picture_queue.prediction p
  where p.id = p_prediction and p.generation_id = v_job.generation_id for update;
  if not found then
    perform picture_queue._raise_error('PQ_CONFLICT', format('prediction %s does not belong to job %s', p_prediction, p_job_id));
  end if;
  return v_row;
end
$$;

create function public.record_prediction(job_id uuid, lease_id uuid, prediction uuid, prediction_id text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_row record;
begin
  v_row := picture_queue._lock_prediction(job_id, lease_id, prediction);
  perform picture_queue._raise_problem('prediction_id ' || picture_queue._value_problem(
    coalesce(to_jsonb(prediction_id), 'null'), '["text", 200]'));
  if v_row.prediction_id is not distinct from record_prediction.prediction_id then
    return;
  elsif v_row.state <> 'creating' then
    perform picture_queue._raise_error('PQ_CONFLICT', format('prediction %s is %s already', prediction, v_row.state));
  end if;
  update picture_queue.prediction p
  set prediction_id = record_prediction.prediction_id, state = 'created', updated_at = picture_queue._now()
  where p.id = v_row.id;
exception
  when unique_violation then
    perform picture_queue._raise_error('PQ_CONFLICT', format('prediction_id %s belongs to another row', prediction_id));
  when deadlock_detected or lock_not_available then
    perform picture_queue._raise_busy(format('another transaction holds prediction %s or records prediction_id %s', prediction, prediction_id));
end
$$;
comment on function public.record_prediction is 'Stores the id that the provider gave to a prediction.';

-- state: succeeded, failed, canceled, aborted, or lost (the outcome of the create call is unknown, and no prediction
-- was found). Metrics that are too large, or that some clients cannot read, are left out: they must not fail a
-- prediction that is paid for.
create function public.finish_prediction(
  job_id uuid, lease_id uuid, prediction uuid, state text, error text default null, metrics jsonb default null)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_row record;
  v_metrics jsonb := case when picture_queue._json_problem(metrics, 16384) is null then metrics end;
begin
  v_row := picture_queue._lock_prediction(job_id, lease_id, prediction);
  perform picture_queue._raise_problem('state ' || picture_queue._value_problem(
    coalesce(to_jsonb(state), 'null'), '["choice", "succeeded", "failed", "canceled", "aborted", "lost"]'));
  update picture_queue.prediction p
  set state = finish_prediction.state, error = left(finish_prediction.error, 8192),
    metrics = v_metrics,
    cost_usd = picture_queue._prediction_cost(p.model_id, p.input, finish_prediction.state, v_metrics, (
      select count(*) from public.images i
      where i.generation_id = p.generation_id and i.created_at >= p.created_at)),
    updated_at = picture_queue._now(), finished_at = picture_queue._now()
  where p.id = v_row.id and p.state in ('creating', 'created');
  -- A webhook may have sent the event although the job did not park.
  delete from picture_queue.external_event s where s.name = 'prediction:' || v_row.id;
exception when lock_not_available or deadlock_detected then
  perform picture_queue._raise_busy(format('prediction %s is locked by another transaction', prediction));
end
$$;
comment on function public.finish_prediction is 'Ends the row of a prediction.';

-- Returns the problem with the images of save_images; null if there is none. A thumbnail must be in the folder of its
-- picture, so that the same users may read both.
create function picture_queue._images_problem(p_images jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if not picture_queue._is_object_list(p_images) or jsonb_array_length(p_images) > 1000 then
    return 'images is not a list of up to 1000 {n, path, mime_type, width, height, bytes, ...}';
  end if;
  return (
    select p.problem
    from jsonb_array_elements(p_images) with ordinality as i (image, i)
    cross join lateral (select coalesce(
      picture_queue._fields_problem(format('images[%s].', i.i - 1), i.image, '{
        "n": ["integer", 1, 2147483647],
        "path": ["text", 1024],
        "mime_type": ["text", 255],
        "width": ["integer", 0, 2147483647],
        "height": ["integer", 0, 2147483647],
        "bytes": ["integer", 0, 9223372036854775807],
        "sha256": ["text", 64, 64],
        "blurhash": ["text", 200],
        "thumbnail_path": ["text", 1024]
      }'),
      case
        when num_nulls(i.image ->> 'n', i.image ->> 'path', i.image ->> 'mime_type') > 0
          then format('images[%s] lacks n, path or mime_type', i.i - 1)
        when regexp_replace(i.image ->> 'thumbnail_path', '[^/]*$', '') <> regexp_replace(i.image ->> 'path', '[^/]*$', '')
          then format('images[%s].thumbnail_path is not in the folder of path', i.i - 1)
      end) as problem) p
    where p.problem is not null order by i.i limit 1);
end
$$;

-- Returns the problem with the missing images of save_images; null if there is none.
create function picture_queue._missing_images_problem(p_missing jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if p_missing is null then
    return null;
  elsif not picture_queue._is_object_list(p_missing) or jsonb_array_length(p_missing) > 1000 then
    return 'missing is not a list of up to 1000 {n, reason}';
  end if;
  return (
    select p.problem
    from jsonb_array_elements(p_missing) with ordinality as i (image, i)
    cross join lateral (select coalesce(
      picture_queue._fields_problem(format('missing[%s].', i.i - 1), i.image,
        '{"n": ["integer", 1, 2147483647], "reason": ["text", 2000]}'),
      case when num_nulls(i.image ->> 'n', i.image ->> 'reason') > 0
        then format('missing[%s] lacks n or reason', i.i - 1) end) as problem) p
    where p.problem is not null order by i.i limit 1);
end
$$;

-- images: a list of objects with n, path, mime_type, width, height, bytes, sha256, blurhash and thumbnail_path.
-- missing: a list of {n, reason} of the pictures that could not be stored; null changes nothing. The call can be
-- repeated.
create function public.save_images(job_id uuid, lease_id uuid, images jsonb, missing jsonb default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
begin
  v_job := picture_queue._lock_job(job_id, lease_id);
  missing := nullif(missing, 'null');
  perform picture_queue._raise_problem(coalesce(
    picture_queue._images_problem(images), picture_queue._missing_images_problem(missing)));
  insert into public.images (generation_id, user_id, n, path, mime_type, width, height, bytes, sha256, blurhash,
    thumbnail_path, created_at)
  select v_job.generation_id, v_job.user_id, i.n, i.path, i.mime_type, i.width, i.height, i.bytes, i.sha256,
    i.blurhash, i.thumbnail_path, picture_queue._now()
  from jsonb_to_recordset(images) as i (
    n integer, path text, mime_type text, width integer, height integer, bytes bigint, sha256 text, blurhash text,
    thumbnail_path text)
  order by i.n
  on conflict (generation_id, n) do update set path = excluded.path, mime_type = excluded.mime_type,
    width = excluded.width, height = excluded.height, bytes = excluded.bytes, sha256 = excluded.sha256,
    blurhash = excluded.blurhash, thumbnail_path = excluded.thumbnail_path, created_at = excluded.created_at;
  update public.generations g set missing_images = missing
  where g.id = v_job.generation_id and g.missing_images <> missing;
exception when others then
  perform picture_queue._translate_error(sqlstate, sqlerrm);
  raise;
end
$$;
comment on function public.save_images is 'Writes the images of a generation under the lease of its job.';


-- 435_function_receive_prediction.sql

-- The webhooks of providers. Writes of workers need the lease of the job, but a parked job has none. A webhook needs
-- the id of the row of the prediction instead, which only the provider and the workers know.

-- Writes the progress of a parked job, which has no worker. The progress never decreases. At most two events a second
-- are sent.
create function picture_queue._show_parked_progress(p_job_id uuid, p_progress integer, p_message text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_announce boolean;
begin
  update public.job_queue j set
    progress = greatest(j.progress, p_progress),
    message = left(p_message, 500),
    version = j.version + 1,
    updated_at = v_now,
    progress_event_at = case when coalesce(j.progress_event_at < v_now - interval '0.5 seconds', true)
      then v_now else j.progress_event_at end
  where j.id = p_job_id and j.hold = 'parked'
    and (j.progress < p_progress or j.message is distinct from left(p_message, 500))
  returning j.progress_event_at = v_now
    and exists (select from picture_queue.queue q where q.name = j.queue and q.events = 'progress') into v_announce;
  if v_announce then
    perform picture_queue._emit(array[p_job_id]);
  end if;
end
$$;

-- Applies a webhook to the row of its prediction, and returns its outcome. The argument prediction is the id of this
-- row, which the URL of the webhook contains. The argument prediction_id is the id that the provider gave the
-- prediction. The outcomes:
-- applied   the status is later than the status of the last webhook
-- repeated  the row has this status or a later status
-- ignored   there is no such row, the row has ended, or the row has recorded another prediction
-- A webhook may arrive before the answer to the create call; then it records the id of the prediction. The end of a
-- prediction wakes its parked job, which then reads the prediction. If the job has not parked yet, the event is kept
-- and wakes the job as soon as it parks.
create function public.receive_prediction(
  prediction uuid, prediction_id text, status text, progress integer default null, message text default null)
returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_order constant jsonb :=
    '{"starting": 1, "processing": 2, "succeeded": 3, "failed": 3, "canceled": 3, "aborted": 3}'::jsonb;
  v_row record;
  v_is_new boolean;
begin
  perform picture_queue._check_isolation();
  perform picture_queue._raise_problem(coalesce(
    'prediction_id ' || picture_queue._value_problem(coalesce(to_jsonb(prediction_id), 'null'), '["text", 200]'),
    'status ' || picture_queue._value_problem(coalesce(to_jsonb(status), 'null'),
      '["choice", "starting", "processing", "succeeded", "failed", "canceled", "aborted"]'),
    case when progress not between 0 and 100 then format('progress is %s, not 0 to 100', progress) end),
    'pass the id and the status of the prediction as the provider sent them, and its progress in percent');
  -- Every function locks the job before its prediction, so that two calls cannot deadlock.
  perform from public.job_queue j
  where j.id = (select p.job_id from picture_queue.prediction p where p.id = receive_prediction.prediction) for update;
  select * into v_row from picture_queue.prediction p where p.id = receive_prediction.prediction for update;
  if not found or v_row.state not in ('creating', 'created')
    or v_row.prediction_id <> receive_prediction.prediction_id
  then
    return '{"outcome": "ignored", "woken": 0}'::jsonb;
  end if;
  v_is_new := coalesce((v_order ->> receive_prediction.status)::integer > (v_order ->> v_row.status)::integer, true);
  if v_is_new then
    update picture_queue.prediction p
    set status = receive_prediction.status, state = 'created', prediction_id = receive_prediction.prediction_id,
      updated_at = picture_queue._now()
    where p.id = v_row.id;
    if v_order ->> receive_prediction.status = '3' then
      return jsonb_build_object('outcome', 'applied',
        'woken', picture_queue._send_event('prediction:' || v_row.id, to_jsonb(status)));
    end if;
  end if;
  if progress is not null and receive_prediction.status in ('starting', 'processing') then
    perform picture_queue._show_parked_progress(v_row.job_id, progress, message);
  end if;
  return jsonb_build_object('outcome', case when v_is_new then 'applied' else 'repeated' end, 'woken', 0);
exception
  when unique_violation then  -- another row has recorded this prediction
    return '{"outcome": "ignored", "woken": 0}'::jsonb;
  when others then
    perform picture_queue._translate_error(
      sqlstate, sqlerrm, format('another transaction holds prediction %s or its job', prediction));
    raise;
end
$$;
comment on function public.receive_prediction is 'Applies a webhook of a provider, and wakes the job.';


-- 490_function__counts.sql

-- Counts without reading all jobs: the functions add up the rows of depth and depth_change, and use short index scans.

-- Returns the time since which the oldest claimable job of a queue has waited. It reads the first 50 jobs of each of
-- the first 16 priorities. These include jobs that no worker takes, since such jobs stay at the head of the queue.
create function picture_queue._oldest_due(p_queue text) returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with recursive ranks as (
    (select j.rank, 1 as n from public.job_queue j
      where j.queue = p_queue and j.status = 'pending' and j.hold is null
      order by j.rank limit 1)
    union all
    select o.rank, r.n + 1
    from ranks r
    cross join lateral (
      select j.rank from public.job_queue j
      where j.queue = p_queue and j.status = 'pending' and j.hold is null and j.rank > r.rank
      order by j.rank limit 1) o
    where r.n < 16
  )
  select min(greatest(o.created_at, o.scheduled_for))
  from ranks r
  cross join lateral (
    select j.created_at, j.scheduled_for from public.job_queue j
    where j.queue = p_queue and j.status = 'pending' and j.hold is null and j.rank = r.rank
    order by j.turn, j.seq limit 50) o
$$;

-- Returns the counts of each queue. finished_last_minute is exact, since the changes of the last minute are not
-- aggregated yet; finished_last_hour begins with a full minute.
create function picture_queue.counts()
returns table (queue text, pending bigint, scheduled bigint, blocked bigint, waiting bigint, processing bigint,
  parked bigint, completed bigint, failed bigint, cancelled bigint, oldest_seconds numeric,
  finished_last_minute bigint, finished_last_hour bigint, failed_last_day bigint, workers bigint)
language sql stable security definer rows 20 set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with t as materialized (select picture_queue._now() as now),
  depths as materialized (
    select q.name as queue,
      coalesce(sum(d.n) filter (where d.status = 'pending' and d.hold is null), 0)::bigint as pending,
      coalesce(sum(d.n) filter (where d.hold = 'scheduled'), 0)::bigint as scheduled,
      coalesce(sum(d.n) filter (where d.hold = 'blocked'), 0)::bigint as blocked,
      coalesce(sum(d.n) filter (where d.hold = 'waiting'), 0)::bigint as waiting,
      coalesce(sum(d.n) filter (where d.status = 'processing' and d.hold is null), 0)::bigint as processing,
      coalesce(sum(d.n) filter (where d.hold = 'parked'), 0)::bigint as parked,
      coalesce(sum(d.n) filter (where d.status = 'completed'), 0)::bigint as completed,
      coalesce(sum(d.n) filter (where d.status = 'failed'), 0)::bigint as failed,
      coalesce(sum(d.n) filter (where d.status = 'cancelled'), 0)::bigint as cancelled
    from picture_queue.queue q
    left join picture_queue._depths() d on d.queue = q.name
    group by q.name
  ),
  finished as materialized (
    select f.queue, coalesce(sum(f.n) filter (where f.at > t.now - interval '1 minute'), 0)::bigint as last_minute,
      sum(f.n)::bigint as last_hour
    from t
    cross join lateral (
      select p.queue, p.n, '-infinity'::timestamptz as at from picture_queue.throughput p
      where p.minute >= date_trunc('minute', t.now - interval '1 hour')
      union all
      select c.queue, c.n, c.at from picture_queue.depth_change c
      where c.n > 0 and c.at >= date_trunc('minute', t.now - interval '1 hour')
        and c.status in ('completed', 'failed', 'cancelled')) f
    group by f.queue
  ),
  -- Jobs that failed in the last day, among the newest 10,000 failed jobs. A job that was retried since is not
  -- counted.
  last_day as materialized (
    select f.queue, count(*) as n
    from (
      select j.queue from public.job_queue j
      where j.status = 'failed' and j.finished_at is not null
        and j.finished_at > (select t.now - interval '1 day' from t)
      order by j.finished_at desc limit 10000
    ) f group by f.queue
  )
  select d.queue, d.pending, d.scheduled, d.blocked, d.waiting, d.processing, d.parked, d.completed, d.failed, d.cancelled,
    case when d.pending > 0 then
      round(greatest(extract(epoch from t.now - picture_queue._oldest_due(d.queue)), 0), 3) end,
    coalesce(f.last_minute, 0), coalesce(f.last_hour, 0), coalesce(failed.n, 0),
    (select count(*) from picture_queue.worker w
      where w.queues @> array[d.queue] and w.seen_at > t.now - interval '1 minute')
  from depths d
  cross join t
  left join finished f on f.queue = d.queue
  left join last_day failed on failed.queue = d.queue
  order by d.queue
$$;


-- 500_views.sql

-- One row for each queue: the counts of its pending and running jobs, and of the jobs that failed in the last day and
-- were not retried since.
create view public.queue_health with (security_invoker = true) as
select c.queue, c.pending, c.scheduled, c.processing, c.parked, c.failed_last_day,  -- noqa: ST06
  coalesce(c.oldest_seconds, 0) as oldest_pending_seconds, c.workers
from picture_queue.counts() c;
comment on view public.queue_health is 'One row for each queue: its pending, running and recently failed jobs.';

create view public.failed_jobs_recent with (security_invoker = true) as
select id, queue, job_type, error, attempt, max_attempts, user_id, created_at, finished_at
from public.job_queue
where status = 'failed' and finished_at is not null
order by finished_at desc;
comment on view public.failed_jobs_recent is 'Failed jobs, the newest first.';

create view public.stuck_jobs with (security_invoker = true) as
select id, queue, job_type, worker, attempt, max_attempts, started_at, lease_expires_at, user_id
from public.job_queue
where status = 'processing' and hold is null
  and (started_at < now() - interval '10 minutes' or lease_expires_at < now())
order by started_at;
comment on view public.stuck_jobs is 'Jobs that have run for over ten minutes, or have an expired lease.';


-- 510_function_health.sql

-- Returns an overview for operators: the queues, the workers of the last minute, and the job types with pending jobs
-- for which no worker has a handler, at most 1,000 of each. Jobs without a worker stay at the head of their queue, so
-- it reads only the first 5,000 jobs of each queue.
create function public.queue_status() returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
set lock_timeout = '2s'
as $$
begin
  return jsonb_build_object(
    'queues', (
      select coalesce(jsonb_agg(to_jsonb(h) || jsonb_build_object('paused', p.paused, 'draining', q.draining,
        'resume_at', case when p.paused then nullif(q.paused_until, 'infinity') end,
        'pause_reason', case when p.paused then q.pause_reason end) order by h.queue), '[]')
      from (select * from public.queue_health o order by o.queue limit 1000) h
      join picture_queue.queue q on q.name = h.queue
      cross join lateral (select coalesce(q.paused_until > picture_queue._now(), false) as paused) p),
    'workers', (
      select coalesce(jsonb_agg(jsonb_build_object('worker', w.name, 'queues', w.queues, 'job_types', w.job_types,
        'idle', w.idle, 'seen_at', w.seen_at,
        'seen_seconds', round(greatest(extract(epoch from picture_queue._now() - w.seen_at), 0), 1),
        'running', coalesce(l.running, 0)) order by w.name), '[]')
      from (
        select * from picture_queue.worker o
        where o.seen_at > picture_queue._now() - interval '1 minute' order by o.name limit 1000) w
      left join (
        select j.worker, count(*) as running from public.job_queue j
        where j.status = 'processing' and j.hold is null group by j.worker) l on l.worker = w.name),
    'job_types_without_worker', (
      select coalesce(jsonb_agg(jsonb_build_object('job_type', u.job_type, 'queue', u.queue, 'pending', u.pending)
        order by u.job_type, u.queue), '[]')
      from (
        select j.job_type, q.name as queue, count(*) as pending
        from picture_queue.queue q
        cross join lateral (
          select o.job_type from public.job_queue o
          where o.queue = q.name and o.status = 'pending' and o.hold is null
          order by o.rank, o.turn, o.seq limit 5000) j
        where not exists (
          select from picture_queue.worker w
          where q.name = any (w.queues) and j.job_type = any (w.job_types)
            and w.seen_at > picture_queue._now() - interval '1 minute')
        group by j.job_type, q.name order by j.job_type, q.name limit 1000
      ) u),
    'stuck', (select count(*) from public.stuck_jobs));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.queue_status is 'Queues, workers, and pending job types without a worker.';


-- 520_function_counts.sql

create function public.queue_counts(filter jsonb default '{}') returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
begin
  perform picture_queue._check_fields('filter.', nullif(filter, 'null'));
  return (
    select coalesce(jsonb_agg(to_jsonb(c) - '{failed_last_day,workers}'::text[] order by c.queue), '[]')
    from (
      select * from picture_queue.counts() o
      where o.queue > coalesce(filter ->> 'after', '') order by o.queue limit coalesce((filter ->> 'limit')::integer, 10000)) c);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.queue_counts is 'Counts of jobs by queue and state, with the throughput.';

-- Returns the position of a job of the caller in its queue, from 1 to 10,000. at_least is true if the job may be
-- further back. The position is null if the job cannot be claimed, because it has a hold, runs or has finished.
create function picture_queue.job_position(p_job_id uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_job record;
  v_jobs_before integer;
begin
  select * into v_job from public.job_queue
  where id = p_job_id and (picture_queue._is_service() or user_id = picture_queue._caller_id());
  if not found then
    perform picture_queue._raise_error('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  elsif v_job.status <> 'pending' or v_job.hold is not null then
    return '{"position": null, "at_least": false}'::jsonb;
  end if;
  select count(*) into v_jobs_before
  from (
    select from public.job_queue j
    where j.queue = v_job.queue and j.status = 'pending' and j.hold is null
      and (j.rank, j.turn, j.seq) < (v_job.rank, v_job.turn, v_job.seq)
    order by j.rank desc, j.turn desc, j.seq desc limit 10000
  ) b;
  return jsonb_build_object('position', least(v_jobs_before + 1, 10000), 'at_least', v_jobs_before = 10000);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.job_position(job_id uuid) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.job_position(job_id) $$;
comment on function public.job_position is 'Position of a job of the caller in its queue, from 1.';

-- Returns the recommended number of workers: one for each jobs_per_worker jobs that run or could run. Jobs that are
-- due, but not promoted yet, count as well, since without a worker nothing promotes them. If only a schedule or a
-- limit key is due, one worker is recommended. queue null: all queues.
create function public.desired_workers(
  queue text default null, jobs_per_worker integer default 10, min_workers integer default 0,
  max_workers integer default 100)
returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_running bigint;
  v_ready bigint;
  v_desired bigint;
begin
  jobs_per_worker := coalesce(jobs_per_worker, 10);
  min_workers := coalesce(min_workers, 0);
  max_workers := coalesce(max_workers, 100);
  perform picture_queue._raise_problem(case when jobs_per_worker < 1 or min_workers < 0 or max_workers < min_workers
    then format('jobs_per_worker is %s, min_workers %s, max_workers %s', jobs_per_worker, min_workers, max_workers) end,
    'use at least 1 job for each worker, and 0 or more workers');
  if queue is not null then
    perform picture_queue._queue(queue);
  end if;
  select coalesce(sum(d.n) filter (where d.status = 'processing'), 0),
    coalesce(sum(d.n) filter (where d.status = 'pending' and not coalesce(q.paused_until > v_now, false)), 0)
  into v_running, v_ready
  from picture_queue._depths() d
  left join picture_queue.queue q on q.name = d.queue
  where d.status in ('pending', 'processing') and d.hold is null and d.queue = coalesce(desired_workers.queue, d.queue);
  v_ready := v_ready + (
    select count(*)
    from (
      select j.queue from public.job_queue j
      where j.hold in ('scheduled', 'parked') and j.scheduled_for <= v_now
      order by j.scheduled_for limit 10000
    ) d
    join picture_queue.queue q on q.name = d.queue and not coalesce(q.paused_until > v_now, false)
    where d.queue = coalesce(desired_workers.queue, d.queue));
  v_desired := ceil((v_running + v_ready)::numeric / jobs_per_worker);
  if v_desired = 0 and (
    exists (select from picture_queue.freed_key f where f.n = 0 and f.at <= v_now)
    or exists (select from picture_queue.schedule s where not s.paused and s.next_at <= v_now))
  then
    v_desired := 1;
  end if;
  return jsonb_build_object('desired', least(greatest(v_desired, min_workers), max_workers),
    'running', v_running, 'ready', v_ready);
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;
comment on function public.desired_workers is 'Recommended number of workers.';


-- 525_function_explain.sql

-- The reasons why jobs do not run. For each job, the functions read a bounded number of rows by indexes, so that lists
-- of jobs can show the reasons.

-- Returns the reasons that concern the jobs themselves. rank orders the reasons of a job: the main reason has the
-- lowest rank. p_user_id: the calling user; null for a service key, which sees internal details. p_idle_since: the
-- beginning of the last round of maintenance if that was over 10 seconds ago, otherwise null.
create function picture_queue._own_reasons(p_ids uuid[], p_user_id uuid, p_idle_since timestamptz)
returns table (job_id uuid, rank integer, reason text, until timestamptz, detail text, more jsonb)
language plpgsql stable rows 1000 set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  return query
  select j.id, r.rank, r.reason, nullif(r.until, 'infinity'), r.detail, r.more
  -- f: the failed step of the job; h: its latest change; l: its lease; p: its unfinished parents; r: the reasons.
  from public.job_queue j
  left join lateral (
    select f.kind, f.last_error, f.retry_at from picture_queue.failed_step f
    where f.kind = any (case coalesce(j.hold, j.status)
        when 'pending' then '{claim,abandon}' when 'scheduled' then '{promote,abandon}'
        when 'waiting' then '{resolve,abandon}' when 'blocked' then '{unblock,key,abandon}'
        when 'parked' then '{promote,wake}' when 'processing' then '{sweep,report}' end::text[])
      and f.subject = any (array[j.id::text, j.blocked_on]) and (f.kind <> 'claim' or f.retry_at > v_now)
    order by f.retry_at desc limit 1) f on true
  left join lateral (
    select h.action = 'back_off' as is_retry,
      case when h.action = 'snooze' and p_user_id is null then h.detail end as snooze_detail
    from picture_queue.history h
    where j.hold = 'scheduled' and h.job_id = j.id order by h.id desc limit 1) h on true
  left join lateral (
    -- A heartbeat that finds the row locked extends the lease in lease_extension.
    select coalesce(coalesce(max(x.lease_expires_at), j.lease_expires_at) <= v_now, false) as is_expired
    from picture_queue.lease_extension x
    where j.status = 'processing' and j.hold is null and x.job_id = j.id and x.lease_id = j.lease_id) l on true
  left join lateral (
    select count(*)::integer as n,
      (array_agg(p.id) filter (where p_user_id is null or p.user_id = p_user_id))[:10] as ids
    from (select d.parent_id from picture_queue.dependency d where j.hold = 'waiting' and d.child_id = j.id limit 100) d
    cross join lateral (
      select o.id, o.user_id from public.job_queue o where o.id = d.parent_id and o.finished_at is null limit 1) p
  ) p on true
  cross join lateral (
    select case when j.hold in ('scheduled', 'parked') then j.scheduled_for <= v_now
      when j.hold = 'waiting' then p.n = 0
      when j.status = 'pending' then j.expires_at <= v_now else l.is_expired end as needs_maintenance) m
  cross join lateral (values
    (0, j.status in ('completed', 'failed', 'cancelled'), 'finished', null::timestamptz,
      case j.status when 'cancelled' then 'It was cancelled.' else format('It has %s.', j.status) end, '{}'::jsonb),
    (0, f.kind is not null, 'step_failed', f.retry_at, format('The step %s failed for it and is retried.', f.kind),
      jsonb_build_object('step', f.kind, 'error', case when p_user_id is null then f.last_error end)),
    (1, j.hold is null and l.is_expired, 'lease_expired', null,
      'Its lease has expired, and maintenance has not swept it yet.',
      jsonb_build_object('worker', case when p_user_id is null then j.worker end)),
    (1, j.status = 'processing' and j.hold is null and not l.is_expired, 'running', null, 'A worker runs it.',
      jsonb_build_object('worker', case when p_user_id is null then j.worker end)),
    (2, p_idle_since is not null and (m.needs_maintenance or j.hold = 'blocked'), 'no_maintenance', null, case
        when p_idle_since = '-infinity' then 'No worker has done maintenance yet; the job waits for it.'
        else format('No worker has done maintenance for %s seconds; the job waits for it.',
          floor(extract(epoch from v_now - p_idle_since))) end, '{}'),
    (3, j.hold = 'waiting' and not (p.n = 0 and p_idle_since is not null), 'parents', null, case p.n
        when 0 then 'The jobs it depends on have finished; it becomes claimable in a moment.'
        when 1 then 'A job that it depends on has not finished.'
        else format('%s%s jobs that it depends on have not finished.', p.n, case p.n when 100 then ' or more' end) end,
      jsonb_build_object('parents', coalesce(p.ids, '{}'), 'parent_count', p.n)),
    (3, j.hold = 'parked' and not (m.needs_maintenance and p_idle_since is not null), 'event', j.scheduled_for,
      format('It is parked until the event %s arrives%s.', j.parked_on,
        case when j.scheduled_for is not null then ' or its next poll is due' end),
      jsonb_build_object('event', j.parked_on)),
    (3, j.hold = 'scheduled' and not (m.needs_maintenance and p_idle_since is not null),
      case when h.is_retry then 'retry' else 'scheduled' end, j.scheduled_for,
      case when m.needs_maintenance then 'It is due and becomes claimable in a moment.'
        when h.is_retry then format('Attempt %s of %s failed; the next one is scheduled.', j.attempt, j.max_attempts)
        when h.snooze_detail is not null then format('A handler postponed it: %s', left(h.snooze_detail, 500))
        else 'It is scheduled for later.' end,
      jsonb_build_object('error', case when h.is_retry then j.error else left(h.snooze_detail, 500) end))
  ) as r (rank, applies, reason, until, detail, more)
  where j.id = any (p_ids) and r.applies;
end
$$;

-- Returns the reasons that concern queues, workers and limit keys, for jobs that are not running. Of a key that is not
-- the user's own key (user:<id>), a user learns only that it is full or paused, but no numbers.
create function picture_queue._shared_reasons(p_ids uuid[], p_user_id uuid)
returns table (job_id uuid, rank integer, reason text, until timestamptz, detail text, more jsonb)
language plpgsql stable rows 1000 set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_without_worker text[];  -- pairs of queue and job type that no worker seen in the last minute takes
  v_keys jsonb;  -- the state of each key of the jobs that has a limit or a pause
begin
  select coalesce(jsonb_object_agg(l.key, jsonb_build_object(
    'max_running', l.max_running, 'rate', l.rate, 'period_seconds', l.period_seconds, 'running', greatest(l.running, 0),
    'is_paused', l.paused_until is not null, 'paused_until', nullif(l.paused_until, 'infinity'),
    'is_full', l.paused_until is null and l.capacity <= 0,
    'free_at', case when l.paused_until is null then l.free_at end)), '{}')
  into v_keys
  from picture_queue._key_states(array(
    select distinct k
    from public.job_queue j
    cross join lateral unnest(picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys) || j.blocked_on) k
    where j.id = any (p_ids) and k is not null)) l;
  with alive as materialized (
    -- Most workers of a project have the same queues and job types.
    select distinct w.queues, w.job_types from picture_queue.worker w where w.seen_at > v_now - interval '1 minute'
  )
  select array_agg(p.queue || ' ' || p.job_type) into v_without_worker
  from (select distinct j.queue, j.job_type from public.job_queue j where j.id = any (p_ids)) p
  where not exists (select from alive a where p.queue = any (a.queues) and p.job_type = any (a.job_types));

  return query
  select j.id, r.rank, r.reason, r.until, r.detail, r.more
  from public.job_queue j
  cross join lateral (select picture_queue._limit_keys(j.queue, j.job_type, j.user_id, j.limit_keys) as keys offset 0) a
  left join picture_queue.queue q on q.name = j.queue and q.paused_until > v_now
  left join lateral (
    select k.key, s.until, (
        select l.pause_reason from picture_queue.limit_key l
        where p_user_id is null and l.key = k.key order by l.version desc limit 1) as reason
    from unnest(a.keys) as k (key)
    cross join lateral (select (v_keys #>> array[k.key, 'paused_until'])::timestamptz as until) s
    where v_keys #> array[k.key, 'is_paused'] = 'true'
    order by s.until desc nulls first limit 1) paused on true
  left join lateral (
    -- A blocked job waits until it is unblocked, even if its key has capacity again.
    select k.key, case when p_user_id is null or k.key = 'user:' || p_user_id then v_keys -> k.key end as state,
      v_keys #> array[k.key, 'is_full'] = 'true' as is_full
    from unnest(case j.hold when 'blocked' then array[j.blocked_on] else a.keys end) as k (key)
    where case when j.hold is null then v_keys #> array[k.key, 'is_full'] = 'true'
      else j.hold = 'blocked' and (v_keys #> array[k.key, 'is_paused']) is distinct from 'true' end
    order by k.key limit 1) own on true
  cross join lateral (values
    (4, q.name is not null, 'queue_paused', nullif(q.paused_until, 'infinity'), format('Queue %s is paused.', j.queue),
      jsonb_build_object('queue', j.queue, 'pause_reason', case when p_user_id is null then q.pause_reason end)),
    (5, j.queue || ' ' || j.job_type = any (v_without_worker), 'no_worker', null,
      format('No worker seen in the last minute takes jobs of type %s from queue %s.', j.job_type, j.queue),
      jsonb_build_object('queue', j.queue, 'job_type', j.job_type)),
    (case j.hold when 'blocked' then 1 else 6 end, paused.key is not null, 'key_paused', paused.until,
      format('Limit key %s is paused%s', paused.key, coalesce(': ' || paused.reason, '.')),
      jsonb_build_object('key', paused.key, 'pause_reason', paused.reason)),
    (case j.hold when 'blocked' then 1 else 7 end, own.key is not null, 'limit', (own.state ->> 'free_at')::timestamptz,
      case when own.is_full then
          format('Limit key %s is full', own.key) || case
            when (own.state ->> 'running')::integer >= (own.state ->> 'max_running')::integer
              then format(': %s of %s jobs run.', own.state ->> 'running', own.state ->> 'max_running')
            when own.state ->> 'free_at' is not null
              then format(': %s jobs started within %s seconds.', own.state ->> 'rate', own.state ->> 'period_seconds')
            else '.' end
        else format('It waits for its turn under limit key %s.', own.key) end,
      coalesce(own.state - '{is_paused,paused_until,is_full,free_at}'::text[], '{}')
        || jsonb_build_object('key', own.key))
  ) as r (rank, applies, reason, until, detail, more)
  where j.id = any (p_ids) and r.applies;
end
$$;

-- Returns why each of these jobs does not run, in the order of the ids. Jobs of other users count as unknown.
create function picture_queue.explain_jobs(p_job_ids uuid[]) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s'
set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_is_service boolean := picture_queue._is_service();
  v_user_id uuid := case when not v_is_service then picture_queue._caller_id() end;
  v_idle_since timestamptz;
  v_ids uuid[];  -- the jobs of the caller
  v_reasons jsonb;  -- for each job id: the list of its reasons
  v_answers jsonb;  -- for each job id: the answer
begin
  perform picture_queue._raise_problem(case when p_job_ids is null then 'job_ids is null'
    when cardinality(p_job_ids) > 1000 then format('job_ids has %s entries', cardinality(p_job_ids)) end,
    'pass up to 1000 ids in a call');
  v_idle_since := (
    select m.round_began_at from picture_queue.maintenance m where m.round_began_at < picture_queue._now() - interval '10 seconds');
  v_ids := array(
    select j.id from public.job_queue j where j.id = any (p_job_ids) and (v_is_service or j.user_id = v_user_id));
  select jsonb_object_agg(l.job_id, l.reasons) into v_reasons
  from (
    select r.job_id, jsonb_agg(jsonb_build_object('reason', r.reason, 'detail', r.detail, 'until', r.until)
      || jsonb_strip_nulls(r.more) order by r.rank, r.reason) as reasons
    from (
      select * from picture_queue._own_reasons(v_ids, v_user_id, v_idle_since)
      union all
      select * from picture_queue._shared_reasons(array(
        select j.id from public.job_queue j where j.id = any (v_ids) and (j.status = 'pending' or j.hold = 'parked')), v_user_id)
    ) r
    group by r.job_id
  ) l;
  select jsonb_object_agg(j.id, jsonb_build_object('job_id', j.id, 'status', j.status, 'hold', j.hold)
    || (r.reasons -> 0)
    || case when jsonb_array_length(r.reasons) > 1 then jsonb_build_object('reasons', r.reasons) else '{}' end)
  into v_answers
  from public.job_queue j
  cross join lateral (select coalesce(v_reasons -> j.id::text, jsonb_build_array(jsonb_build_object(
    'reason', 'waiting_for_worker', 'detail', 'It waits for a free worker.', 'until', null))) as reasons offset 0) r
  where j.id = any (v_ids);
  return to_jsonb(array(
    select coalesce(v_answers -> a.id::text, jsonb_build_object('job_id', a.id, 'status', null, 'hold', null,
      'reason', 'unknown', 'detail', 'There is no such job.', 'until', null))
    from unnest(p_job_ids) with ordinality as a (id, n) order by a.n));
exception when lock_not_available or deadlock_detected then
  return picture_queue._raise_busy();
end
$$;

create function public.explain_jobs(job_ids uuid[]) returns jsonb
language sql stable security invoker set search_path = pg_catalog, pg_temp
as $$ select picture_queue.explain_jobs(job_ids) $$;
comment on function public.explain_jobs is 'Explains why each of up to 1,000 jobs of the caller does not run.';


-- 530_function_housekeeping.sql

-- Housekeeping: the worker that does the maintenance aggregates the counts every five seconds, and prunes old rows
-- every minute; pg_cron does both every minute. Each step processes a bounded number of rows and leaves the rest to
-- the next call.

-- Adds the rows of depth_change to depth, and its finished jobs to throughput. Jobs that finished in the last minute
-- stay in depth_change, so that counts() can return the exact number of that minute. Returns the number of rows.
create function picture_queue._aggregate_depth(p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_aggregated integer;
begin
  with taken as (
    delete from picture_queue.depth_change c
    where c.ctid = any (array(
      select o.ctid from picture_queue.depth_change o
      where o.n < 0 or o.at <= v_now - interval '1 minute' or o.status not in ('completed', 'failed', 'cancelled')
      limit p_limit for update skip locked))
    returning c.queue, c.status, c.hold, c.n, c.at
  ),
  added as (
    insert into picture_queue.depth as d (queue, status, hold, n)
    select t.queue, t.status, t.hold, sum(t.n) from taken t
    group by t.queue, t.status, t.hold having sum(t.n) <> 0
    order by t.queue, t.status, t.hold
    on conflict (queue, status, hold) do update set n = d.n + excluded.n
  ),
  finished as (
    insert into picture_queue.throughput as p (queue, minute, status, n)
    select t.queue, date_trunc('minute', t.at), t.status, sum(t.n) from taken t
    where t.n > 0 and t.at > '-infinity' and t.status in ('completed', 'failed', 'cancelled')
    group by t.queue, date_trunc('minute', t.at), t.status
    order by 1, 2, 3
    on conflict (queue, minute, status) do update set n = p.n + excluded.n
  )
  select count(*) into v_aggregated from taken;
  if v_aggregated > 0 then
    delete from picture_queue.depth d where d.n = 0;
  end if;
  return v_aggregated;
end
$$;

-- Creates the partition of the archive for the month (UTC) of p_at. It creates a table and then attaches it, which
-- does not wait for readers of the archive. If a detached partition has the name of the month, the new partition gets
-- a name with a number.
create function picture_queue._archive_partition(p_at timestamptz) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_month timestamp := date_trunc('month', p_at at time zone 'UTC');
  v_name text := 'archive_' || to_char(v_month, 'YYYY_MM');
  v_suffix integer := 1;
begin
  while to_regtype(format('picture_queue.%I', v_name)) is not null or to_regclass(format('picture_queue.%I', v_name)) is not null loop
    v_suffix := v_suffix + 1;
    v_name := 'archive_' || to_char(v_month, 'YYYY_MM') || '_' || v_suffix;
  end loop;
  execute format('create table picture_queue.%I (like picture_queue.archive including all)', v_name);
  execute format('alter table picture_queue.%I enable row level security', v_name);
  perform picture_queue._revoke_grants('picture_queue.' || quote_ident(v_name));
  execute format('alter table picture_queue.archive attach partition picture_queue.%I for values from (%L) to (%L)',
    v_name, v_month at time zone 'UTC', (v_month + interval '1 month') at time zone 'UTC');
end
$$;

-- Returns the partitions that _archive_partition created and whose month ended keep_archive_months ago.
create function picture_queue._old_partitions() returns table (name text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select c.relname::text from pg_catalog.pg_inherits i
  join pg_catalog.pg_class c on c.oid = i.inhrelid
  cross join picture_queue.setting s
  where i.inhparent = 'picture_queue.archive'::regclass and not i.inhdetachpending
    and c.relname ~ '^archive_[0-9]{4}_[0-9]{2}(_[0-9]+)?$'
    and c.relname < 'archive_' || to_char(
      (picture_queue._now() at time zone 'UTC') - make_interval(months => s.keep_archive_months), 'YYYY_MM')
  order by c.relname
$$;

-- Drops partitions of the archive. It is a step of _run_isolated, which records a partition in failed_step if a session
-- reads it, or if a view depends on it. Returns the number of dropped partitions.
create function picture_queue._drop_partitions(p_names text[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_name text;
begin
  foreach v_name in array p_names loop
    execute format('drop table picture_queue.%I', v_name);
  end loop;
  return cardinality(p_names);
end
$$;

-- Deletes these finished jobs, except locked ones, and archives them if the setting archive is on. It creates missing
-- partitions of the archive. The idempotency key and the unique key of a deleted job can be used again. Returns the
-- number of deleted jobs.
create function picture_queue._prune_jobs(p_ids uuid[]) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_ids uuid[] := array(
    select j.id from public.job_queue j
    where j.id = any (p_ids) and j.finished_at is not null order by j.id for update skip locked);
  v_month timestamptz;
begin
  for v_month in
    select distinct date_trunc('month', j.finished_at, 'UTC') from public.job_queue j
    where j.id = any (v_ids) and (select s.archive from picture_queue.setting s)
  loop
    for v_try in 1..2 loop
      begin
        insert into picture_queue.archive (id, seq, queue, job_type, status, priority, payload, result, error, tags,
          metadata, tenant, batch_id, user_id, generation_id, attempt, worker, created_at, started_at, finished_at)
        select j.id, j.seq, j.queue, j.job_type, j.status, j.priority, j.payload, j.result, j.error, j.tags, j.metadata,
          j.tenant, j.batch_id, j.user_id, j.generation_id, j.attempt, j.worker, j.created_at, j.started_at, j.finished_at
        from public.job_queue j where j.id = any (v_ids) and date_trunc('month', j.finished_at, 'UTC') = v_month
        on conflict do nothing;
        exit;
      exception when check_violation then
        if v_try = 2 then
          raise;
        end if;
        perform picture_queue._archive_partition(v_month);
      end;
    end loop;
  end loop;
  return picture_queue._discard_jobs(v_ids);
end
$$;

-- Deletes up to p_limit rows that are no longer needed from each of these tables. Returns the total number of deleted
-- rows.
create function picture_queue._delete_old_rows(p_tables text[], p_limit integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_rows integer;
  v_deleted integer := 0;
  v_table text;
  v_condition text;
begin
  for v_table, v_condition in
    select o.name, o.condition
    from (values
      ('throughput', 't.minute < $1 - interval ''2 days'''),
      ('external_event', 't.sent_at < $1 - interval ''1 day'''),
      ('answer', 't.at < $1 - interval ''1 day'''),
      ('start', 't.at < $1 - make_interval(secs => coalesce('
        || '(select max(r.period_seconds) from picture_queue.limit_rule r), 0))'),
      ('batch', 't.finished_at < $1 - (select make_interval(secs => greatest(s.keep_completed_seconds, '
        || 's.keep_cancelled_seconds, s.keep_failed_seconds)) from picture_queue.setting s)'),
      ('worker', 't.seen_at < $1 - interval ''1 hour'''),
      -- An extension is kept until the sweep, since it shows that the job has started.
      -- With a scalar subquery Postgres finds each job by its id, instead of reading all jobs.
      ('lease_extension', 't.lease_expires_at < $1 - interval ''1 minute'' and (select true from public.job_queue j '
        || 'where j.id = t.job_id and j.lease_id = t.lease_id and j.lease_expires_at is not null) is null'),
      ('failed_step', 't.retry_at < $1 - interval ''5 minutes'''),
      -- Delete only rows whose key is not locked: every change of such a row holds the lock.
      ('limit_key', 't.running = 0 and coalesce(t.paused_until, ''-infinity'') <= $1 '
        || 'and pg_catalog.pg_try_advisory_xact_lock(1903326068, pg_catalog.hashtext(t.key) & 1023)')
    ) as o (name, condition)
    where o.name = any (p_tables)
      and picture_queue._untrusted_reference(array[('picture_queue.' || o.name)::regclass]) is null
  loop
    execute format('delete from picture_queue.%I d where d.ctid = any (array(
      select t.ctid from picture_queue.%I t where %s limit $2 for update skip locked))', v_table, v_table, v_condition)
    using picture_queue._now(), p_limit;
    get diagnostics v_rows = row_count;
    v_deleted := v_deleted + v_rows;
  end loop;
  return v_deleted;
end
$$;

-- Prunes jobs whose retention has passed, the oldest thousand of each status at a time, for up to p_seconds. Jobs that
-- cannot be deleted, for example because a table of the project refers to them, are kept. Returns the numbers of
-- deleted rows, and more: whether there is more to prune.
create function picture_queue._prune(p_seconds real) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_start timestamptz := picture_queue._now();
  v_batch integer;
  v_pruned integer := 0;
  v_generations jsonb;
  v_result jsonb;
begin
  -- Run one call at a time, since two calls would wait for each other's locks on partitions of the archive.
  if not pg_catalog.pg_try_advisory_xact_lock(1903326071, 1) then
    return '{}'::jsonb;
  end if;
  -- If another session holds a lock on one of the tables, the steps stop waiting at this time.
  perform set_config('picture_queue.deadline', (clock_timestamp() + make_interval(secs => p_seconds + 1))::text, true);
  loop
    -- While a table of another role refers to public.job_queue, all jobs are kept (_check_references); queue_doctor()
    -- reports the table.
    v_batch := picture_queue._run_isolated('prune', array(
      select d.id::text
      from (select s.* from picture_queue.setting s
        where picture_queue._untrusted_reference(array['public.job_queue'::regclass]) is null offset 0) s
      cross join lateral (values
        ('completed', s.keep_completed_seconds), ('failed', s.keep_failed_seconds), ('cancelled', s.keep_cancelled_seconds)
      ) as k (status, seconds)
      cross join lateral (
        select j.id from public.job_queue j
        where j.status = k.status and j.finished_at < v_start - make_interval(secs => k.seconds)
          and j.id::text not in (select picture_queue._failed_subjects('prune'))
        order by j.finished_at limit 1000
      ) d), 1000);
    v_pruned := v_pruned + v_batch;
    exit when v_batch = 0 or picture_queue._now() > v_start + make_interval(secs => p_seconds);
  end loop;
  v_generations := picture_queue._prune_generations(1000);
  v_result := v_generations || jsonb_build_object('pruned', v_pruned, 'deleted_rows', picture_queue._run_isolated('table',
      '{throughput,external_event,answer,start,batch,worker,lease_extension,failed_step,limit_key}', 10000),
    'dropped_partitions', picture_queue._run_isolated('partition', array(
      select o.name from picture_queue._old_partitions() o
      where o.name not in (select picture_queue._failed_subjects('partition')) limit 12), 12), 'more', v_batch > 0
      or exists (select from jsonb_each_text(v_generations) g where g.value::integer >= 1000));
  perform set_config('picture_queue.deadline', '', true);
  return v_result;
end
$$;

-- Adds the changes of the last minutes to their accounts. The accounts stay locked until the transaction ends, and
-- starts wait for them. So it is the last step of the transaction, and the account of the project, for which every
-- start waits, is the last account.
create function picture_queue._add_old_changes() returns integer
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' set seq_page_cost = 100
as $$
begin
  return picture_queue._run_isolated('account', array(
    select c.key
    from (
      select distinct o.key from picture_queue.account_change o
      where o.at < picture_queue._now() - interval '1 minute'
        and o.key not in (select picture_queue._failed_subjects('account'))
      limit 1000) c
    order by c.key = 'project'), 1000);
end
$$;

-- Prunes old rows, for a job of pg_cron; maintain() does the same.
create function picture_queue.prune(p_seconds real default 2) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '500ms'
as $$
declare
  v_result jsonb := picture_queue._prune(p_seconds);
begin
  perform picture_queue._add_old_changes();
  return v_result;
end
$$;

-- Repairs the inconsistencies that queue_doctor() finds: wrong numbers of running jobs of limit keys, if the key is
-- not locked; orphaned rows; reservations of generations that have ended or were deleted; keys whose jobs are not
-- unblocked; and wrong counts of jobs, for which it reads all jobs once. It locks only rows and keys, not tables. An
-- operator calls it over a connection to the database; no API role may call it.
create function picture_queue.repair() returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_locked text[] := picture_queue._lock_keys(array(
    select k.key from picture_queue.limit_key k
    union
    select unnest(j.slots) from public.job_queue j where j.status = 'processing' and j.hold is null));
  v_wrong_keys text[];
  v_differences integer[];
  v_children uuid[];
  v_keys integer;
  v_counts integer;
  v_settled integer;
begin
  -- Use one statement, so that running jobs, their numbers and freed_key come from one snapshot. A job that ends after
  -- this snapshot is subtracted later.
  with ended as (
    delete from picture_queue.freed_key f where f.key = any (v_locked) and f.n > 0
  ),
  counted as (
    select k.key, count(s.key)::integer - coalesce((
        select l.running from picture_queue.limit_key l where l.key = k.key order by l.version desc limit 1), 0) as n
    from unnest(v_locked) as k (key)
    left join (
      select unnest(j.slots) as key from public.job_queue j where j.status = 'processing' and j.hold is null
    ) s on s.key = k.key
    group by k.key
  )
  select array_agg(c.key), array_agg(c.n) into v_wrong_keys, v_differences from counted c where c.n <> 0;
  perform picture_queue._add_running(v_wrong_keys, v_differences);
  v_children := array(
    select d.child_id from picture_queue.dependency d
    where not exists (select from public.job_queue j where j.id = d.parent_id and j.finished_at is null)
    union
    select j.id from public.job_queue j
    where j.hold = 'waiting' and not exists (select from picture_queue.dependency d where d.child_id = j.id));
  perform picture_queue._resolve_dependents(v_children);
  insert into picture_queue.freed_key (key, n, at)
  select distinct j.blocked_on, 0, picture_queue._now() from public.job_queue j
  where j.status = 'pending' and j.blocked_on is not null and j.hold = 'blocked';
  get diagnostics v_keys = row_count;
  -- Use one statement, so that jobs and counts come from one snapshot.
  insert into picture_queue.depth_change (queue, status, hold, n, at)
  select c.queue, c.status, c.hold, sum(c.n), '-infinity'
  from (
    select j.queue, j.status, j.hold, count(*) as n from public.job_queue j group by j.queue, j.status, j.hold
    union all
    select d.queue, d.status, d.hold, -d.n from picture_queue._depths() d
  ) c
  group by c.queue, c.status, c.hold having sum(c.n) <> 0;
  get diagnostics v_counts = row_count;
  v_settled := picture_queue._settle(array(
    select l.generation_id from picture_queue.ledger l
    where l.phase = 'reserve' and not exists (
      select from picture_queue.ledger e
      where e.generation_id = l.generation_id and e.round = l.round and e.phase in ('settle', 'refund'))));
  return jsonb_build_object('slots', coalesce(cardinality(v_wrong_keys), 0), 'ready', cardinality(v_children),
    'keys', v_keys, 'counts', v_counts, 'reservations', v_settled);
end
$$;


-- 535_function_maintenance.sql

-- Maintenance: work that is due and that no other call triggers, and housekeeping, which keeps the tables small.

-- Does the work that is due: promotes jobs, ends expired leases, fails expired jobs, runs schedules, processes
-- follow-ups and events, counts the running jobs of new limits, reorders queues and unblocks keys. It processes up to
-- p_limit subjects (jobs, schedules, keys, …) of each kind; if a step fails for one subject, it is still done for the
-- others (_run_isolated). The selects skip locked jobs, so that jobs that other sessions have locked do not use up
-- p_limit. Returns the number of subjects of each kind.
create function picture_queue._do_due_steps(p_limit integer, p_sweeps boolean) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set seq_page_cost = 100 set lock_timeout = '500ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_kind text;
  v_result jsonb;
  v_resolved integer := 0;
begin
  v_result := jsonb_build_object(
    'promoted', picture_queue._run_isolated('promote', array(
      select j.id::text from public.job_queue j
      where j.hold in ('scheduled', 'parked') and j.scheduled_for <= v_now
        and j.id::text not in (select picture_queue._failed_subjects('promote'))
      order by j.scheduled_for limit p_limit for update skip locked), p_limit),
    'swept', picture_queue._run_isolated('sweep', case when p_sweeps then picture_queue._jobs_with_expired_lease(p_limit) end, p_limit),
    'expired', picture_queue._run_isolated('abandon', array(
      select j.id::text from public.job_queue j
      where j.status = 'pending' and j.expires_at <= v_now and j.id::text not in (select picture_queue._failed_subjects('abandon'))
      order by j.expires_at limit p_limit for update skip locked), p_limit),
    'scheduled', picture_queue._run_isolated('schedule', array(
      select s.name from picture_queue.schedule s
      where not s.paused and s.next_at <= v_now and s.name not in (select picture_queue._failed_subjects('schedule'))
      order by s.next_at limit p_limit), p_limit));
  foreach v_kind in array array['parent', 'child', 'settlement'] loop
    v_resolved := v_resolved + picture_queue._run_isolated(v_kind, array(
      select f.id::text from picture_queue.follow_up f
      where f.kind = v_kind and f.due_at <= v_now and f.id::text not in (select picture_queue._failed_subjects(v_kind))
      order by f.due_at, f.id limit p_limit), p_limit);
  end loop;
  return v_result || jsonb_build_object(
    'resolved', v_resolved + picture_queue._run_isolated('batch', array(
      select distinct f.subject::text
      from (select o.subject from picture_queue.follow_up o
        where o.kind = 'batch' and o.due_at <= v_now and o.subject::text not in (select picture_queue._failed_subjects('batch'))
        order by o.due_at, o.id limit p_limit) f), p_limit)
    + picture_queue._run_isolated('event', array(
      select s.name from picture_queue.external_event s
      where s.check_at <= v_now and s.name not in (select picture_queue._failed_subjects('event'))
      order by s.check_at limit p_limit), p_limit)
    + picture_queue._run_isolated('callback', array(
      select b.id::text from picture_queue.batch b
      where b.finished_at is not null and b.callback is not null and b.callback_job_id is null and b.callback_error is null
        and b.id::text not in (select picture_queue._failed_subjects('callback'))
      order by b.finished_at limit p_limit), p_limit),
    'counted', picture_queue._run_isolated('rule', array(
      select r.key from picture_queue.limit_rule r
      where (r.count_at <= v_now or r.count_at is null and not r.counted)
        and r.key not in (select picture_queue._failed_subjects('rule')) limit 100), p_limit),
    'reordered', picture_queue._run_isolated('reorder', array(
      select q.name from picture_queue.queue q
      where q.reorder_after is not null and q.name not in (select picture_queue._failed_subjects('reorder'))), p_limit * 5),
    'keys', picture_queue._run_isolated('key', array(
      select distinct f.key
      from (select o.key from picture_queue.freed_key o
        where o.at <= v_now and o.key not in (select picture_queue._failed_subjects('key')) order by o.at limit p_limit * 10) f
      limit p_limit), p_limit));
end
$$;

-- Returns up to p_limit jobs whose lease has expired. It reads all running jobs, so it sets the time of the next scan
-- (sweep_at) by their number: in 0.9 seconds, or in a second for each 4,000 jobs.
create function picture_queue._jobs_with_expired_lease(p_limit integer) returns text[]
language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set seq_page_cost = 100
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_running integer;
  v_overdue uuid[];
begin
  select count(*), array_agg(j.id) filter (where j.lease_expires_at <= v_now) into v_running, v_overdue
  from public.job_queue j where j.status = 'processing' and j.hold is null;
  update picture_queue.maintenance m set sweep_at = v_now + interval '1 second' * greatest(v_running / 4000.0, 0.9)
  where m.only_row = any (array(select o.only_row from picture_queue.maintenance o for update skip locked))
    and coalesce(cardinality(v_overdue), 0) <= p_limit;
  return array(
    select j.id::text from public.job_queue j
    where j.id = any (v_overdue) and j.lease_expires_at <= v_now
      and not exists (
        select from picture_queue.lease_extension x
        where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > v_now)
      and j.id::text not in (select picture_queue._failed_subjects('sweep'))
    limit p_limit for update skip locked);
end
$$;

-- Runs one round of maintenance. One worker at a time does the maintenance of the project, under a lease of five
-- seconds that each of its calls extends. A call without p_worker runs a round if no worker holds the lease, but does
-- not acquire the lease. With p_force the lease is ignored; this is the default here, for pg_cron, but not in
-- maintain_jobs. Returns leased (whether the round was done, also for a call without p_worker), the number of subjects
-- of each step, and next_in (the seconds until the next call).
create function picture_queue.maintain(p_force boolean default true, p_worker text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set seq_page_cost = 100
set lock_timeout = '500ms'
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_state picture_queue.maintenance;
  v_worker text := coalesce(p_worker, '');
  v_has_row boolean;
  v_prunes boolean;
  v_does_housekeeping boolean;
  v_has_more_work boolean;
  v_started_at timestamptz := clock_timestamp();
  v_step_size integer;
  v_result jsonb := '{}'::jsonb;
  v_next_round_at timestamptz;
begin
  perform picture_queue._check_isolation();
  perform set_config('picture_queue.is_worker', 'true', true);  -- _check_deferred_constraints then checks all tables
  select * into v_state from picture_queue.maintenance;
  v_step_size := case when p_force then 1000 else v_state.step_size end;
  if length(v_worker) > 200 then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', format('worker has %s characters, at most 200 are possible', length(v_worker)));
  elsif not p_force and v_state.leased_until > v_now and v_state.worker <> v_worker then
    return jsonb_build_object('leased', false, 'next_in', extract(epoch from v_state.leased_until - v_now));
  end if;
  perform from picture_queue.maintenance for update skip locked;
  v_has_row := found;
  -- Another round is running. If the last recorded round began over ten seconds ago, run this round all the same: each
  -- step skips locked rows.
  if not v_has_row and not p_force and v_state.round_began_at > v_now - interval '10 seconds' then
    return '{"leased": false, "next_in": 1}'::jsonb;
  end if;
  -- A round that is not forced does either housekeeping or due work, and two rounds of housekeeping never follow each
  -- other. A round that cannot lock the row of picture_queue.maintenance cannot record that it did housekeeping, so it
  -- does the due work as well. So due work waits for at most one round.
  v_does_housekeeping := p_force
    or least(v_state.aggregate_at, v_state.prune_at) <= v_now and not (v_state.was_housekeeping and v_has_row);
  v_prunes := v_does_housekeeping and (p_force or v_state.prune_at <= v_now);
  if v_does_housekeeping then
    v_result := jsonb_build_object('aggregated', picture_queue._run_isolated('aggregate', '{depth_change}', 50000));
  end if;
  if v_prunes then
    v_result := v_result || picture_queue._prune(0.2);
  end if;
  if p_force or not v_does_housekeeping or not v_has_row then
    perform set_config('picture_queue.deadline', (v_started_at + interval '2 seconds')::text, true);
    v_result := v_result || picture_queue._do_due_steps(v_step_size, p_force or v_state.sweep_at <= v_now);
    perform set_config('picture_queue.deadline', '', true);
    -- A transaction that adds work due before v_next_round_at wakes the worker that holds the lease.
    v_next_round_at := least(v_now + interval '2 seconds',
      (select j.scheduled_for from public.job_queue j
        where j.hold in ('scheduled', 'parked') and j.scheduled_for > v_now order by j.scheduled_for limit 1),
      (select s.next_at from picture_queue.schedule s where not s.paused and s.next_at > v_now order by s.next_at limit 1),
      (select f.due_at from picture_queue.follow_up f where f.due_at > v_now order by f.due_at limit 1),
      (select s.check_at from picture_queue.external_event s where s.check_at > v_now order by s.check_at limit 1),
      (select f.at from picture_queue.freed_key f where f.at > v_now order by f.at limit 1));
  end if;
  -- Starts wait for the accounts that this step locks, until the transaction ends.
  perform picture_queue._add_old_changes() where v_prunes;
  -- If a step reached its limit, or the round used up its time, there is more work: let the worker call again at once.
  v_has_more_work := exists (select from jsonb_each_text(v_result - 'aggregated') d where d.value ~ '^[0-9]+$' and d.value::integer >= v_step_size);
  if v_next_round_at is null or v_has_more_work or clock_timestamp() > v_started_at + interval '2 seconds' then
    v_next_round_at := v_now;
  end if;
  update picture_queue.maintenance m set round_began_at = v_now, next_round_at = v_next_round_at,
    step_size = case when clock_timestamp() > v_started_at + interval '1 second' then greatest(v_step_size / 4, 10)
      when v_has_more_work and clock_timestamp() < v_started_at + interval '0.2 seconds' then least(v_step_size * 2, 500)
      else m.step_size end,
    was_housekeeping = v_does_housekeeping and not p_force,
    -- Run the step again at once if rows are left.
    aggregate_at = case when not v_does_housekeeping then m.aggregate_at
      when (v_result ->> 'aggregated')::integer < 50000 then v_now + interval '5 seconds' else v_now end,
    prune_at = case when not v_prunes then m.prune_at
      when (v_result ->> 'more')::boolean then v_now else v_now + interval '1 minute' end,
    worker = case when p_force or p_worker is null then m.worker else v_worker end,
    leased_until = case when p_force or p_worker is null then m.leased_until
      else picture_queue._now() + interval '5 seconds' end
  where m.only_row = any (array(select o.only_row from picture_queue.maintenance o for update skip locked));
  return v_result || jsonb_build_object('leased', true, 'failed', (select count(*) from picture_queue.failed_step),
    'next_in', greatest(extract(epoch from v_next_round_at - picture_queue._now()), 0));
end
$$;

create function public.maintain_jobs(force boolean default false, worker text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return picture_queue.maintain(coalesce(force, false), worker);
exception when deadlock_detected or lock_not_available then
  return picture_queue._raise_busy();
end
$$;
comment on function public.maintain_jobs is
  'Does the maintenance that is due; returns the work done and the time of the next call.';


-- 536_function_call_worker.sql

-- Calls of a worker over HTTP, by pg_cron and pg_net, for hosts that run a worker only during a request. The URL and
-- the secret are in Vault. A call is a hint: it may be lost, and the next minute makes another one.

-- Returns whether a schema has functions of a name, and all of them belong to roles whose code may run inside our
-- functions.
create function picture_queue._trusts_function(p_schema text, p_name text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(picture_queue._is_trusted(p.proowner, true)), false)
  from pg_catalog.pg_proc p
  join pg_catalog.pg_namespace n on n.oid = p.pronamespace
  where n.nspname = p_schema and p.proname = p_name
$$;

-- Returns a secret of Vault; null if there is none, or no Vault.
create function picture_queue._vault_secret(p_name text, out id uuid, out secret text)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  -- The name of the view is not in the text of the query, since without Vault a linter would report a missing table.
  v_view regclass := (
    select c.oid from pg_catalog.pg_class c
    where c.oid = to_regclass('vault.decrypted_secrets') and picture_queue._is_trusted(c.relowner, true));
begin
  if v_view is not null then
    execute format('select s.id, nullif(s.decrypted_secret, '''') from %s s where s.name = $1', v_view)
    into id, secret using p_name;
  end if;
end
$$;

-- Writes a secret of Vault.
create function picture_queue._set_vault_secret(p_name text, p_secret text, p_description text) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid := (picture_queue._vault_secret(p_name)).id;
begin
  if v_id is null then
    execute format('select %I.create_secret($1::text, $2::text, $3::text)', 'vault') using p_secret, p_name, p_description;
  else
    execute format('select %I.update_secret($1::uuid, $2::text)', 'vault') using v_id, p_secret;
  end if;
end
$$;

-- Lets pg_cron call the route /process-jobs of a worker each minute in which jobs are due, or ends the calls if p_url
-- is null. Without p_secret the secret of an earlier call stays, or a new one is made; read it with:
-- select decrypted_secret from vault.decrypted_secrets where name = 'picture_queue_worker_secret';
-- Returns 'scheduled', 'not called any more', or what is missing. Raises PQ_INVALID_ARGUMENT for a URL or a secret that
-- cannot be used. Only the owner may call it.
create function picture_queue.schedule_worker_calls(p_url text, p_secret text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  v_scheduled text;
begin
  if length(p_url) > 2000 or p_url !~ '^(https://|http://(127[.]0[.]0[.]1|localhost)[:/])[^[:space:]@]+$' then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'url is not an https address without a user name',
      'pass the URL of the route, such as https://worker.example.com/process-jobs');
  elsif length(p_secret) not between 24 and 1000 or p_secret !~ '^[!-~]+$' then
    perform picture_queue._raise_error('PQ_INVALID_ARGUMENT', 'secret is shorter than 24 characters, or is not printable ASCII',
      'pass the PICTURE_QUEUE_PROCESS_SECRET of the worker, or null to make a secret');
  elsif not (picture_queue._trusts_function('vault', 'create_secret') and picture_queue._trusts_function('vault', 'update_secret')) then
    return 'Vault is not installed';
  end if;
  perform picture_queue._set_vault_secret('picture_queue_worker_url', coalesce(p_url, ''), 'The URL that pg_cron calls');
  if p_url is null then
    return 'not called any more';
  elsif p_secret is not null or (picture_queue._vault_secret('picture_queue_worker_secret')).secret is null then
    perform picture_queue._set_vault_secret('picture_queue_worker_secret',
      coalesce(p_secret, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')),
      'PICTURE_QUEUE_PROCESS_SECRET of the worker');
  end if;
  v_scheduled := picture_queue.schedule_maintenance();
  return case when v_scheduled <> 'scheduled' then v_scheduled
    when not picture_queue._trusts_function('net', 'http_post') then 'pg_net is not installed' else 'scheduled' end;
end
$$;

-- Calls the worker if a job is due; pg_cron does it after the maintenance. The call is sent after the commit. Returns
-- what was done. It raises no error, since the transaction may contain a round of maintenance.
create function picture_queue.call_worker() returns text
language plpgsql set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
declare
  v_url text := (picture_queue._vault_secret('picture_queue_worker_url')).secret;
  v_secret text := (picture_queue._vault_secret('picture_queue_worker_secret')).secret;
  v_call_id bigint;
begin
  if v_url is null or v_secret is null then
    return 'not set up';
  elsif not picture_queue._trusts_function('net', 'http_post') then
    return 'pg_net is not installed';
  elsif not exists (select from public.job_queue j where j.status = 'pending' and j.hold is null) then
    return 'no job is due';
  end if;
  -- pg_net sends requests in groups, and the next group waits for the slowest one. So the time limit is short; the
  -- worker continues after it.
  execute format('select %I.http_post($1::text, $2::jsonb, $3::jsonb, $4::jsonb, $5::integer)', 'net') into v_call_id
  using v_url, '{}'::jsonb, '{}'::jsonb, jsonb_build_object(
    'Content-Type', 'application/json', 'Authorization', 'Bearer ' || v_secret), 5000;
  update picture_queue.maintenance m set worker_call_id = v_call_id
  where m.only_row = any (array(select o.only_row from picture_queue.maintenance o for update skip locked));
  return 'called';
exception when others then
  raise warning 'the worker could not be called: %', sqlerrm;
  return 'failed';
end
$$;


-- 540_function_doctor.sql

-- The doctor (queue_doctor) finds problems and proposes remedies. Each check is a function that returns findings and
-- reads a bounded number of rows.
create type picture_queue.finding as (
  verdict text,            -- ok, warn, bad
  detail text,
  remedy text              -- a statement to run, or a sentence
);

-- Runs all checks. A check without findings gives a finding with the verdict ok. A check that raises an error gives a
-- warning; for example, it waits at most 0.1 seconds for a locked table. client_time: the time of the clock of the
-- caller.
create function public.queue_doctor(client_time timestamptz default null) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
  v_check record;
  v_findings jsonb;
  v_all_findings jsonb := '[]'::jsonb;
  v_lacks_index boolean := false;
begin
  for v_check in
    select * from (values
      ('held snapshots', '_check_snapshots', 'no transaction is older than a minute', false),
      ('locks', '_check_locks', 'no session keeps a lock of the queue', false),
      ('dead rows', '_check_vacuum', 'vacuum keeps up', false),
      ('indexes', '_check_indexes', 'all indexes exist and are valid', false),
      ('orphans', '_check_orphans', 'no row is orphaned', true),
      ('counts', '_check_depth', 'the counts match the jobs', true),
      ('overdue jobs', '_check_overdue', 'no job is overdue by more than a minute', true),
      ('pruning', '_check_pruning', 'no job is kept for too long', true),
      ('failed steps', '_check_failed_steps', 'no step fails', true),
      ('privileges', '_check_privileges', 'every table has row level security, and every role has its privileges only', false),
      ('exposure', '_check_exposure', 'users reach only their own rows, within limits of time and number', false),
      ('maintenance', '_check_maintenance', null, false),
      ('pg_cron', '_check_cron', null, false),
      ('pg_cron runs', '_check_cron_runs', null, false),
      ('worker calls', '_check_worker_calls', null, false),
      ('realtime in SQL', '_check_realtime', 'events are sent to private topics, and users receive their own', false),
      ('storage', '_check_storage', 'bucket pictures is private, and users read their own folder', false),
      ('settings', '_check_settings', 'the settings are suitable', false),
      ('postgres', null, 'version ' || current_setting('server_version'), false),
      ('clock', '_check_clock', null, false)
    ) as c (name, function, ok_detail, reads_jobs)
  loop
    -- Without an index a check would read the whole table several times.
    continue when v_check.reads_jobs and v_lacks_index;
    v_findings := null;
    begin
      if v_check.function is not null then
        execute format('select jsonb_agg(f) from picture_queue.%I(%s) f', v_check.function,
          case v_check.name when 'clock' then '$1' end)
        into v_findings using client_time;
      end if;
    exception when others then
      v_findings := jsonb_build_array(jsonb_build_object('verdict', 'warn',
        'detail', format('it could not be checked (SQLSTATE %s): %s', sqlstate, sqlerrm),
        'remedy', 'check for a lock or a missing privilege; if there is none, report this as a bug of picture-queue'));
    end;
    v_findings := coalesce(v_findings, case when v_check.ok_detail is null then '[]'
      else jsonb_build_array(jsonb_build_object('verdict', 'ok', 'detail', v_check.ok_detail, 'remedy', null)) end);
    v_lacks_index := v_lacks_index or v_check.name = 'indexes' and v_findings @> '[{"verdict": "bad"}]';
    v_all_findings := v_all_findings || (
      select coalesce(jsonb_agg(jsonb_build_object('check', v_check.name) || f), '[]') from jsonb_array_elements(v_findings) f);
  end loop;
  return v_all_findings || case when v_lacks_index then jsonb_build_array(jsonb_build_object('check', 'jobs', 'verdict', 'warn',
    'detail', 'not checked while an index is missing', 'remedy', 'create the indexes, and run the doctor again')) else '[]' end;
end
$$;
comment on function public.queue_doctor is 'Checks the queue; returns findings with their remedies.';

-- Finds old snapshots: while a session holds one, vacuum cannot remove dead rows, and claims get slower.
create function picture_queue._check_snapshots() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when h.age > interval '15 minutes' then 'bad' else 'warn' end,
    format('%s has kept vacuum from removing dead rows for %s seconds', h.who, round(extract(epoch from h.age))), h.remedy
  from (
    select format('session %s (%s, %s)', a.pid, a.usename, coalesce(a.state, 'state hidden')) as who,
      picture_queue._now() - coalesce(a.xact_start, a.backend_start) as age,
      format('select pg_terminate_backend(%s);', a.pid) as remedy
    from pg_catalog.pg_stat_activity a
    where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
      and (a.backend_xmin is not null or a.backend_xid is not null)
    union all
    select format('prepared transaction %L', p.gid), picture_queue._now() - p.prepared, format('rollback prepared %L;', p.gid)
    from pg_catalog.pg_prepared_xacts p where p.database = current_database()
    union all
    -- The age of a slot is unknown; an hour makes the finding bad.
    select format('inactive replication slot %L', r.slot_name), interval '1 hour',
      format('select pg_drop_replication_slot(%L);', r.slot_name)
    from pg_catalog.pg_replication_slots r where r.xmin is not null and not r.active
    order by age desc limit 10
  ) h
  where h.age > interval '1 minute'
  order by h.age desc
$$;

-- Finds sessions that have held an advisory lock of the queue for ten seconds. Our functions hold such locks only
-- until their transaction ends.
create function picture_queue._check_locks() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'bad', format('session %s (%s, %s) has held a lock of the queue for %s seconds', a.pid, a.usename,
      coalesce(a.state, 'state hidden'), round(extract(epoch from held.age))),
    format('select pg_terminate_backend(%s);', a.pid)
  from pg_catalog.pg_stat_activity a
  cross join lateral (select picture_queue._now() - coalesce(a.xact_start, a.state_change, a.backend_start) as age) held
  where a.pid <> pg_backend_pid() and held.age > interval '10 seconds' and a.pid in (
    select l.pid from pg_catalog.pg_locks l
    where l.locktype = 'advisory' and l.granted and l.classid between 1903326067 and 1903326079
      and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))
  order by held.age desc limit 10
$$;

-- Finds tables that vacuum does not keep free of dead rows.
create function picture_queue._check_vacuum() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when t.n_dead_tup > t.n_live_tup * 2 + 100000 then 'bad' else 'warn' end,
    format('%s.%s has %s dead rows and %s live rows, last vacuum %s', t.schemaname, t.relname, t.n_dead_tup, t.n_live_tup,
      coalesce(greatest(t.last_vacuum, t.last_autovacuum)::text, 'never')),
    format('vacuum (analyze) %I.%I;', t.schemaname, t.relname)
  from pg_catalog.pg_stat_user_tables t
  where t.relid in (select o.oid from picture_queue._our_tables() o)
    and t.n_dead_tup > 20000 and t.n_dead_tup > t.n_live_tup / 5
  order by t.n_dead_tup desc limit 20
$$;

-- Finds missing indexes of job_queue, without which calls read the whole table. A test compares this list with the
-- schema.
create function picture_queue._check_indexes() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with wanted (kind, name, columns, condition) as (values
    ('index', 'batch', '(batch_id, seq)', 'batch_id is not null'),
    ('index', 'blocked', '(blocked_on, hold, queue, job_type, rank, turn, seq)',
      'status = ''pending'' and blocked_on is not null'),
    ('index', 'claimable', '(queue, rank, turn, seq, job_type) with (deduplicate_items = off)',
      'status = ''pending'' and hold is null'),
    ('index', 'due', '(scheduled_for)', 'hold in (''scheduled'', ''parked'')'),
    ('index', 'expiring', '(expires_at)', 'status = ''pending'' and expires_at is not null'),
    ('index', 'finished', '(status, finished_at)', 'finished_at is not null'),
    ('unique index', 'idempotency', '(idempotency_key, job_type, user_id) nulls not distinct',
      'idempotency_key is not null'),
    ('index', 'leased', '(lease_id)', 'status = ''processing'' and hold is null'),
    ('index', 'listed', '(queue, status, seq) with (deduplicate_items = off)', 'status <> ''processing'''),
    ('index', 'owned', '(user_id, seq desc)', 'user_id is not null'),
    ('index', 'parked', '(parked_on, parked_at)', 'hold = ''parked'''),
    ('index', 'tenant', '(queue, tenant, rank, turn)',
      'status = ''pending'' and hold is null and tenant is not null'),
    ('unique index', 'unique', '(unique_key)', 'status = any (unique_states)')
  )
  select 'bad', format('index job_queue_%s is missing', w.name),
    format('create %s job_queue_%s on public.job_queue %s where %s;', w.kind, w.name, w.columns, w.condition)
  from wanted w where to_regclass('public.job_queue_' || w.name) is null
  union all
  select 'bad', format('index %s is not valid', i.indexrelid::regclass),
    format('reindex index concurrently %s;', i.indexrelid::regclass)
  from pg_catalog.pg_index i
  where not (i.indisvalid and i.indisready) and i.indrelid in (select o.oid from picture_queue._our_tables() o)
$$;

-- Finds orphaned rows among the first 10,000 of each kind. It searches jobs by id and without joins, so that Postgres
-- never reads the whole table of jobs.
create function picture_queue._check_orphans() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp set seq_page_cost = 100
as $$
  with running as materialized (
    select s.key, count(*) as n
    from public.job_queue j
    cross join lateral unnest(j.slots) as s (key)
    where j.status = 'processing' and j.hold is null
    group by s.key
  ),
  counted as (
    select l.key, l.running - coalesce((select sum(f.n) from picture_queue.freed_key f where f.key = l.key), 0) as n
    from (select * from picture_queue.limit_key limit 1000) l
    union all
    select r.key, 0 from running r where not exists (select from picture_queue.limit_key l where l.key = r.key)
  ),
  found (n, what) as (
    select count(*), 'dependencies on a missing or finished job, which no follow-up resolves'
    from (select * from picture_queue.dependency limit 10000) d
    where not exists (select from public.job_queue j where j.id = d.parent_id and j.finished_at is null)
      and not exists (select from picture_queue.follow_up f where f.subject in (d.parent_id, d.child_id))
    union all
    select count(*), 'limit keys with a wrong count of running jobs'
    from counted c
    left join running r on r.key = c.key
    where c.n <> coalesce(r.n, 0)
    union all
    select count(*), 'limit keys that have capacity, but whose waiting jobs are not unblocked'
    from picture_queue._blocking_keys(1000) as k (key)
    left join picture_queue._key_states(array(select picture_queue._blocking_keys(1000))) c on c.key = k.key
    where coalesce(c.capacity, 1) > 0
      and not exists (select from picture_queue.freed_key f where f.key = k.key)
      and not exists (select from public.job_queue j where j.status = 'pending' and j.blocked_on = k.key and j.hold is null)
      and exists (select from public.job_queue j where j.status = 'pending' and j.blocked_on = k.key and j.hold = 'blocked')
    union all
    select count(*), 'open batches whose counts do not match their jobs'
    from (select * from picture_queue.batch b where b.finished_at is null and b.total between 1 and 10000 limit 200) b
    where b.total - b.completed - b.failed - b.cancelled <> (
      select count(*) from public.job_queue j where j.batch_id = b.id and j.finished_at is null)
  )
  select 'bad', format('%s %s', f.n, f.what), case
    when f.what like 'open batches%' then 'update picture_queue.batch b set completed = b.total - b.failed - b.cancelled - o.n '
      || 'from (select j.batch_id, count(*) as n from public.job_queue j where j.finished_at is null group by 1) o '
      || 'where o.batch_id = b.id and b.finished_at is null;'
    else 'select picture_queue.repair();' end
  from found f where f.n > 0
$$;

-- Compares the counts with the jobs, for each state with up to 20,000 jobs. It uses one statement, so that both come
-- from one snapshot.
create function picture_queue._check_depth() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with counted (state, n, actual) as (
    select d.state, d.n, case when d.n not between 0 and 20000 then null else case d.state
      when 'pending' then (select count(*) from (select from public.job_queue j
        where j.status = 'pending' and j.hold is null limit 20001) c)
      when 'scheduled' then (select count(*) from (select from public.job_queue j where j.hold = 'scheduled' limit 20001) c)
      when 'blocked' then (select count(*) from (select from public.job_queue j
        where j.status = 'pending' and j.blocked_on is not null and j.hold = 'blocked' limit 20001) c)
      when 'parked' then (select count(*) from (select from public.job_queue j where j.hold = 'parked' limit 20001) c)
      when 'processing' then (select count(*) from (select from public.job_queue j
        where j.status = 'processing' and j.hold is null limit 20001) c)
      else (select count(*) from (select from public.job_queue j
        where j.status = d.state and j.finished_at is not null order by j.finished_at limit 20001) c) end end
    from (
      select s.state, coalesce(sum(p.n), 0) as n
      from unnest(array['pending', 'scheduled', 'blocked', 'parked', 'processing', 'completed', 'failed', 'cancelled']) s (state)
      left join picture_queue._depths() p on coalesce(p.hold, p.status) = s.state
      group by s.state
    ) d
  )
  select 'bad', format('the count of %s jobs is %s, the real number is %s', c.state, c.n,
    coalesce(case when c.actual > 20000 then 'over 20000' else c.actual::text end, 'unknown')), 'select picture_queue.repair();'
  from counted c where c.n < 0 or c.actual <> c.n order by c.state
$$;

-- Finds jobs and partitions of the archive that pruning should have deleted: jobs a day after the end of their
-- retention, and partitions after keep_archive_months. It also finds detached partitions of the archive.
create function picture_queue._check_pruning() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'warn', format('%s jobs are kept for %s days, and one finished %s days ago%s', k.status, round(k.seconds / 86400),
      round(extract(epoch from n.now - o.finished_at) / 86400), (
        select ': these tables refer to public.job_queue and may prevent its deletion: '
          || string_agg(distinct c.conrelid::regclass::text, ', ')
        from pg_catalog.pg_constraint c
        where c.contype = 'f' and c.confrelid = 'public.job_queue'::regclass and c.confdeltype in ('a', 'r')
        having count(*) > 0)),
    format('select picture_queue._prune_jobs(array[%L::uuid]); -- its error is the reason', o.id)
  from picture_queue.setting s
  cross join (select picture_queue._now() as now offset 0) n
  cross join lateral (values
    ('completed', s.keep_completed_seconds), ('failed', s.keep_failed_seconds), ('cancelled', s.keep_cancelled_seconds)
  ) as k (status, seconds)
  cross join lateral (
    select j.id, j.finished_at from public.job_queue j
    where j.status = k.status and j.finished_at < n.now - make_interval(secs => k.seconds) - interval '1 day'
    order by j.finished_at limit 1) o
  union all
  select 'warn', format('picture_queue.%I is older than keep_archive_months', o.name), format('drop table picture_queue.%I;', o.name)
  from picture_queue._old_partitions() o
  union all
  select 'warn', format('%s is not a partition of the archive', c.oid::regclass),
    'rename it, or drop it if its jobs are kept elsewhere; pruned jobs of its month go to a new partition'
  from pg_catalog.pg_class c
  where c.relnamespace = 'picture_queue'::regnamespace and c.relkind = 'r' and not c.relispartition
    and c.relname ~ '^archive_[0-9]{4}_[0-9]{2}(_[0-9]+)?$'
$$;


-- 545_function_doctor_jobs.sql

-- The doctor's checks of the jobs, the maintenance, the privileges and the settings.

-- Finds jobs that have been claimable for over a minute, in up to 20 queues; expired leases that were not swept; and
-- due jobs that were not promoted.
create function picture_queue._check_overdue() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with due as (
    select q.name, q.pause_reason, q.paused_until > picture_queue._now() as paused, picture_queue._now() - o.at as age,
      (select j.job_type from public.job_queue j
        where j.queue = q.name and j.status = 'pending' and j.hold is null order by j.rank, j.turn, j.seq limit 1) as job_type
    from picture_queue.queue q
    cross join lateral (select picture_queue._oldest_due(q.name) as at) o
    where o.at < picture_queue._now() - interval '1 minute'
    order by o.at limit 20
  ),
  late (n, what) as (
    select count(*), 'jobs have a lease that expired over a minute ago and was not swept'
    from (select from public.job_queue j where j.status = 'processing' and j.hold is null
      and j.lease_expires_at < (select picture_queue._now() - interval '1 minute') and not exists (
        select from picture_queue.lease_extension x
        where x.job_id = j.id and x.lease_id = j.lease_id and x.lease_expires_at > (select picture_queue._now()))
      limit 1000) l
    union all
    select count(*), 'jobs became due over a minute ago and were not promoted'
    from (select from public.job_queue j where j.hold in ('scheduled', 'parked')
      and j.scheduled_for < (select picture_queue._now() - interval '1 minute') order by j.scheduled_for limit 1000) s
  )
  select case when j.paused then 'warn' else 'bad' end,
    format('queue %s: a job has waited for %s seconds; %s', j.name, round(extract(epoch from j.age)), case
      when j.paused then 'the queue is paused' || coalesce(': ' || j.pause_reason, '')
      when not w.has_worker then format('no worker for job type %s was seen in the last minute', j.job_type)
      else 'its workers do not keep up' end),
    case when j.paused then format('select public.resume_queue(%L);', j.name)
      when not w.has_worker then format('start a worker for queue %s with a handler for %s', j.name, j.job_type)
      else format('start more workers; select public.desired_workers(%L); returns their number', j.name) end
  from due j
  cross join lateral (select exists (
    select from picture_queue.worker w where j.name = any (w.queues) and j.job_type = any (w.job_types)
      and w.seen_at > picture_queue._now() - interval '1 minute') as has_worker) w
  union all
  select 'bad', format('%s %s', case when l.n = 1000 then '1000 or more' else l.n::text end, l.what),
    'select picture_queue.maintain();'
  from late l where l.n > 0
$$;

-- Finds the privileges on our objects that 900_grants.sql does not grant, one finding for each role and privilege. It
-- leaves out the privileges of anon and authenticated on functions and tables, which other checks find, including
-- inherited privileges.
create function picture_queue._excess_grants() returns table (detail text, remedy text)
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with excess as (
    select g.role, g.privilege, coalesce('column ' || quote_ident(g."column") || ' of ', '') || g.name as shown,
      picture_queue._revoke_statement(
        case when g.is_expected then 'grant option for ' else '' end || lower(g.privilege), g."column", g.kind, g.name, g.role)
        as remedy
    from (
      select g.*, g."column" is null and case g.kind
        when 'schema' then g.privilege = 'USAGE' and g.role in ('authenticated', 'service_role')
        when 'table' then g.privilege = 'SELECT' and (
          g.role in ('authenticated', 'service_role') and g.name in ('public.job_queue', 'public.generations', 'public.images')
          or g.role = 'service_role' and g.name in ('public.queue_health', 'public.failed_jobs_recent', 'public.stuck_jobs',
            'picture_queue.queue', 'picture_queue.worker'))
        when 'function' then g.role = 'service_role' and (f.is_public
            or p.proname = any (picture_queue._user_functions() || '{maintain,prune,counts}'::text[]))
          or g.role = 'authenticated' and p.proname = any (picture_queue._user_functions())
        else false end as is_expected
      from picture_queue._grants() g
      left join picture_queue._our_functions() f on g.kind = 'function' and f.oid = g.object
      left join pg_catalog.pg_proc p on p.oid = f.oid
    ) g
    where (g.is_grantable or not g.is_expected)
      and not (g.kind = 'function' and not g.is_grantable and g.role in ('public', 'anon', 'authenticated'))
      and not (g.kind = 'table' and g."column" is null and not g.is_grantable and g.role in ('anon', 'authenticated')
        and g.privilege in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
        and g.object in (select t.oid from picture_queue._our_tables() t))
  )
  select format('role %s has the privilege %s on %s%s', e.role, lower(e.privilege), (array_agg(e.shown order by e.shown))[1],
      case when count(*) > 1 then format(' and %s others', count(*) - 1) end),
    string_agg(e.remedy, ' ' order by e.shown)
  from excess e group by e.role, e.privilege
$$;

create function picture_queue._check_privileges() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with tables as (
    select c.oid, c.oid::regclass as name, c.relrowsecurity as rls, c.relnamespace = 'public'::regnamespace as is_public
    from picture_queue._our_tables() c
  ),
  problem (detail, remedy) as (
    select format('table %s has no row level security', t.name), format('alter table %s enable row level security;', t.name)
    from tables t where not t.rls
    union all
    select format('%s may write or read %s', r.name, t.name), format('revoke all on %s from %I;', t.name, r.name)
    from tables t, (values ('anon'), ('authenticated')) r (name)
    where has_table_privilege(r.name, t.oid, case when t.is_public and r.name = 'authenticated'
      then 'insert, update, delete, truncate' else 'select, insert, update, delete, truncate' end)
    union all
    select format('service_role may not read %s', t.name), format('grant select on %s to service_role;', t.name)
    from tables t where t.is_public and not has_table_privilege('service_role', t.oid, 'select')
    union all
    select format('anon may execute %s', f.oid::regprocedure),
      format('revoke execute on function %s from public, anon;', f.oid::regprocedure)
    from picture_queue._our_functions() f where has_function_privilege('anon', f.oid, 'execute')
    union all
    select format('service_role may not execute %s', f.oid::regprocedure),
      format('grant execute on function %s to service_role;', f.oid::regprocedure)
    from picture_queue._our_functions() f where f.is_public and not has_function_privilege('service_role', f.oid, 'execute')
    union all
    select 'service_role may not use schema picture_queue', 'grant usage on schema picture_queue to service_role;'
    where not has_schema_privilege('service_role', 'picture_queue', 'usage')
    union all
    select e.detail, e.remedy from picture_queue._excess_grants() e
  )
  select 'bad', p.detail, p.remedy from problem p order by p.detail limit 100
$$;

create function picture_queue._check_maintenance() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when a.age <= 300 then 'ok' when a.age > 3600 then 'bad' else 'warn' end,
    case when a.age <= 300 then format('done %s seconds ago', greatest(a.age, 0))
      else coalesce('not done for ' || a.age || ' seconds', 'never done') end,
    case when a.age <= 300 then null
      else 'select picture_queue.maintain(); -- a running worker or pg_cron does it each minute' end
  from (
    select round(extract(epoch from picture_queue._now() - nullif(m.round_began_at, '-infinity'))) as age
    from picture_queue.maintenance m) a
$$;

create function picture_queue._check_cron() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_cron regclass := picture_queue._find_table('cron.job');
  v_active_jobs bigint;
begin
  if v_cron is null then
    return query select 'ok', 'not installed: the workers do the maintenance', null;
    return;
  end if;
  execute format('select count(*) from %s where active and jobname = any ($1)', v_cron)
  into v_active_jobs using array['process-job-queue', 'prune-job-queue'];
  return query select case when v_active_jobs = 2 then 'ok' else 'warn' end, case
    when v_active_jobs = 2 then 'process-job-queue and prune-job-queue are scheduled'
    else 'process-job-queue or prune-job-queue is not scheduled, or not active' end,
    case when v_active_jobs <> 2 then 'select picture_queue.schedule_maintenance();' end;
end
$$;

-- Finds steps that failed for a job, batch, key or schedule; refused callbacks; and schedules whose latest tick
-- enqueued no job.
create function picture_queue._check_failed_steps() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  (select 'bad', format('%s %s failed %s times since %s: %s', case f.kind
      when 'claim' then 'starting job' when 'promote' then 'promoting job' when 'sweep' then 'sweeping job'
      when 'abandon' then 'expiring job' when 'unblock' then 'unblocking job' when 'resolve' then 'resolving dependent'
      when 'prune' then 'pruning job' when 'report' then 'writing the outcome of job' when 'cancel' then 'cancelling job'
      when 'retry' then 'retrying job' when 'discard' then 'discarding job' when 'purge' then 'cancelling job'
      when 'wake' then 'waking job' when 'renumber' then 'renumbering job'
      when 'callback' then 'enqueuing the callback of batch' when 'partition' then 'dropping partition' else format('step %s for', f.kind) end,
    f.subject, f.failures, f.first_at, f.last_error), case
    when f.kind in ('report', 'cancel', 'retry', 'discard', 'purge', 'renumber')
      then 'check your own triggers and constraints on public.job_queue and public.generations, then repeat the call'
    when f.kind in ('claim', 'promote', 'sweep', 'abandon', 'unblock', 'resolve', 'prune', 'wake')
      then 'check your own triggers and constraints on public.job_queue; the step is retried at ' || f.retry_at
    else 'the step is retried at ' || f.retry_at end
  from picture_queue.failed_step f order by f.failures desc, f.subject limit 20)
  union all
  (select 'warn', format('the callback of batch %s was refused: %s', b.id, b.callback_error),
    format('enqueue it yourself; select public.get_batch(%L); returns it', b.id)
  from picture_queue.batch b
  where b.finished_at > picture_queue._now() - interval '1 day' and b.callback_error is not null
  order by b.finished_at desc limit 10)
  union all
  (select 'warn', format('the latest tick of schedule %s enqueued no job: %s', s.name, s.last_error),
    format('select public.set_schedule(%L, …); -- with valid values', s.name)
  from picture_queue.schedule s where s.last_error is not null order by s.name limit 10)
$$;

create function picture_queue._check_settings() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select 'bad', format('%s is off', s.name), format('alter system set %I = on; select pg_reload_conf();', s.name)
  from pg_catalog.pg_settings s where s.name in ('autovacuum', 'track_counts') and s.setting = 'off'
  union all
  select 'bad', format('autovacuum is off for %s', c.oid::regclass), format('alter table %s reset (autovacuum_enabled);', c.oid::regclass)
  from pg_catalog.pg_class c
  where c.oid in ('public.job_queue'::regclass, 'picture_queue.depth_change'::regclass)
    and array_to_string(c.reloptions, ',') ~ 'autovacuum_enabled=(false|off|no|0)'
  union all
  select 'warn', format('lease_seconds is %s: a busy worker may fail to extend its leases in time', s.lease_seconds),
    'select public.set_setting(''{"lease_seconds": 30}'');'
  from picture_queue.setting s where s.lease_seconds < 10
  union all
  (select 'warn', format('queue %s has lease_seconds %s: a busy worker may fail to extend its leases in time', q.name, q.lease_seconds),
    format('select public.set_queue(%L, ''{"lease_seconds": null}'');', q.name)
  from picture_queue.queue q where q.lease_seconds < 10 order by q.name limit 20)
  union all
  select 'warn', 'finished jobs are kept for over a year in the table that claims read',
    'select public.set_setting(''{"archive": true, "keep_completed_seconds": 604800}'');'
  from picture_queue.setting s where greatest(s.keep_completed_seconds, s.keep_failed_seconds, s.keep_cancelled_seconds) > 31622400
$$;

create function picture_queue._check_clock(p_client_time timestamptz) returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select case when c.difference > 60 then 'bad' when c.difference > 5 then 'warn' else 'ok' end,
    case when c.difference is null then 'not compared: pass client_time'
      else format('the caller''s clock differs by %s seconds, including the network delay', round(c.difference, 1)) end,
    case when c.difference > 5
      then 'synchronise the clock of that machine by NTP; times that it sends, such as scheduled_for, are wrong by as much' end
  from (select abs(extract(epoch from picture_queue._now() - p_client_time)) as difference) c
$$;


-- 546_function_doctor_platform.sql

-- The doctor's checks of Realtime, Storage and pg_cron. Tables of these may be missing, so the checks look them up by
-- name.

-- Checks that events reach their subscribers: the function that sends them, the policies, and the publication.
create function picture_queue._check_realtime() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with messages as (
    select c.oid, c.relkind, c.relrowsecurity from pg_catalog.pg_class c
    where c.oid = picture_queue._find_table('realtime.messages', true)
  )
  select 'bad', format('events are not sent: realtime.messages is not the table of Realtime, it belongs to the role %s',
      c.relowner::regrole),
    format('drop schema realtime cascade; -- after you have checked what %s keeps there', c.relowner::regrole)
  from pg_catalog.pg_class c
  where c.oid = to_regclass('realtime.messages') and not exists (select from messages)
  union all
  select 'bad', 'events are not sent: Realtime was missing when picture-queue was installed',
    'apply supabase/schemas/950_supabase_realtime.sql of picture-queue'
  from messages where not exists (select from pg_catalog.pg_proc p
    where p.oid = to_regproc('picture_queue._broadcast') and p.prosrc like '%realtime.messages%')
  union all
  select 'bad', 'every user can read every private topic: realtime.messages has no row level security',
    'alter table realtime.messages enable row level security;'
  from messages where not relrowsecurity
  union all
  select 'bad', 'users cannot read their own topic: its policy is missing',
    'create policy "picture_queue: read own topics" on realtime.messages for select to authenticated using '
      || '(extension = ''broadcast'' and topic = ''pq:user:'' || (select auth.uid())::text '
      || 'and topic = (select realtime.topic()));'
  from messages m where not exists (select from pg_catalog.pg_policy p
    where p.polrelid = m.oid and p.polname = 'picture_queue: read own topics')
  union all
  select 'warn', 'realtime.messages has no partition for today: events are lost until a client connects',
    'open a channel, as a watch or this doctor does; Realtime then creates the partition'
  from messages m where m.relkind = 'p' and not exists (
    select from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
    where i.inhparent = m.oid and c.relname = 'messages_' || to_char(picture_queue._now() at time zone 'utc', 'YYYY_MM_DD'))
  union all
  select 'bad', 'publication supabase_realtime_messages_publication lacks realtime.messages: no event is delivered',
    'restart Realtime in the project''s settings'
  from messages
  where exists (select from pg_catalog.pg_publication p where p.pubname = 'supabase_realtime_messages_publication')
    and not exists (select from pg_catalog.pg_publication_tables t
      where t.pubname = 'supabase_realtime_messages_publication' and t.schemaname = 'realtime')
  union all
  select 'warn', format('publication supabase_realtime also sends every change of %s, with a check for each subscriber',
    array_to_string(p.tables, ', ')),
    format('alter publication supabase_realtime drop table public.%s;', array_to_string(p.tables, ', public.'))
  from (
    select array_agg(t.tablename::text order by t.tablename) as tables from pg_catalog.pg_publication_tables t
    where t.pubname = 'supabase_realtime' and t.schemaname = 'public'
      and t.tablename in ('job_queue', 'generations', 'images')
  ) p
  where p.tables is not null
  union all
  select 'ok', 'there is no Realtime: watches poll', null where to_regclass('realtime.messages') is null
$$;

create function picture_queue._check_storage() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_public boolean;
begin
  if to_regclass('storage.buckets') is null then
    return query select 'ok', 'there is no Storage: pictures are not stored', null;
    return;
  elsif picture_queue._find_table('storage.buckets', true) is null then
    return query
    select 'bad', format('storage.buckets is not the table of Storage: it belongs to the role %s', c.relowner::regrole),
      format('drop schema storage cascade; -- after you have checked what %s keeps there', c.relowner::regrole)
    from pg_catalog.pg_class c where c.oid = to_regclass('storage.buckets');
    return;
  end if;
  execute 'select b.public from storage.buckets b where b.id = ''pictures''' into v_public;
  if v_public is null then
    return query select 'bad', 'bucket pictures is missing: no picture can be stored',
      'insert into storage.buckets (id, name, public) values (''pictures'', ''pictures'', false);';
  elsif v_public then
    return query select 'bad', 'bucket pictures is public: anyone with a URL can see the picture',
      'update storage.buckets set public = false where id = ''pictures'';';
  elsif not exists (select from pg_catalog.pg_policy p
    where p.polrelid = to_regclass('storage.objects') and p.polname = 'picture_queue: read own pictures')
  then
    return query select 'bad', 'users cannot read their own pictures: the policy is missing',
      'create policy "picture_queue: read own pictures" on storage.objects for select to authenticated using '
      || '(bucket_id = ''pictures'' and (storage.foldername(name))[1] = (select auth.uid())::text '
      || 'and picture_queue.may_read_picture(name));';
  elsif not exists (select from pg_catalog.pg_trigger t
    where t.tgrelid = to_regclass('storage.objects') and t.tgname = 'picture_queue_limit_uploads'
      and t.tgenabled <> 'D')
  then
    return query select 'warn', 'signed upload URLs can exceed max_user_uploads: the trigger is missing or disabled',
      'create or replace trigger picture_queue_limit_uploads before insert or update of bucket_id, name '
      || 'on storage.objects for each row '
      || 'when (new.bucket_id = ''uploads'' and starts_with(new.name, new.owner_id || ''/'')) '
      || 'execute function picture_queue._limit_uploads(); -- as a role with the privilege TRIGGER on the table';
  end if;
end
$$;

-- Checks the last run of each of our pg_cron jobs, and the size of pg_cron's list of runs.
create function picture_queue._check_cron_runs() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  -- The names of the tables are not in the text of the query, since without pg_cron a linter would report missing
  -- tables.
  v_job_table regclass := picture_queue._find_table('cron.job');
  v_run_table regclass := picture_queue._find_table('cron.job_run_details');
begin
  if v_run_table is null then
    return;
  end if;
  return query execute format($sql$
    select case when d.status is null then 'warn' when d.status = 'failed' then 'bad' else 'ok' end,
      case when d.status is null then j.jobname || ' has not run yet'
        else format('%%s: the last run, at %%s, %%s%%s', j.jobname, to_char(d.start_time, 'YYYY-MM-DD HH24:MI:SSOF'), d.status,
          case when d.status = 'failed' then ': ' || coalesce(d.return_message, '') else '' end) end,
      case when d.status is null then 'wait a minute; if nothing changes, check that cron.database_name is this database'
        when d.status = 'failed' then 'run it by hand to see why: ' || j.command end
    from %s j
    left join lateral (
      select r.status, r.start_time, r.return_message from %s r
      where r.jobid = j.jobid and r.status in ('succeeded', 'failed') order by r.runid desc limit 1) d on true
    where j.active and j.jobname in ('process-job-queue', 'prune-job-queue') order by j.jobname
  $sql$, v_job_table, v_run_table);
  return query
  select 'warn', format('cron.job_run_details has %s rows, and old ones are not deleted', round(c.reltuples)),
    'delete from cron.job_run_details where end_time < now() - interval ''7 days'';'
  from pg_catalog.pg_class c where c.oid = v_run_table and c.reltuples > 100000;
end
$$;

-- Checks that pg_cron calls the worker, and the answer to the last call. No finding has the URL or the secret.
create function picture_queue._check_worker_calls() returns setof picture_queue.finding
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  v_job_table regclass := picture_queue._find_table('cron.job');
  v_response_table regclass := picture_queue._find_table('net._http_response', true);
  v_is_scheduled boolean := false;
  v_status integer;
  v_timed_out boolean;
  v_error text;
begin
  if (picture_queue._vault_secret('picture_queue_worker_url')).secret is null then
    return query select 'ok', 'not set up: workers claim jobs by themselves', null;
    return;
  elsif (picture_queue._vault_secret('picture_queue_worker_secret')).secret is null then
    return query select 'bad', 'the worker is not called: Vault has no secret picture_queue_worker_secret',
      'select picture_queue.schedule_worker_calls(''<URL of /process-jobs>'', ''<PICTURE_QUEUE_PROCESS_SECRET>'');';
    return;
  elsif not picture_queue._trusts_function('net', 'http_post') then
    return query select 'bad', 'the worker is not called: pg_net is not installed', 'create extension pg_net;';
    return;
  end if;
  if v_job_table is not null then
    execute format('select count(*) > 0 from %s where active and jobname = $1 and command like $2', v_job_table)
    into v_is_scheduled using 'process-job-queue', '%picture_queue.call_worker()%';
  end if;
  if not v_is_scheduled then
    return query select 'bad', 'the worker is not called: pg_cron is not installed, or process-job-queue does not call it',
      'create extension if not exists pg_cron; select picture_queue.schedule_maintenance();';
    return;
  elsif v_response_table is not null then
    execute format('select r.status_code, r.timed_out, r.error_msg from %s r '
      'where r.id = (select m.worker_call_id from picture_queue.maintenance m)', v_response_table)
    into v_status, v_timed_out, v_error;
  end if;
  return query select case when v_status between 200 and 299 or v_timed_out or v_status is null and v_error is null
      then 'ok' else 'bad' end, case
      when v_timed_out then 'the last call was sent, and its jobs ran longer than the call waits'
      when v_status is not null then 'the last call was answered with status ' || v_status
      when v_error is not null then 'the last call failed: ' || left(v_error, 200)
      else 'no answer of the last six hours is known' end, case
      when v_status in (401, 403) then 'set PICTURE_QUEUE_PROCESS_SECRET of the worker to picture_queue_worker_secret of Vault'
      when v_status is not null and v_status not between 200 and 299 or v_error is not null and not v_timed_out
        then 'check that the URL in Vault is the route /process-jobs of a running worker' end;
end
$$;


-- 547_function_doctor_code.sql

-- Finds code of the project and of other roles that runs inside our functions. A function that sets no search_path can
-- use temporary objects of a caller. A function of a role without the rights of our owner can get these rights.
create function picture_queue._check_code() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with ours (oid) as (select t.oid from picture_queue._our_tables() t),
  -- The tables whose rows our deletions delete or change (cascade, set null, set default).
  written (oid) as (
    select o.oid from ours o
    union
    select c.conrelid from picture_queue._foreign_keys_to(array(select o.oid from ours o)) c
    where c.confdeltype in ('c', 'n', 'd')
  ),
  code (shown, function, remedy) as (
    select format('trigger %I on %s', t.tgname, t.tgrelid::regclass), t.tgfoid,
      format('drop trigger %I on %s;', t.tgname, t.tgrelid::regclass)
    from pg_catalog.pg_trigger t where t.tgrelid in (select w.oid from written w) and not t.tgisinternal
    union all
    -- Our functions create and drop partitions of the archive.
    select format('event trigger %I', e.evtname), e.evtfoid, format('drop event trigger %I;', e.evtname)
    from pg_catalog.pg_event_trigger e where e.evtenabled <> 'D' and e.evtevent <> 'login'
    union all
    select pg_describe_object(d.classid, d.objid, d.objsubid), d.refobjid,
      'drop it, or give its function to the owner of public.job_queue'
    from (
      select 'pg_catalog.pg_constraint'::regclass, c.oid from pg_catalog.pg_constraint c
      where c.contype = 'c' and c.conrelid in (select w.oid from written w)
      union all
      select 'pg_catalog.pg_attrdef'::regclass, a.oid from pg_catalog.pg_attrdef a
      where a.adrelid in (select w.oid from written w)
      union all
      select 'pg_catalog.pg_class'::regclass, i.indexrelid from pg_catalog.pg_index i
      where i.indrelid in (select w.oid from written w)
    ) as o (class, oid)
    join pg_catalog.pg_depend d
      on d.classid = o.class and d.objid = o.oid and d.refclassid = 'pg_catalog.pg_proc'::regclass
  ),
  foreign_code as (
    select c.*, p.proowner, p.oid::regprocedure as name, picture_queue._is_trusted(p.proowner, true) as is_trusted
    from code c
    join pg_catalog.pg_proc p on p.oid = c.function
    join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname not in ('internal', 'c')
    join pg_catalog.pg_roles r on r.oid = p.proowner
    -- Leave out functions of extensions and event triggers of the platform, since the project cannot change them.
    where not exists (select from pg_catalog.pg_depend d
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
      and not (left(c.shown, 5) = 'event' and r.rolsuper and r.rolname <> current_user)
      and not (picture_queue._sets_safe_path(p.proconfig) and picture_queue._is_trusted(p.proowner, true))
  )
  select case when f.is_trusted then 'warn' else 'bad' end, case
      when f.is_trusted then format('%s may use temporary objects of a caller: its function does not set search_path', f.shown)
      else format('%s runs code of role %s inside our functions', f.shown, f.proowner::regrole) end, case
      when f.is_trusted then format('alter function %s set search_path = public, pg_temp;', f.name)
      else f.remedy end
  from foreign_code f
  union all
  select 'bad', format('table %s of role %s refers to %s: its triggers and indexes would run inside our functions, so no '
      || 'job is deleted', c.conrelid::regclass, t.relowner::regrole, c.confrelid::regclass),
    format('alter table %s drop constraint %I;', c.conrelid::regclass, c.conname)
  from picture_queue._foreign_keys_to(array(select o.oid from ours o)) c
  join pg_catalog.pg_class t on t.oid = c.conrelid
  where not picture_queue._is_trusted(t.relowner)
  union all
  select 'bad', format('%s refers to table %s of role %s, whose code runs inside our functions when a row is written',
      c.conrelid::regclass, c.confrelid::regclass, t.relowner::regrole),
    format('alter table %s drop constraint %I;', c.conrelid::regclass, c.conname)
  from pg_catalog.pg_constraint c
  join pg_catalog.pg_class t on t.oid = c.confrelid
  where c.contype = 'f' and c.conparentid = 0 and c.conrelid in (select w.oid from written w)
    and not picture_queue._is_trusted(t.relowner, true)
$$;


-- 548_function_doctor_exposure.sql

-- The doctor's check of the access of users, who must not reach more than their own rows. 900_grants.sql grants the
-- functions that users may execute; docs/security.md has the reasons.
create function picture_queue._check_exposure() returns setof picture_queue.finding
language sql stable set search_path = pg_catalog, pg_temp
as $$
  with api_role (name) as (values ('anon'), ('authenticated')),
  role_setting (role, setting) as (
    select r.rolname, unnest(s.setconfig)
    from pg_catalog.pg_db_role_setting s join pg_catalog.pg_roles r on r.oid = s.setrole
    where s.setdatabase in (0, (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))
  ),
  problem (verdict, detail, remedy) as (
    select 'bad', format('authenticated may execute %s', f.oid::regprocedure),
      format('revoke execute on function %s from public, authenticated;', f.oid::regprocedure)
    from picture_queue._our_functions() f join pg_catalog.pg_proc p on p.oid = f.oid
    where has_function_privilege('authenticated', f.oid, 'execute') and p.proname <> all (picture_queue._user_functions())
    union all
    select 'bad', format('%s can use types and tables of its caller: its search_path is %s', f.oid::regprocedure,
        coalesce(substr(c.setting, 13), 'not set')),
      format('alter function %s set search_path = pg_catalog, pg_temp;', f.oid::regprocedure)
    from picture_queue._our_functions() f join pg_catalog.pg_proc p on p.oid = f.oid
    left join lateral unnest(p.proconfig) as c (setting) on c.setting like 'search_path=%'
    where c.setting is distinct from 'search_path=pg_catalog, pg_temp'
    union all
    select c.verdict, c.detail, c.remedy from picture_queue._check_code() c
    union all
    select 'bad', format('role %s bypasses row level security', r.rolname), format('alter role %I nosuperuser nobypassrls;', r.rolname)
    from api_role a join pg_catalog.pg_roles r on r.rolname = a.name where r.rolsuper or r.rolbypassrls
    union all
    select 'bad', format('role %s has the privileges of service_role', r.rolname), format('revoke service_role from %I;', r.rolname)
    from api_role a join pg_catalog.pg_roles r on r.rolname = a.name
    join pg_catalog.pg_roles s on s.rolname = 'service_role'
    where not r.rolsuper and pg_has_role(r.oid, s.oid, 'member')
    union all
    select 'warn', format('policy %I on %s is not from picture-queue: users may see more than their own rows', p.polname, c.oid::regclass),
      format('drop policy %I on %s; -- unless it is intended', p.polname, c.oid::regclass)
    from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid
    where c.oid in ('public.job_queue'::regclass, 'public.generations'::regclass, 'public.images'::regclass)
      and p.polpermissive and p.polcmd in ('r', '*') and left(p.polname, 15) <> 'picture_queue: '
    union all
    -- Permissive policies are combined with OR, so a policy without a condition on the topic or bucket also opens our
    -- topics and buckets.
    select 'warn', format('policy %I on %s %s', p.polname, p.polrelid::regclass, o.effect),
      format('drop policy %I on %s; -- or add a condition on the %s', p.polname, p.polrelid::regclass, o."column")
    from (values
      ('realtime.messages', 'topic', 'topic', 'is for every topic: users may read or send events of others'),
      ('storage.objects', 'bucket_id', 'bucket_id|owner|foldername', 'is for every bucket: users may reach pictures of others')
    ) as o (table_name, "column", pattern, effect)
    join pg_catalog.pg_policy p on p.polrelid = to_regclass(o.table_name)
    where p.polpermissive and left(p.polname, 15) <> 'picture_queue: '
      and concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) !~ o.pattern
      and exists (select from unnest(p.polroles) u (role)
        left join pg_catalog.pg_roles r on r.oid = u.role where u.role = 0 or r.rolname in (select a.name from api_role a))
    union all
    select 'warn', format('no statement_timeout for the role %s', a.name), format('alter role %I set statement_timeout = ''8s'';', a.name)
    from api_role a join pg_catalog.pg_roles r on r.rolname = a.name
    where not exists (
      select from role_setting s
      where s.role in (a.name, 'authenticator') and s.setting ~ '^statement_timeout=' and s.setting !~ '^statement_timeout=0[a-z]*$')
    union all
    select 'warn', 'a user can have any number of running jobs', 'select public.set_limit(''user:*'', 4); -- or another number'
    where exists (select from public.generations g where g.user_id is not null)
      and not exists (select from picture_queue.limit_rule l where l.key like 'user:%' and l.max_running is not null)
    union all
    select 'warn', 'a user can start any number of generations',
      'select public.set_budget(''user:*'', ''{"per_minute": 20, "per_hour": 200, "max_pending": 50}'');'
    where exists (select from public.generations g where g.user_id is not null)
      and not exists (select from picture_queue.budget b where b.key = 'user:*' and num_nonnulls(b.per_minute, b.per_hour) > 0)
  )
  select p.verdict, p.detail, p.remedy from problem p order by p.verdict, p.detail
$$;


-- 600_trigger_updated_at.sql

create function picture_queue._set_updated_at() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  new.updated_at := picture_queue._now();
  return new;
end
$$;

-- The functions of picture-queue set updated_at themselves, since a call of this trigger function for each row takes a
-- quarter of the time of the update.
create trigger job_queue_updated_at before update on public.job_queue
for each row when (new.updated_at = old.updated_at) execute function picture_queue._set_updated_at();


-- 700_data_models.sql

-- Written by scripts/build_migration.py from picture_queue/providers/replicate/models.json.
insert into picture_queue.model
  (model_id, kind, also_kinds, official, version, typical_seconds, price_usd_per_image,
   max_outputs_param, output, progress_in_logs, inputs, inputs_complete, unavailable_reason)
select m.id, m.kind, m.also_kinds, m.official, m.version, m.typical_seconds, m.price_usd_per_image,
  m.max_outputs_param, m.output, m.progress_in_logs, m.inputs, m.inputs_complete,
  m.unavailable_reason
from jsonb_to_recordset($models$
[
{"id": "black-forest-labs/flux-schnell", "kind": "text-to-image", "also_kinds": [], "official": true, "version": "bf53bdb93d739c9c915091cfa5f49ca662d11273a5eb30e7a2ec1939bcf27a00", "typical_seconds": 0.8, "price_usd_per_image": 0.003, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 4, "minimum": 1, "maximum": 4}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "megapixels", "type": "string", "required": false, "default": "1", "enum": ["1", "0.25"]}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "black-forest-labs/flux-dev", "kind": "text-to-image", "also_kinds": ["image-variation"], "official": true, "version": "0cce3d40843963ebc7b6d976778e977c8f3ae3d0980a37cb5204f8fa0289e3d2", "typical_seconds": 3.2, "price_usd_per_image": 0.025, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 28, "minimum": 1, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 0, "maximum": 10}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "megapixels", "type": "string", "required": false, "default": "1", "enum": ["1", "0.25"]}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "black-forest-labs/flux-pro", "kind": "text-to-image", "also_kinds": [], "official": true, "version": "caf8d6bf110808c53bb90767ea81e1bbd0f0690ba37a4a24b27b17e2f9a5c011", "typical_seconds": 14.1, "price_usd_per_image": 0.055, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "2:3", "3:2", "4:5", "5:4", "9:16"]}, {"name": "steps", "type": "integer", "required": false, "default": 25, "minimum": 1, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 2, "maximum": 5}, {"name": "interval", "type": "number", "required": false, "default": 2, "minimum": 1, "maximum": 4}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 5}, {"name": "seed", "type": "integer", "required": false}], "inputs_complete": false, "output": "uri", "progress_in_logs": "empty"},
{"id": "black-forest-labs/flux-1.1-pro", "kind": "text-to-image", "also_kinds": [], "official": true, "version": "96ccd0e758a1796926584ded2246369cdf8eb3d7c34475cf9c442be5e097d926", "typical_seconds": 8.7, "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_prompt", "type": "string", "format": "uri", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]}, {"name": "width", "type": "integer", "required": false, "minimum": 256, "maximum": 1440}, {"name": "height", "type": "integer", "required": false, "minimum": 256, "maximum": 1440}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 6}, {"name": "seed", "type": "integer", "required": false}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-1.1-pro-ultra", "kind": "text-to-image", "also_kinds": [], "official": true, "price_usd_per_image": 0.06, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "raw", "type": "boolean", "required": false, "default": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 6}, {"name": "image_prompt", "type": "string", "format": "uri", "required": false}, {"name": "image_prompt_strength", "type": "number", "required": false, "default": 0.1, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}], "inputs_complete": true, "output": "uri"},
{"id": "black-forest-labs/flux-kontext-pro", "kind": "image-edit", "also_kinds": ["text-to-image"], "official": true, "version": "0a1381936934845a14efcc9f309ce7d031cb905867878b5c5830280e00e97606", "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_image", "type": "string", "format": "uri", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image", "enum": ["match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["jpg", "png"]}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 0, "maximum": 6}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri"},
{"id": "black-forest-labs/flux-kontext-max", "kind": "image-edit", "also_kinds": ["text-to-image"], "official": true, "version": "b94039e52f5065899a5f50cc69186801e28d63c74b0a3dafc22ea93bbdf4c36c", "price_usd_per_image": 0.08, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_image", "type": "string", "format": "uri", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image", "enum": ["match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["jpg", "png"]}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 0, "maximum": 6}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri"},
{"id": "black-forest-labs/flux-kontext-dev", "kind": "image-edit", "also_kinds": [], "version": "a1408d2c4fd0af9bf22673accc5c066780fb26f50c70564eddf568601969aee8", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_image", "type": "string", "format": "uri", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image"}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 30, "minimum": 4, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 2.5, "minimum": 0, "maximum": 10}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri"},
{"id": "black-forest-labs/flux-2-pro", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "f558a59a8bf126d892ab219846966674f6acc616940c17841aeb242e245952ff", "typical_seconds": 5.6, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_images", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["match_input_image", "custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "1 MP", "enum": ["match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP"]}, {"name": "width", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "height", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 5}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-2-max", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "9c23b0aaa98765a9676dbdda58b9c9915627751300747bad54cb1c11b135d3ca", "typical_seconds": 30.8, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_images", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["match_input_image", "custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "1 MP", "enum": ["match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP"]}, {"name": "width", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "height", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 5}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-2-klein-9b", "kind": "text-to-image", "also_kinds": ["image-edit"], "version": "963f7b2c4aa2bc7e6377b95759dcf3a21cf175f6e8b0d8c1efe7bf6c8a23b690", "typical_seconds": 0.7, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "images", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "9:16", "3:2", "2:3", "4:3", "3:4", "5:4", "4:5", "21:9", "9:21", "match_input_image"]}, {"name": "megapixels", "type": "string", "required": false, "default": "1", "enum": ["0.25", "0.5", "1", "2", "4"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 95, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-redux-dev", "kind": "image-variation", "also_kinds": [], "official": true, "version": "96b56814e57dfa601f3f524f82a2b336ef49012cda68828cb37cde66f481b7cb", "price_usd_per_image": 0.025, "max_outputs_param": "num_outputs", "inputs": [{"name": "redux_image", "type": "string", "format": "uri", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 28, "minimum": 1, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 0, "maximum": 10}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}, {"name": "megapixels", "type": "string", "required": false, "default": "1"}], "inputs_complete": true, "output": "uri[]"},
{"id": "black-forest-labs/flux-fill-pro", "kind": "image-edit", "also_kinds": [], "official": true, "version": "9609ba7331ed872c99f81c92c69a9ee52a50d8aba99f636173e0674d997efd0c", "price_usd_per_image": 0.05, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "outpaint", "type": "string", "required": false, "default": "None", "enum": ["None", "Zoom out 1.5x", "Zoom out 2x", "Make square", "Left outpaint", "Right outpaint", "Top outpaint", "Bottom outpaint"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "steps", "type": "integer", "required": false, "default": 50, "minimum": 1, "maximum": 50}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 2, "maximum": 5}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 6}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}], "inputs_complete": true, "output": "uri"},
{"id": "stability-ai/sdxl", "kind": "text-to-image", "also_kinds": ["image-variation", "image-edit"], "official": false, "version": "7762fd07cf82c948538e41f63f77d685e02b063e37e496e96eefd46c929f9bdc", "typical_seconds": 5.0, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "An astronaut riding a rainbow unicorn"}, {"name": "negative_prompt", "type": "string", "required": false, "default": ""}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "width", "type": "integer", "required": false, "default": 1024}, {"name": "height", "type": "integer", "required": false, "default": 1024}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "scheduler", "type": "string", "required": false, "default": "K_EULER", "enum": ["DDIM", "DPMSolverMultistep", "HeunDiscrete", "KarrasDPM", "K_EULER_ANCESTRAL", "K_EULER", "PNDM"]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 50, "minimum": 1, "maximum": 500}, {"name": "guidance_scale", "type": "number", "required": false, "default": 7.5, "minimum": 1, "maximum": 50}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}, {"name": "refine", "type": "string", "required": false, "default": "no_refiner", "enum": ["no_refiner", "expert_ensemble_refiner", "base_image_refiner"]}, {"name": "high_noise_frac", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}, {"name": "refine_steps", "type": "integer", "required": false}, {"name": "apply_watermark", "type": "boolean", "required": false, "default": true}, {"name": "lora_scale", "type": "number", "required": false, "default": 0.6, "minimum": 0, "maximum": 1}, {"name": "replicate_weights", "type": "string", "required": false}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "stability-ai/stable-diffusion-3.5-large", "kind": "text-to-image", "also_kinds": ["image-variation"], "official": true, "version": "feb36d70a9f2791ed9df99f795ea5684da18f52b5f6b488dfdef635ca19d6bd3", "price_usd_per_image": 0.065, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "cfg", "type": "number", "required": false, "default": 5, "minimum": 1, "maximum": 10}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}], "inputs_complete": true, "output": "uri"},
{"id": "stability-ai/stable-diffusion-3.5-medium", "kind": "text-to-image", "also_kinds": ["image-variation"], "official": true, "version": "1323a3a68cbf2b58c708f38fba9557e39d68a77cb287a8d7372ba0443f6f0767", "price_usd_per_image": 0.035, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "cfg", "type": "number", "required": false, "default": 5, "minimum": 1, "maximum": 10}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}], "inputs_complete": true, "output": "uri"},
{"id": "stability-ai/stable-diffusion-3.5-large-turbo", "kind": "text-to-image", "also_kinds": [], "official": true, "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "cfg", "type": "number", "required": false, "default": 1}, {"name": "steps", "type": "integer", "required": false, "default": 4, "minimum": 1, "maximum": 10}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}, {"name": "output_quality", "type": "integer", "required": false, "default": 90, "maximum": 100}], "inputs_complete": false},
{"id": "stability-ai/stable-diffusion-3", "kind": "text-to-image", "also_kinds": ["image-variation"], "version": "527d2a6296facb8e47ba1eaf17f142c240c19a30894f437feee9b91cc29d8e4f", "typical_seconds": 2.8, "inputs": [{"name": "prompt", "type": "string", "required": false, "default": ""}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "9:16", "9:21"]}, {"name": "cfg", "type": "number", "required": false, "default": 3.5, "minimum": 0, "maximum": 20}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "steps", "type": "integer", "required": false, "default": 28, "minimum": 1, "maximum": 28}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 90, "minimum": 0, "maximum": 100}, {"name": "seed", "type": "integer", "required": false}, {"name": "negative_prompt", "type": "string", "required": false, "default": ""}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "bytedance/sdxl-lightning-4step", "kind": "text-to-image", "also_kinds": [], "official": false, "version": "5599ed30703defd1d160a25a63321b4dec97101d98b4674bcc56e41f62f35637", "typical_seconds": 0.9, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "self-portrait of a woman, lightning in the background"}, {"name": "negative_prompt", "type": "string", "required": false, "default": "worst quality, low quality"}, {"name": "width", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 1280}, {"name": "height", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 1280}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "scheduler", "type": "string", "required": false, "default": "K_EULER", "enum": ["DDIM", "DPMSolverMultistep", "HeunDiscrete", "KarrasDPM", "K_EULER_ANCESTRAL", "K_EULER", "PNDM", "DPM++2MSDE"]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 4, "minimum": 1, "maximum": 10}, {"name": "guidance_scale", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 50}, {"name": "seed", "type": "integer", "required": false}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "ideogram-ai/ideogram-v2", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "d07f7f3ad03f2ec100edeaa91e26ac731d7d00ec369e6a475b80c04bd1101d5d", "typical_seconds": 19.6, "price_usd_per_image": 0.08, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "16:10", "10:16", "3:1", "1:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1024", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "720x1280", "736x1312", "768x1024", "768x1088", "768x1152", "768x1216", "768x1232", "768x1280", "768x1344", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x640", "1024x768", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x768", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1232x768", "1248x832", "1280x704", "1280x720", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design", "Render 3D", "Anime"]}, {"name": "seed", "type": "integer", "required": false}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "ideogram-ai/ideogram-v2-turbo", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "fbb188a06a69327a5daa9d82162b31528823d918705aefeeebd17856f856cfac", "typical_seconds": 12.4, "price_usd_per_image": 0.05, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "16:10", "10:16", "3:1", "1:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1024", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "720x1280", "736x1312", "768x1024", "768x1088", "768x1152", "768x1216", "768x1232", "768x1280", "768x1344", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x640", "1024x768", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x768", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1232x768", "1248x832", "1280x704", "1280x720", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design", "Render 3D", "Anime"]}, {"name": "seed", "type": "integer", "required": false}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "ideogram-ai/ideogram-v3-turbo", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "typical_seconds": 6.1, "price_usd_per_image": 0.03, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:3", "3:1", "1:2", "2:1", "9:16", "16:9", "10:16", "16:10", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "1:1"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design"]}, {"name": "style_reference_images", "type": "array", "format": "uri", "required": false}, {"name": "style_preset", "type": "string", "required": false, "default": "None"}, {"name": "seed", "type": "integer", "required": false, "maximum": 2147483647}], "inputs_complete": false},
{"id": "ideogram-ai/ideogram-v3-balanced", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "price_usd_per_image": 0.06, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:3", "3:1", "1:2", "2:1", "9:16", "16:9", "10:16", "16:10", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "1:1"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design"]}, {"name": "style_reference_images", "type": "array", "format": "uri", "required": false}, {"name": "style_preset", "type": "string", "required": false, "default": "None"}, {"name": "seed", "type": "integer", "required": false, "maximum": 2147483647}], "inputs_complete": false},
{"id": "ideogram-ai/ideogram-v3-quality", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "03944eb99122997251eaa29263ada2fbc2cc943ccd8c27d3c8af453acde737c8", "price_usd_per_image": 0.09, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:3", "3:1", "1:2", "2:1", "9:16", "16:9", "10:16", "16:10", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "1:1"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design"]}, {"name": "style_reference_images", "type": "array", "format": "uri", "required": false}, {"name": "style_preset", "type": "string", "required": false, "default": "None"}, {"name": "seed", "type": "integer", "required": false, "maximum": 2147483647}], "inputs_complete": true},
{"id": "recraft-ai/recraft-v3", "kind": "text-to-image", "also_kinds": [], "official": true, "version": "e06217725b21e2c059a09b3f44b4aef56574173aee9976c9726bdc0f474d7f46", "typical_seconds": 8.8, "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "size", "type": "string", "required": false, "default": "1024x1024", "enum": ["1024x1024", "1365x1024", "1024x1365", "1536x1024", "1024x1536", "1820x1024", "1024x1820", "1024x2048", "2048x1024", "1434x1024", "1024x1434", "1024x1280", "1280x1024", "1024x1707", "1707x1024"]}, {"name": "style", "type": "string", "required": false, "default": "any", "enum": ["any", "realistic_image", "digital_illustration", "digital_illustration/pixel_art", "digital_illustration/hand_drawn", "digital_illustration/grain", "digital_illustration/infantile_sketch", "digital_illustration/2d_art_poster", "digital_illustration/handmade_3d", "digital_illustration/hand_drawn_outline", "digital_illustration/engraving_color", "digital_illustration/2d_art_poster_2", "realistic_image/b_and_w", "realistic_image/hard_flash", "realistic_image/hdr", "realistic_image/natural_light", "realistic_image/studio_portrait", "realistic_image/enterprise", "realistic_image/motion_blur"]}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "Not set"}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "recraft-ai/recraft-v3-svg", "kind": "vector", "also_kinds": [], "official": true, "price_usd_per_image": 0.08, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "size", "type": "string", "required": false, "default": "1024x1024"}, {"name": "style", "type": "string", "required": false, "default": "any"}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "Not set"}], "inputs_complete": true, "output": "uri"},
{"id": "recraft-ai/recraft-crisp-upscale", "kind": "upscale", "also_kinds": [], "official": true, "version": "31c70d9026bbd25ee2b751825e19101e0321b8814c33863c88fe5d0d63c00c82", "price_usd_per_image": 0.006, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "inputs_complete": true, "output": "uri"},
{"id": "recraft-ai/recraft-vectorize", "kind": "vector", "also_kinds": [], "version": "9f71824b45b71f56b576b97149c314989cfabf90b08f0506ffcdc9fa62beb05d", "typical_seconds": 6.7, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "recraft-ai/recraft-v4", "kind": "text-to-image", "also_kinds": [], "version": "7f7d8cad0d7b7af205a2b46a4031f8c7084a9857609b9547a9f3c044afe64212", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "Not set"}, {"name": "size", "type": "string", "required": false, "default": "1024x1024"}], "inputs_complete": true, "output": "uri"},
{"id": "google/imagen-4", "kind": "text-to-image", "also_kinds": [], "official": true, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "9:16", "16:9", "3:4", "4:3"]}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}], "inputs_complete": true, "output": "uri"},
{"id": "google/imagen-4-fast", "kind": "text-to-image", "also_kinds": [], "official": true, "price_usd_per_image": 0.02, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "9:16", "16:9", "3:4", "4:3"]}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}], "inputs_complete": true, "output": "uri"},
{"id": "google/imagen-4-ultra", "kind": "text-to-image", "also_kinds": [], "official": true, "version": "eb08b03f79ebc3d4b2542baacca07cc1e0729d24ed1730945555409f0ee30e1a", "price_usd_per_image": 0.06, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "9:16", "16:9", "3:4", "4:3"]}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}], "inputs_complete": true, "output": "uri"},
{"id": "google/nano-banana", "kind": "image-edit", "also_kinds": ["text-to-image"], "official": true, "version": "adfd722f0c8b5abd782eac022a625a14fb812951de19618dfc4979f6651a00b4", "typical_seconds": 10.5, "price_usd_per_image": 0.039, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_input", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}, {"name": "aspect_ratio", "type": "string", "required": false, "enum": ["match_input_image", "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"]}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "google/nano-banana-pro", "kind": "image-edit", "also_kinds": ["text-to-image"], "official": true, "version": "f5318740f60d79bf0c480216aaf9ca7614977553170eacd19ff8cbcda2409ac8", "price_usd_per_image": 0.15, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_input", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image"}, {"name": "resolution", "type": "string", "required": false, "default": "2K", "enum": ["1K", "2K", "4K"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}], "inputs_complete": true, "output": "uri"},
{"id": "bytedance/seedream-3", "kind": "text-to-image", "also_kinds": [], "version": "9b49a0d87ee348c6c53783fc231dbdd65b13d8f90c95d8bd285d06eb745ccfb5", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "seed", "type": "integer", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "16:9"}, {"name": "size", "type": "string", "required": false, "default": "regular", "enum": ["small", "regular", "big"]}, {"name": "width", "type": "integer", "required": false, "default": 2048, "minimum": 512, "maximum": 2048}, {"name": "height", "type": "integer", "required": false, "default": 2048, "minimum": 512, "maximum": 2048}, {"name": "guidance_scale", "type": "number", "required": false, "default": 2.5, "minimum": 1, "maximum": 10}], "inputs_complete": true, "output": "uri"},
{"id": "bytedance/seedream-4", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "3ee3b70df63b39e425ccb0188d3c14961177c11fa20516d9dfd30a868b41b2d5", "typical_seconds": 14.4, "price_usd_per_image": 0.03, "max_outputs_param": "max_images", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_input", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "size", "type": "string", "required": false, "default": "2K", "enum": ["1K", "2K", "4K", "custom"]}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image", "enum": ["match_input_image", "1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3", "21:9"]}, {"name": "width", "type": "integer", "required": false, "default": 2048, "minimum": 1024, "maximum": 4096}, {"name": "height", "type": "integer", "required": false, "default": 2048, "minimum": 1024, "maximum": 4096}, {"name": "sequential_image_generation", "type": "string", "required": false, "default": "disabled", "enum": ["disabled", "auto"]}, {"name": "max_images", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 15}, {"name": "enhance_prompt", "type": "boolean", "required": false, "default": true}], "inputs_complete": true, "output": "uri[]"},
{"id": "qwen/qwen-image", "kind": "text-to-image", "also_kinds": ["image-variation"], "official": true, "price_usd_per_image": 0.025, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "seed", "type": "integer", "required": false}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 0, "maximum": 10}, {"name": "strength", "type": "number", "required": false, "default": 0.9, "minimum": 0, "maximum": 1}, {"name": "image_size", "type": "string", "required": false, "default": "optimize_for_quality", "enum": ["optimize_for_quality", "optimize_for_speed"]}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "16:9", "enum": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"]}, {"name": "lora_weights", "type": "string", "required": false}, {"name": "lora_scale", "type": "number", "required": false, "default": 1}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "enhance_prompt", "type": "boolean", "required": false, "default": false}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 50}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "inputs_complete": false, "output": "uri[]"},
{"id": "openai/gpt-image-1", "kind": "text-to-image", "also_kinds": ["image-edit"], "official": true, "version": "a6198aeaea27df5f3a9f11335cd61b2031729f9527cd34e6cdb4bb3ee9355b87", "typical_seconds": 45.9, "max_outputs_param": "number_of_images", "inputs": [{"name": "openai_api_key", "type": "string", "required": true}, {"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "3:2", "2:3"]}, {"name": "input_fidelity", "type": "string", "required": false, "default": "low", "enum": ["low", "high"]}, {"name": "input_images", "type": "array", "format": "uri", "required": false}, {"name": "number_of_images", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 10}, {"name": "quality", "type": "string", "required": false, "default": "auto", "enum": ["low", "medium", "high", "auto"]}, {"name": "background", "type": "string", "required": false, "default": "auto", "enum": ["auto", "transparent", "opaque"]}, {"name": "output_compression", "type": "integer", "required": false, "default": 90, "minimum": 0, "maximum": 100}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["png", "jpeg", "webp"]}, {"name": "moderation", "type": "string", "required": false, "default": "auto", "enum": ["auto", "low"]}, {"name": "user_id", "type": "string", "required": false}], "inputs_complete": true, "output": "uri[]", "unavailable_reason": "it requires an OpenAI key as an input, and inputs are stored with the generation"},
{"id": "minimax/image-01", "kind": "text-to-image", "also_kinds": [], "official": true, "version": "928f3bd6ac899108d0ab8cf7f91dfa39a03eda0175e94c9b4cd075776dececf0", "typical_seconds": 30.5, "price_usd_per_image": 0.01, "max_outputs_param": "number_of_images", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "4:3", "3:2", "2:3", "3:4", "9:16", "21:9"]}, {"name": "number_of_images", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 9}, {"name": "prompt_optimizer", "type": "boolean", "required": false, "default": true}, {"name": "subject_reference", "type": "string", "format": "uri", "required": false}], "inputs_complete": true, "output": "uri[]"},
{"id": "luma/photon", "kind": "text-to-image", "also_kinds": ["image-variation"], "official": true, "version": "fe142c037cf359764f2058c3a42ef0dc750d908311d02868cbc7769fe800b648", "price_usd_per_image": 0.03, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "16:9", "enum": ["1:1", "3:4", "4:3", "9:16", "16:9", "9:21", "21:9"]}, {"name": "image_reference_url", "type": "string", "format": "uri", "required": false}, {"name": "image_reference_weight", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "style_reference_url", "type": "string", "format": "uri", "required": false}, {"name": "style_reference_weight", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "character_reference_url", "type": "string", "format": "uri", "required": false}, {"name": "seed", "type": "integer", "required": false}], "inputs_complete": true, "output": "uri"},
{"id": "nvidia/sana-sprint-1.6b", "kind": "text-to-image", "also_kinds": [], "version": "6ed1ce77cdc8db65550e76d5ab82556d0cb31ac8ab3c4947b168a0bda7b962e4", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "width", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 4096}, {"name": "height", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 4096}, {"name": "inference_steps", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 4}, {"name": "intermediate_timesteps", "type": "number", "required": false, "default": 1.3, "minimum": 0.5, "maximum": 1.5}, {"name": "guidance_scale", "type": "number", "required": false, "default": 4.5, "minimum": 1, "maximum": 20}, {"name": "seed", "type": "integer", "required": false, "default": -1}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "inputs_complete": true, "output": "uri"},
{"id": "nvidia/sana", "kind": "text-to-image", "also_kinds": [], "official": false, "typical_seconds": 7, "price_usd_per_image": 0.0097, "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "a cyberpunk cat with a neon sign that says \"Sana\""}, {"name": "negative_prompt", "type": "string", "required": false, "default": ""}, {"name": "model_variant", "type": "string", "required": false, "default": "1600M-1024px"}, {"name": "width", "type": "integer", "required": false, "default": 1024}, {"name": "height", "type": "integer", "required": false, "default": 1024}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 18, "minimum": 1}, {"name": "guidance_scale", "type": "number", "required": false, "default": 5, "minimum": 1, "maximum": 20}, {"name": "pag_guidance_scale", "type": "number", "required": false, "default": 2, "minimum": 1, "maximum": 20}, {"name": "seed", "type": "integer", "required": false}], "inputs_complete": false},
{"id": "ai-forever/kandinsky-2.2", "kind": "text-to-image", "also_kinds": [], "version": "ad9d7879fbffa2874e1d909d1d37d9bc682889cc65b31f7bb00d2362619f194a", "typical_seconds": 9.0, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "A moss covered astronaut with a black background"}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "width", "type": "integer", "required": false, "default": 512, "enum": [384, 512, 576, 640, 704, 768, 960, 1024, 1152, 1280, 1536, 1792, 2048]}, {"name": "height", "type": "integer", "required": false, "default": 512, "enum": [384, 512, 576, 640, 704, 768, 960, 1024, 1152, 1280, 1536, 1792, 2048]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 75, "minimum": 1, "maximum": 500}, {"name": "num_inference_steps_prior", "type": "integer", "required": false, "default": 25, "minimum": 1, "maximum": 500}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpeg", "png"]}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "nightmareai/real-esrgan", "kind": "upscale", "also_kinds": [], "version": "f121d640bd286e1fdc67f9799164c1d5be36ff74576ee11c803ae5b665dd46aa", "price_usd_per_image": 0.002, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "scale", "type": "number", "required": false, "default": 4, "minimum": 0, "maximum": 10}, {"name": "face_enhance", "type": "boolean", "required": false, "default": false}], "inputs_complete": true, "output": "uri"},
{"id": "philz1337x/clarity-upscaler", "kind": "upscale", "also_kinds": [], "official": false, "version": "dfad41707589d68ecdccd1dfa600d55a208f9310748e44bfe35b4a6291453d5e", "typical_seconds": 12.8, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "prompt", "type": "string", "required": false, "default": "masterpiece, best quality, highres, <lora:more_details:0.5> <lora:SDXLrender_v2.0:1>"}, {"name": "negative_prompt", "type": "string", "required": false, "default": "(worst quality, low quality, normal quality:2) JuggernautNegative-neg"}, {"name": "scale_factor", "type": "number", "required": false, "default": 2}, {"name": "dynamic", "type": "number", "required": false, "default": 6, "minimum": 1, "maximum": 50}, {"name": "creativity", "type": "number", "required": false, "default": 0.35, "minimum": 0, "maximum": 1}, {"name": "resemblance", "type": "number", "required": false, "default": 0.6, "minimum": 0, "maximum": 3}, {"name": "tiling_width", "type": "integer", "required": false, "default": 112, "enum": [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256]}, {"name": "tiling_height", "type": "integer", "required": false, "default": 144, "enum": [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256]}, {"name": "sd_model", "type": "string", "required": false, "default": "juggernaut_reborn.safetensors [338b85bc4f]", "enum": ["epicrealism_naturalSinRC1VAE.safetensors [84d76a0328]", "juggernaut_reborn.safetensors [338b85bc4f]", "flat2DAnimerge_v45Sharp.safetensors"]}, {"name": "scheduler", "type": "string", "required": false, "default": "DPM++ 3M SDE Karras", "enum": ["DPM++ 2M Karras", "DPM++ SDE Karras", "DPM++ 2M SDE Exponential", "DPM++ 2M SDE Karras", "Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun Karras", "DPM++ 2M SDE Heun Exponential", "DPM++ 3M SDE", "DPM++ 3M SDE Karras", "DPM++ 3M SDE Exponential", "DPM fast", "DPM adaptive", "LMS Karras", "DPM2 Karras", "DPM2 a Karras", "DPM++ 2S a Karras", "Restart", "DDIM", "PLMS", "UniPC"]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 18, "minimum": 1, "maximum": 100}, {"name": "seed", "type": "integer", "required": false, "default": 1337}, {"name": "downscaling", "type": "boolean", "required": false, "default": false}, {"name": "downscaling_resolution", "type": "integer", "required": false, "default": 768}, {"name": "lora_links", "type": "string", "required": false, "default": ""}, {"name": "custom_sd_model", "type": "string", "required": false, "default": ""}, {"name": "sharpen", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 10}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "handfix", "type": "string", "required": false, "default": "disabled", "enum": ["disabled", "hands_only", "image_and_hands"]}, {"name": "pattern", "type": "boolean", "required": false, "default": false}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["webp", "jpg", "png"]}], "inputs_complete": true, "output": "uri[]", "progress_in_logs": "percent"},
{"id": "philz1337x/crystal-upscaler", "kind": "upscale", "also_kinds": [], "official": true, "version": "5d917b1444c89ed91055f3052d27e1ad433a1218599a36544510e1dfa9ac26c8", "typical_seconds": 12.0, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "scale_factor", "type": "number", "required": false, "default": 2}, {"name": "creativity", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 10}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["png", "jpg"]}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "topazlabs/image-upscale", "kind": "upscale", "also_kinds": [], "version": "2fdc3b86a01d338ae89ad58e5d9241398a8a01de9b0dda41ba8a0434c8a00dc3", "typical_seconds": 12.8, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "enhance_model", "type": "string", "required": false, "default": "Standard V2", "enum": ["Standard V2", "Low Resolution V2", "CGI", "High Fidelity V2", "Text Refine"]}, {"name": "upscale_factor", "type": "string", "required": false, "default": "None", "enum": ["None", "2x", "4x", "6x"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}, {"name": "subject_detection", "type": "string", "required": false, "default": "None", "enum": ["None", "All", "Foreground", "Background"]}, {"name": "face_enhancement", "type": "boolean", "required": false, "default": false}, {"name": "face_enhancement_creativity", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 1}, {"name": "face_enhancement_strength", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "tencentarc/gfpgan", "kind": "upscale", "also_kinds": [], "version": "0fbacf7afc6c144e5be9767cff80f25aff23e52b0708f17e20f9879b2f21516c", "typical_seconds": 1.7, "inputs": [{"name": "img", "type": "string", "format": "uri", "required": true}, {"name": "version", "type": "string", "required": false, "default": "v1.4", "enum": ["v1.2", "v1.3", "v1.4", "RestoreFormer"]}, {"name": "scale", "type": "number", "required": false, "default": 2}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "sczhou/codeformer", "kind": "upscale", "also_kinds": [], "version": "cc4956dd26fa5a7185d5660cc9100fab1b8070a1d1654a8bb5eb6d443b020bb2", "typical_seconds": 21.3, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "codeformer_fidelity", "type": "number", "required": false, "default": 0.5, "minimum": 0, "maximum": 1}, {"name": "background_enhance", "type": "boolean", "required": false, "default": true}, {"name": "face_upsample", "type": "boolean", "required": false, "default": true}, {"name": "upscale", "type": "integer", "required": false, "default": 2}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"},
{"id": "851-labs/background-remover", "kind": "background-removal", "also_kinds": [], "official": false, "version": "a029dff38972b5fda4ec5d75d7d1cd25aeff621d2cf4946a41055d7db66b80bc", "typical_seconds": 2, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "threshold", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 1}, {"name": "reverse", "type": "boolean", "required": false, "default": false}, {"name": "background_type", "type": "string", "required": false, "default": "rgba"}, {"name": "format", "type": "string", "required": false, "default": "png"}], "inputs_complete": true, "output": "uri"},
{"id": "lucataco/remove-bg", "kind": "background-removal", "also_kinds": [], "official": false, "version": "95fcc2a26d3899cd6c2691c900465aaeff466285a65c14638cc5f36f34befaf1", "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "inputs_complete": true, "output": "uri"},
{"id": "smoretalk/rembg-enhance", "kind": "background-removal", "also_kinds": [], "version": "4067ee2a58f6c161d434a9c077cfa012820b8e076efa2772aa171e26557da919", "typical_seconds": 14.6, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "inputs_complete": true, "output": "uri", "progress_in_logs": "text"}
]
$models$) as m (id text, kind text, also_kinds jsonb, official boolean, version text,
  typical_seconds real, price_usd_per_image numeric, max_outputs_param text, output text,
  progress_in_logs text, inputs jsonb, inputs_complete boolean, unavailable_reason text);


-- 710_data_input_rules.sql

-- The default input rules. Users cannot turn off safety checks, load their own weights, or set secrets and the URLs of
-- webhooks. Numbers of pictures, sizes and steps have a highest value (cap), which limits the cost of a generation.
insert into picture_queue.input_rule (model, input, action, value)
values
  ('*', 'disable_safety*', 'lock', 'false'),
  ('*', 'enable_safety*', 'lock', 'true'),
  ('*', 'safety_checker', 'lock', 'true'),
  ('*', 'safety_tolerance', 'cap', '2'),
  ('*', 'safety_filter_level', 'lock', '"block_medium_and_above"'),
  ('*', 'moderation', 'lock', '"auto"'),
  ('*', '*lora*', 'refuse', null),
  ('*', '*_weights', 'refuse', null),
  ('*', 'custom_sd_model', 'refuse', null),
  ('*', 'webhook*', 'refuse', null),
  ('*', '*api_key', 'refuse', null),
  ('*', '*_token', 'refuse', null),
  ('*', 'num_outputs', 'cap', '4'),
  ('*', 'num_images', 'cap', '4'),
  ('*', 'number_of_images', 'cap', '4'),
  ('*', 'max_images', 'cap', '4'),
  ('*', 'width', 'cap', '2048'),
  ('*', 'height', 'cap', '2048'),
  ('bytedance/seedream-4', 'width', 'cap', '4096'),
  ('bytedance/seedream-4', 'height', 'cap', '4096'),
  ('*', 'downscaling_resolution', 'cap', '2048'),
  ('*', 'steps', 'cap', '100'),
  ('*', '*_steps', 'cap', '100'),
  ('*', '*_steps_prior', 'cap', '100'),
  ('*', 'scale', 'cap', '4'),
  ('*', 'scale_factor', 'cap', '4'),
  ('*', 'upscale', 'cap', '4'),
  ('*', 'image_input', 'cap', '14'),
  ('*', 'images', 'cap', '10'),
  ('*', '*_images', 'cap', '10');


-- 800_policies.sql

-- Users can read their own rows and write none: functions make all changes.
create policy "picture_queue: read own jobs" on public.job_queue
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "picture_queue: read own generations" on public.generations
  for select to authenticated using ((select auth.uid()) = user_id and not deleted);
create policy "picture_queue: read own images" on public.images
  for select to authenticated using ((select auth.uid()) = user_id and not deleted);


-- 900_grants.sql

-- All privileges are explicit, since the default privileges of new objects differ: old projects grant everything to
-- the API roles, new projects grant nothing, a project may grant anything to its own roles, and Postgres lets every
-- role execute a new function.
select picture_queue._revoke_grants();
-- Service keys may execute each function of the API. Other roles may execute only the functions that are granted
-- below.
do $$
declare
  v_function text;
begin
  foreach v_function in array '{
    enqueue_job, enqueue_jobs, claim_next_job, claim_jobs, heartbeat_jobs, report_progress, report_jobs,
    complete_job, cancel_job, retry_job, get_job, list_jobs, get_generation, list_generations,
    register_worker, unregister_worker, picture_queue_version, start_generation, cancel_generation,
    start_generations, generation_batch, cancel_generation_batch,
    delete_generation, set_favourite, list_deleted_generations, record_deleted_files,
    list_models, set_model, set_input_rule, delete_input_rule, list_input_rules, begin_prediction, record_prediction,
    finish_prediction, receive_prediction, save_images, queue_status,
    set_setting, get_settings, set_queue, list_queues, pause_queue, resume_queue, drain_queue, purge_queue,
    set_limit, delete_limit, list_limits, pause_key, resume_key, set_tenant, list_tenants, enqueue_batch,
    get_batch, send_event, log_job, get_job_history, set_schedule, delete_schedule, pause_schedule,
    resume_schedule, run_schedule, list_schedules, change_jobs, failure_reasons, queue_counts,
    desired_workers, maintain_jobs, queue_doctor, job_position, explain_jobs, get_account, list_accounts, set_account,
    grant_credits, set_budget, list_budgets, delete_budget, list_ledger}'::text[]
  loop
    execute format('grant execute on function public.%I to service_role', v_function);
  end loop;
end
$$;

grant usage on schema picture_queue to authenticated, service_role;

-- For owners, through row level security, and for service keys.
grant select on public.job_queue, public.generations, public.images to authenticated, service_role;
grant execute on function
  public.cancel_job, public.get_job, public.list_jobs, public.get_generation, public.list_generations,
  public.picture_queue_version, public.start_generation, public.cancel_generation, public.list_models,
  public.start_generations, public.generation_batch, public.cancel_generation_batch,
  public.job_position, public.explain_jobs, public.get_account, public.delete_generation, public.set_favourite
  to authenticated, service_role;
-- Private functions that the functions above call with the privileges of the caller. They take the identity of the
-- caller from the token.
grant execute on function
  picture_queue.cancel_job, picture_queue.may_upload, picture_queue.may_read_picture, picture_queue.start_generation,
  picture_queue.start_generations, picture_queue.cancel_generation_batch,
  picture_queue.list_models, picture_queue.version,
  picture_queue.job_position, picture_queue.explain_jobs, picture_queue.get_account,
  picture_queue.delete_generation, picture_queue.set_favourite, picture_queue.search_generations,
  picture_queue._generation_filter,
  picture_queue._raise_error, picture_queue._require,
  picture_queue._jobs_where, picture_queue._filter_condition, picture_queue._reason,
  picture_queue._with_images, picture_queue._check_fields, picture_queue._fields_problem, picture_queue._value_problem
  to authenticated, service_role;

-- For service keys only.
grant select on public.queue_health, public.failed_jobs_recent, public.stuck_jobs to service_role;
grant select on picture_queue.queue, picture_queue.worker to service_role;
grant execute on function picture_queue.maintain, picture_queue.prune, picture_queue.counts to service_role;


-- 950_supabase_realtime.sql

-- If Realtime is installed, _broadcast writes the events to realtime.messages with one insert, and the server of
-- Realtime sends them after the commit. An error becomes a warning, since an event is only a hint: a failure must not
-- undo the change that the event announces. For the same reason the insert waits only briefly for a lock on the table.
--
-- When a user joins a topic, Realtime sets realtime.topic, inserts a row with the topic, and selects that row as the
-- user. The policy compares the topic of the row as well, since a database connection can set realtime.topic itself.
do $do$
begin
  if picture_queue._find_table('realtime.messages', true) is null then
    return;
  end if;
  execute $sql$
    create or replace function picture_queue._broadcast(p_events picture_queue.event[]) returns void
    language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
    as $$
    begin
      insert into realtime.messages (topic, extension, event, payload, private)
      select e.topic, 'broadcast', e.name, e.payload, true from unnest(p_events) e;
    exception
      when others then
        raise warning 'picture_queue: no event was sent: %', sqlerrm;
    end
    $$;
    create policy "picture_queue: read own topics" on realtime.messages
      for select to authenticated
      using (extension = 'broadcast' and topic = 'pq:user:' || (select auth.uid())::text
        and topic = (select realtime.topic()));
  $sql$;
end
$do$;


-- 960_supabase_storage.sql

-- Creates the private buckets of the pictures and of uploaded files if the project has Supabase Storage, and policies:
-- users can read their own folder in both buckets, and write to their own folder in the bucket uploads. A picture of a
-- generation becomes readable with its row in images. A trigger limits the number of files that a user uploads.
do $do$
begin
  if picture_queue._find_table('storage.buckets', true) is null then
    return;
  end if;
  execute $sql$
    insert into storage.buckets (id, name, public) values ('pictures', 'pictures', false) on conflict do nothing;
    insert into storage.buckets (id, name, public, file_size_limit, allowed_mime_types)
    values ('uploads', 'uploads', false, 10485760, '{image/png,image/jpeg,image/webp}') on conflict do nothing;
    create policy "picture_queue: read own pictures" on storage.objects
      for select to authenticated
      using (bucket_id in ('pictures', 'uploads') and (storage.foldername(name))[1] = (select auth.uid())::text
        and (bucket_id = 'uploads' or picture_queue.may_read_picture(name)));
    create policy "picture_queue: upload to own folder" on storage.objects
      for insert to authenticated
      with check (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text
        and (select picture_queue.may_upload()));
    create policy "picture_queue: replace own uploads" on storage.objects
      for update to authenticated
      using (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text)
      with check (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text);
    create policy "picture_queue: delete own uploads" on storage.objects
      for delete to authenticated
      using (bucket_id = 'uploads' and (storage.foldername(name))[1] = (select auth.uid())::text);
  $sql$;
  -- The platform grants postgres this privilege on the table, which belongs to Storage. A role without it installs
  -- the rest, and the doctor reports the missing trigger.
  if has_table_privilege('storage.objects', 'trigger') then
    execute $sql$
      create or replace trigger picture_queue_limit_uploads
        before insert or update of bucket_id, name on storage.objects
        for each row when (new.bucket_id = 'uploads' and starts_with(new.name, new.owner_id || '/'))
        execute function picture_queue._limit_uploads();
    $sql$;
  end if;
end
$do$;


-- 970_pg_cron.sql

-- Schedules the maintenance if pg_cron is installed; call it again after installing pg_cron. Pruning has a separate
-- job, so that it can be rescheduled separately. It calls cron.schedule only if that function belongs to the extension
-- or to a trusted role, since the schema cron may belong to any role.
create function picture_queue.schedule_maintenance() returns text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- The name of the function is not in the text of the query, since without pg_cron a linter would report a missing
  -- function. The casts to the parameter types keep Postgres from choosing another function of that name.
  v_statement text := (
    select format('select cron.schedule($1::%s, $2::%s, $3::%s)',
      p.proargtypes[0]::regtype, p.proargtypes[1]::regtype, p.proargtypes[2]::regtype)
    from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'cron' and p.proname = 'schedule' and p.pronargs = 3
      and (picture_queue._is_trusted(p.proowner) or exists (
        select from pg_catalog.pg_depend d
        join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'pg_cron'
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid
          and d.refclassid = 'pg_catalog.pg_extension'::regclass and d.deptype = 'e'))
    limit 1);
begin
  if v_statement is null then
    return 'pg_cron is not installed';
  end if;
  execute v_statement using 'process-job-queue'::text, '* * * * *'::text, 
    'select picture_queue.maintain(); select picture_queue.call_worker()'::text;
  execute v_statement using 'prune-job-queue'::text, '* * * * *'::text, 'select picture_queue.prune()'::text;
  return 'scheduled';
end
$$;
select picture_queue._revoke_grants('picture_queue.schedule_maintenance()');
select picture_queue.schedule_maintenance();


-- Make PostgREST load the new functions.
notify pgrst, 'reload schema';

select pg_catalog.set_config(
  'search_path', pg_catalog.current_setting('picture_queue.search_path'), false);
