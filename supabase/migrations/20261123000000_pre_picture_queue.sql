-- 000_schema.sql

-- picture-queue: a job queue inside your own Postgres.
--
-- Nouns. A *job* has a type and a payload and lies in a *queue*. A *worker* claims jobs; each claim
-- is an *attempt* and grants a *lease*, which heartbeats prolong. A *generation* is a picture
-- somebody asked for; it has one job, and its *images* come from *predictions* at Replicate.
--
-- The way of a job. enqueue_job writes a row through _enqueue, which sends an event and wakes idle
-- workers. claim_jobs first promotes what is due and sweeps expired leases, then picks rows and
-- leases them. The worker says how it goes through report_progress and heartbeat_jobs, and how it
-- ended through report_jobs. Each change of state, whoever asks for it, is made by _transition,
-- along an edge of the table picture_queue.edge, and announced by _emit.
--
-- The way of a picture. start_generation checks the input against picture_queue.model and enqueues
-- a job of type generate-image; the worker takes begin_prediction, record_prediction, save_images
-- and finish_prediction, each under its lease; _transition mirrors the state into generations.
--
-- Where things live. public holds what users call and see. This schema holds the rest and is not
-- exposed by the API; a leading underscore marks what only our own functions call. Parameters of
-- public functions are plain words, private ones are p_, variables v_.
create schema picture_queue;
comment on schema picture_queue is 'The private half of picture-queue: settings, policies, functions.';


-- 010_types.sql

-- One wish for a change of state: what _transition takes, many at a time.
create type picture_queue.change as (
  job_id uuid,
  action text,
  run_at timestamptz,      -- when a scheduled or parked job becomes claimable again
  result jsonb,            -- of complete
  error text,              -- clean, shown to the owner
  detail text,             -- internal, kept in picture_queue.attempt
  duration_seconds real,   -- as the worker measured it
  worker text,             -- of claim
  lease_id uuid,
  lease_seconds real,
  lease_is_legacy boolean
);

-- One message for Realtime.
create type picture_queue.event as (
  topic text,
  name text,
  payload jsonb
);

-- A change that needs no more than its action, and perhaps a reason.
create function picture_queue._change(p_job_id uuid, p_action text, p_error text default null)
returns picture_queue.change
language sql immutable set search_path = ''
as $$
  select row(p_job_id, p_action, null, null, p_error, null, null, null, null, null, null)::picture_queue.change
$$;


-- 020_function__now.sql

-- The one clock. Tests replace it inside a transaction to move time.
create function picture_queue._now() returns timestamptz
language sql volatile set search_path = ''
as $$ select clock_timestamp() $$;


-- 030_function__refuse.sql

-- Raises the error of that code. The message is fixed, since PostgREST copies it into the HTTP
-- reason phrase as it is; what varies goes to DETAIL (field and value) and HINT (the fix).
create function picture_queue._refuse(p_code text, p_detail text default null, p_hint text default null)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_status text;
  v_message text;
begin
  select e.status, e.message into v_status, v_message
  from (values
    ('PQ_INVALID_ARGUMENT',   '400', 'an argument is not acceptable'),
    ('PQ_NOT_AUTHENTICATED',  '401', 'sign in first'),
    ('PQ_NOT_ALLOWED',        '403', 'this caller may not do that'),
    ('PQ_UNKNOWN_JOB',        '404', 'no such job'),
    ('PQ_UNKNOWN_GENERATION', '404', 'no such generation'),
    ('PQ_UNKNOWN_MODEL',      '404', 'no such model'),
    ('PQ_STALE_LEASE',        '409', 'the lease ended'),
    ('PQ_FINISHED_JOB',       '409', 'the state of the job does not permit that'),
    ('PQ_CONFLICT',           '409', 'that does not fit what is already there'),
    ('PQ_TOO_LARGE',          '413', 'too large'),
    ('PQ_INVALID_INPUT',      '422', 'the input does not fit the model'),
    ('PQ_BUSY',               '503', 'the database is busy, repeat the call')
  ) as e (code, status, message)
  where e.code = p_code;
  raise exception using
    errcode = 'PT' || v_status,
    message = p_code || ': ' || v_message,
    detail = coalesce(p_detail, ''),
    hint = coalesce(p_hint, '');
end
$$;


-- 040_function__caller.sql

-- True when the caller acts for the project rather than for one of its users: a service key, or a
-- direct connection without any token. Inside a definer function current_user is the owner, so the
-- token decides, never current_user.
create function picture_queue._is_service() returns boolean
language sql stable set search_path = ''
as $$
  select coalesce(
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role',
    case when session_user in ('anon', 'authenticated', 'authenticator') then 'anon' else 'service_role' end
  ) = 'service_role'
$$;

-- The user the caller is, from the token; null for a service key.
create function picture_queue._caller_id() returns uuid
language sql stable set search_path = ''
as $$ select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;


-- 100_table_setting.sql

-- Defaults and limits of the whole project, in one row.
create table picture_queue.setting (
  only_row boolean primary key default true constraint setting_has_one_row check (only_row),
  max_payload_bytes integer not null default 65536,
  max_result_bytes integer not null default 1048576,
  max_prompt_length integer not null default 4000,
  max_attempts integer not null default 3,
  timeout_seconds real not null default 600,
  lease_seconds real not null default 30,
  backoff_seconds real not null default 5,
  backoff_cap_seconds real not null default 3600,
  default_model text not null default 'black-forest-labs/flux-schnell',
  constraint setting_is_in_range check (
    least(max_payload_bytes, max_result_bytes, max_prompt_length, max_attempts) > 0
    and least(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000
  )
);
comment on table picture_queue.setting is 'Defaults and limits of the whole project, in one row.';
insert into picture_queue.setting default values;
alter table picture_queue.setting enable row level security;


-- 110_table_queue.sql

-- A queue is a row; its policy columns are null where the setting's default holds.
create table picture_queue.queue (
  name text primary key,
  events text not null default 'progress',
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_seconds real,
  backoff_cap_seconds real,
  created_at timestamptz not null default now(),
  constraint queue_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
  constraint queue_events_is_known check (events in ('none', 'status', 'progress')),
  constraint queue_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000
  )
);
comment on table picture_queue.queue is 'The queues and their policies; null means the default of setting.';
comment on column picture_queue.queue.events is 'What is announced over Realtime: none, status, or progress as well.';
insert into picture_queue.queue (name) values ('default');
alter table picture_queue.queue enable row level security;


-- 120_table_job_type.sql

-- The policy of each job type, registered by the workers that have a handler for it.
create table picture_queue.job_type (
  name text primary key,
  queue text,
  max_attempts integer,
  timeout_seconds real,
  lease_seconds real,
  backoff_seconds real,
  backoff_cap_seconds real,
  registered_at timestamptz not null default now(),
  constraint job_type_name_is_plain check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'),
  constraint job_type_policy_is_in_range check (
    least(max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) > 0
    and greatest(timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds) <= 31536000
  )
);
comment on table picture_queue.job_type is 'Policy per job type; null means the queue''s, then the default.';
alter table picture_queue.job_type enable row level security;


-- 130_table_worker.sql

-- The workers seen lately: what they can run, and whether one is idle and waits to be woken.
create table picture_queue.worker (
  name text primary key,
  queues text[] not null,
  job_types text[] not null,
  idle boolean not null default false,
  registered_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
  swept_at timestamptz not null default '-infinity'
);
comment on table picture_queue.worker is 'Workers, what they can run, and when they were last heard of.';
alter table picture_queue.worker enable row level security;


-- 140_table_job_queue.sql

-- The jobs. lease_id stays on the row after the lease ended by a report, so that a repeated report
-- is recognised; lease_expires_at says whether a lease is in force.
create table public.job_queue (
  id uuid primary key default gen_random_uuid(),
  seq bigint generated always as identity,
  queue text not null default 'default',
  job_type text not null,
  payload jsonb not null default '{}',
  priority integer not null default 0,
  status text not null default 'pending',
  hold text,
  attempt integer not null default 0,
  max_attempts integer not null default 3,
  timeout_seconds real,
  scheduled_for timestamptz,
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
  lease_expires_at timestamptz,
  lease_seconds real,
  lease_is_legacy boolean not null default false,
  worker text,
  cancel_requested_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint status_is_known
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
  constraint hold_fits_status check (
    hold is null
    or (status = 'pending' and hold in ('scheduled', 'blocked', 'waiting'))
    or (status = 'processing' and hold = 'parked')
  ),
  constraint leased_while_processing
    check ((lease_expires_at is not null) = (status = 'processing' and hold is null)),
  constraint finished_at_when_finished
    check ((finished_at is not null) = (status in ('completed', 'failed', 'cancelled'))),
  constraint scheduled_or_parked_has_a_time
    check (hold is null or hold not in ('scheduled', 'parked') or scheduled_for is not null),
  constraint attempt_is_counted check (attempt >= 0 and max_attempts >= 1),
  constraint progress_is_percent check (progress between 0 and 100),
  constraint payload_is_object check (jsonb_typeof(payload) = 'object')
) with (
  -- Room for heartbeats and progress on the same page (HOT), and a vacuum that keeps up with churn.
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_analyze_scale_factor = 0.05
);
comment on table public.job_queue is 'The jobs: written by functions only, read by their owners.';

-- The one hot index: what can be claimed now, in the order of claims.
create index job_queue_claimable on public.job_queue (queue, priority desc, seq, job_type)
  where status = 'pending' and hold is null;
-- What becomes claimable by the clock.
create index job_queue_due on public.job_queue (scheduled_for) where hold in ('scheduled', 'parked');
-- Leases in force: finds the jobs of a repeated claim, and is small enough to sweep whole.
create index job_queue_leased on public.job_queue (lease_id)
  where status = 'processing' and hold is null;
create index job_queue_failed on public.job_queue (finished_at desc) where status = 'failed';
create index job_queue_listed on public.job_queue (seq desc);
create index job_queue_owned on public.job_queue (user_id, seq desc) where user_id is not null;
create unique index job_queue_idempotency on public.job_queue (idempotency_key, job_type, user_id)
  nulls not distinct where idempotency_key is not null;

alter table public.job_queue enable row level security;


-- 150_table_generations.sql

-- What somebody asked for. status, error and finished_at follow the job (_transition keeps them).
create table public.generations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid,
  job_id uuid not null,
  model_id text not null,
  prompt text not null,
  input jsonb not null default '{}',
  status text not null default 'pending',
  error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint status_is_known
    check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled'))
);
comment on table public.generations is 'Pictures asked for; status follows the job.';
create index generations_owned on public.generations (user_id, created_at desc);
create index generations_job on public.generations (job_id);
alter table public.generations enable row level security;

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
  created_at timestamptz not null default now(),
  constraint n_counts_from_one check (n >= 1),
  unique (generation_id, n)
);
comment on table public.images is 'The pictures of a generation, in the bucket "pictures" under path.';
create index images_owned on public.images (user_id, created_at desc);
alter table public.images enable row level security;


-- 160_table_model.sql

-- The catalogue start_generation checks against; filled at the end of the schema.
create table picture_queue.model (
  model_id text primary key,
  kind text not null,
  official boolean,
  version text,
  typical_seconds real,
  price_usd_per_image numeric,
  max_outputs_param text,
  output text,
  progress_in_logs text,
  inputs jsonb not null,
  enabled boolean not null default true,
  constraint inputs_is_list check (jsonb_typeof(inputs) = 'array')
);
comment on table picture_queue.model is 'Models and their inputs: name, type, format, bounds, required.';
alter table picture_queue.model enable row level security;


-- 170_table_prediction.sql

-- Each prediction paid for, or about to be. The row is committed before Replicate is called and
-- learns the prediction's id right after, so that a new worker can attach instead of paying again.
create table picture_queue.prediction (
  id uuid primary key default gen_random_uuid(),
  job_id uuid not null,
  generation_id uuid not null references public.generations (id) on delete cascade,
  attempt integer not null,
  model_id text not null,
  input jsonb not null,
  state text not null default 'creating',
  prediction_id text unique,
  error text,
  metrics jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  finished_at timestamptz,
  constraint state_is_known
    check (state in ('creating', 'created', 'succeeded', 'failed', 'canceled', 'aborted', 'lost')),
  constraint created_has_an_id check (state <> 'created' or prediction_id is not null)
);
comment on table picture_queue.prediction is 'One row per prediction at Replicate, written before it is created.';
create unique index prediction_live on picture_queue.prediction (generation_id)
  where state in ('creating', 'created');
create index prediction_generation on picture_queue.prediction (generation_id, created_at);
create index prediction_recent on picture_queue.prediction (created_at) where prediction_id is not null;
alter table picture_queue.prediction enable row level security;


-- 180_table_attempt.sql

-- The failed attempts of a job, the last 20 of each. Internal: owners see job_queue.error.
create table picture_queue.attempt (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.job_queue (id) on delete cascade,
  attempt integer not null,
  worker text,
  error text,
  detail text,
  duration_seconds real,
  started_at timestamptz,
  ended_at timestamptz not null
);
comment on table picture_queue.attempt is 'Failed attempts with their internal detail, the last 20 of each job.';
create index attempt_job on picture_queue.attempt (job_id, id);
alter table picture_queue.attempt enable row level security;


-- 190_table_edge.sql

-- The state machine, as data: an action moves a job from one state to another or does nothing.
-- attempt_delta: a claim counts an attempt; what ends without fault of the job gives it back.
create table picture_queue.edge (
  action text not null,
  from_status text not null,
  from_hold text,
  to_status text not null,
  to_hold text,
  attempt_delta integer not null default 0,
  unique nulls not distinct (action, from_status, from_hold)
);
comment on table picture_queue.edge is 'The permitted changes of state; read by _transition.';
alter table picture_queue.edge enable row level security;

insert into picture_queue.edge (action, from_status, from_hold, to_status, to_hold, attempt_delta) values
  ('claim',    'pending',    null,        'processing', null,         1),
  ('complete', 'processing', null,        'completed',  null,         0),
  ('fail',     'processing', null,        'failed',     null,         0),
  ('back_off', 'processing', null,        'pending',    'scheduled',  0),  -- retry after an error
  ('expire',   'processing', null,        'pending',    null,         0),  -- the lease ended unheard
  ('snooze',   'processing', null,        'pending',    'scheduled', -1),
  ('release',  'processing', null,        'pending',    null,        -1),
  ('park',     'processing', null,        'processing', 'parked',     0),
  ('wake',     'processing', 'parked',    'pending',    null,        -1),  -- its claim is not counted
  ('promote',  'pending',    'scheduled', 'pending',    null,         0),
  ('cancel',   'pending',    null,        'cancelled',  null,         0),
  ('cancel',   'pending',    'scheduled', 'cancelled',  null,         0),
  ('cancel',   'pending',    'blocked',   'cancelled',  null,         0),
  ('cancel',   'pending',    'waiting',   'cancelled',  null,         0),
  ('cancel',   'processing', null,        'cancelled',  null,         0),
  ('retry',    'failed',     null,        'pending',    null,         0),
  ('retry',    'cancelled',  null,        'pending',    null,         0);


-- 200_function__backoff.sql

-- Seconds until the next attempt: exponential from base, at most cap, then 20 % jitter both ways so
-- that jobs which failed together do not come back together.
create function picture_queue._backoff(p_attempt integer, p_base real, p_cap real) returns real
language sql volatile set search_path = ''
as $$
  -- 2^30 seconds is beyond any cap; the bound keeps the power from overflowing.
  select (least(p_base * 2 ^ least(greatest(p_attempt, 1) - 1, 30), p_cap) * (0.8 + 0.4 * random()))::real
$$;


-- 210_function__broadcast.sql

-- The one door to Realtime. Here it does nothing, so the core runs on any Postgres; the last file
-- of the schema replaces it where Realtime is present.
create function picture_queue._broadcast(p_events picture_queue.event[]) returns void
language plpgsql set search_path = ''
as $$
begin
  null;
end
$$;


-- 220_function__emit.sql

-- Announces the state of these jobs, one event each, on the owner's topic or else the job's own.
-- The whole visible state is in it, the result never.
create function picture_queue._emit(p_jobs public.job_queue[]) returns void
language plpgsql set search_path = ''
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
  from unnest(p_jobs) as j
  left join picture_queue.queue q on q.name = j.queue
  where coalesce(q.events, 'progress') <> 'none';
  if v_events is not null then
    perform picture_queue._broadcast(v_events);
  end if;
end
$$;

-- Wakes the workers of these queues: one message a queue, and only where a worker said that it has
-- nothing to do ('enqueue'), or for everyone who might run the job ('cancel').
create function picture_queue._wake(p_queues text[], p_reason text) returns void
language plpgsql set search_path = ''
as $$
declare
  v_events picture_queue.event[];
begin
  select array_agg(row(
      'pq:queue:' || name, 'wake', jsonb_build_object('queue', name, 'reason', p_reason)
    )::picture_queue.event)
  into v_events
  from (select distinct unnest(p_queues)) as q (name)
  where p_reason = 'cancel' or exists (
    select from picture_queue.worker w
    where w.idle and q.name = any (w.queues)
      and w.seen_at > picture_queue._now() - interval '1 minute');
  if v_events is not null then
    perform picture_queue._broadcast(v_events);
  end if;
end
$$;


-- 230_function__transition.sql

-- Every change of state of every job is made here, many at a time, along the edges of
-- picture_queue.edge. A change whose edge does not exist is left out of what is returned, so the
-- caller sees what happened. The caller holds the locks of the rows, taken in the order of their
-- ids, and has checked the lease.
create function picture_queue._transition(p_changes picture_queue.change[]) returns setof public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_jobs public.job_queue[];
begin
  with moved as (
    update public.job_queue j set
      status = e.to_status,
      hold = e.to_hold,
      attempt = j.attempt + e.attempt_delta,
      max_attempts = case when e.action = 'retry' then greatest(j.max_attempts, j.attempt + 1) else j.max_attempts end,
      scheduled_for = case when e.to_hold in ('scheduled', 'parked') then c.run_at else j.scheduled_for end,
      -- A lease that expired is forgotten: a late report of it is stale, not a repetition.
      lease_id = case e.action when 'claim' then c.lease_id when 'expire' then null else j.lease_id end,
      lease_expires_at = case when e.action = 'claim' then v_now + make_interval(secs => c.lease_seconds) end,
      lease_seconds = case when e.action = 'claim' then c.lease_seconds else j.lease_seconds end,
      lease_is_legacy = case when e.action = 'claim' then coalesce(c.lease_is_legacy, false) else j.lease_is_legacy end,
      worker = case when e.action = 'claim' then c.worker else j.worker end,
      started_at = case when e.action = 'claim' then v_now else j.started_at end,
      finished_at = case when e.to_status in ('completed', 'failed', 'cancelled') then v_now end,
      cancel_requested_at = case when e.action = 'retry' then null else j.cancel_requested_at end,
      progress = case when e.action = 'complete' then 100
        when e.action in ('back_off', 'expire', 'retry') then 0 else j.progress end,
      message = case when e.action in ('complete', 'back_off', 'expire', 'retry') then null else j.message end,
      result = case when e.action = 'complete' then c.result when e.action = 'retry' then null else j.result end,
      error = case when e.action in ('fail', 'back_off', 'expire') then c.error
        when e.action in ('complete', 'retry') then null else j.error end,
      version = j.version + 1
    from unnest(p_changes) c
    join picture_queue.edge e on e.action = c.action
    where j.id = c.job_id and e.from_status = j.status and e.from_hold is not distinct from j.hold
    returning j as job, e.action, c.detail, c.duration_seconds
  ),
  attempts as (
    insert into picture_queue.attempt
      (job_id, attempt, worker, error, detail, duration_seconds, started_at, ended_at)
    select (m.job).id, (m.job).attempt, (m.job).worker, (m.job).error, left(m.detail, 8192),
      coalesce(m.duration_seconds, extract(epoch from v_now - (m.job).started_at)), (m.job).started_at, v_now
    from moved m
    where m.action in ('fail', 'back_off', 'expire')
  )
  select array_agg(m.job) into v_jobs from moved m;

  perform picture_queue._bound_history(v_jobs);
  perform picture_queue._mirror_generations(v_jobs);
  perform picture_queue._emit(v_jobs);
  return query select * from unnest(v_jobs);
end
$$;

-- Keeps the last 20 failed attempts of each job.
create function picture_queue._bound_history(p_jobs public.job_queue[]) returns void
language sql volatile set search_path = ''
as $$
  delete from picture_queue.attempt a
  using unnest(p_jobs) j
  where j.attempt > 20 and a.job_id = j.id and a.attempt <= j.attempt - 20
$$;

-- The generations of these jobs show their state.
create function picture_queue._mirror_generations(p_jobs public.job_queue[]) returns void
language sql volatile set search_path = ''
as $$
  update public.generations g
  set status = j.status, error = j.error, finished_at = j.finished_at, updated_at = j.updated_at
  from unnest(p_jobs) j
  where j.generation_id is not null and g.id = j.generation_id
    and (g.status, g.error) is distinct from (j.status, j.error)
$$;


-- 240_function__promote_sweep.sql

-- Makes claimable what its time has come for: scheduled jobs, and parked ones at their poll time.
-- Returns how many.
create function picture_queue._promote(p_limit integer) returns integer
language plpgsql set search_path = ''
as $$
declare
  v_changes picture_queue.change[];
begin
  select array_agg(picture_queue._change(d.id, case d.hold when 'parked' then 'wake' else 'promote' end))
  into v_changes
  from (
    select id, hold from public.job_queue
    where hold in ('scheduled', 'parked') and scheduled_for <= picture_queue._now()
    order by scheduled_for limit p_limit
    for update skip locked
  ) d;
  if v_changes is null then
    return 0;
  end if;
  return (select count(*) from picture_queue._transition(v_changes));
end
$$;

-- Takes back the jobs whose lease ended unheard: the attempt counts, so a job that kills its worker
-- ends. Returns the queues that have work again.
create function picture_queue._sweep(p_limit integer) returns text[]
language plpgsql set search_path = ''
as $$
declare
  v_changes picture_queue.change[];
  v_error constant text := 'The worker was not heard of again before its lease ended.';
begin
  select array_agg(picture_queue._change(
      d.id,
      case when d.cancel_requested_at is not null then 'cancel'
        when d.attempt >= d.max_attempts then 'fail' else 'expire' end,
      v_error))
  into v_changes
  from (
    select id, attempt, max_attempts, cancel_requested_at from public.job_queue
    where status = 'processing' and hold is null and lease_expires_at <= picture_queue._now()
    order by id limit p_limit
    for update skip locked
  ) d;
  if v_changes is null then
    return '{}'::text[];
  end if;
  return (select array_agg(distinct t.queue) from picture_queue._transition(v_changes) t where t.status = 'pending');
end
$$;

-- What any worker does beside claiming, and pg_cron each minute where it is installed.
create function picture_queue.maintain() returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_promoted integer := picture_queue._promote(1000);
  v_swept text[] := picture_queue._sweep(1000);
begin
  if v_promoted > 0 or v_swept <> '{}' then
    perform picture_queue._wake((select array_agg(name) from picture_queue.queue), 'enqueue');
  end if;
  return jsonb_build_object('promoted', v_promoted, 'swept', to_jsonb(v_swept));
end
$$;


-- 250_function__enqueue.sql

-- What is wrong with one item of a bulk enqueue: the field, the value and the rule; null if nothing.
create function picture_queue._job_problem(p_item jsonb) returns text
language sql stable set search_path = ''
as $$
  select case
    when jsonb_typeof(p_item) <> 'object' then 'a job must be an object'
    when not p_item ?& array['job_type'] then 'job_type is missing'
    when p_item ->> 'job_type' is null or p_item ->> 'job_type' !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$'
      then format('job_type is %s', coalesce(p_item -> 'job_type', 'null'))
    when p_item ->> 'queue' !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then format('queue is %s', p_item -> 'queue')
    when jsonb_typeof(p_item -> 'payload') not in ('object', 'null')
      then format('payload is of type %s, not an object', jsonb_typeof(p_item -> 'payload'))
    when (p_item ->> 'max_attempts')::integer not between 1 and 1000
      then format('max_attempts is %s, not 1 to 1000', p_item ->> 'max_attempts')
    when (p_item ->> 'scheduled_for')::timestamptz not between '1970-01-01' and '9999-01-01'
      then format('scheduled_for is %s', p_item ->> 'scheduled_for')
    when length(p_item ->> 'idempotency_key') not between 1 and 255
      then format('idempotency_key has %s characters, not 1 to 255', length(p_item ->> 'idempotency_key'))
    when jsonb_typeof(p_item -> 'options') not in ('object', 'null') then 'options is not an object'
    else (
      select format('%s is not known', k) from jsonb_object_keys(p_item) k
      where k not in ('job_type', 'payload', 'priority', 'queue', 'scheduled_for', 'max_attempts', 'user_id',
        'idempotency_key', 'job_id', 'generation_id', 'options')
      union all
      select format('options.%s is not known', k)
      from jsonb_object_keys(coalesce(nullif(p_item -> 'options', 'null'), '{}')) k
      where k not in ('timeout_seconds')
      union all
      select format('options.timeout_seconds is %s, not 0.001 to 31536000', p_item #>> '{options,timeout_seconds}')
      where (p_item #>> '{options,timeout_seconds}')::numeric not between 0.001 and 31536000
      limit 1
    )
  end
$$;

-- Refuses the first item that is not acceptable, naming its place, the field and the value.
create function picture_queue._check_jobs(p_jobs jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
  v_limit integer := (select max_payload_bytes from picture_queue.setting);
  v_bad record;
begin
  if jsonb_typeof(p_jobs) is distinct from 'array' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'jobs is not a list', 'pass a JSON array of objects');
  end if;
  select p.problem, e.i into v_bad
  from jsonb_array_elements(p_jobs) with ordinality as e (item, i), picture_queue._job_problem(e.item) as p (problem)
  where p.problem is not null order by e.i limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      case when jsonb_array_length(p_jobs) > 1 then format('jobs[%s]: ', v_bad.i - 1) else '' end || v_bad.problem,
      'names are letters, digits and _ . - ; a payload is a JSON object');
  end if;
  select octet_length((e.item -> 'payload')::text) as bytes into v_bad
  from jsonb_array_elements(p_jobs) as e (item)
  where octet_length((e.item -> 'payload')::text) > v_limit limit 1;
  if found then
    perform picture_queue._refuse('PQ_TOO_LARGE',
      format('payload has %s bytes, the limit is %s', v_bad.bytes, v_limit),
      'store the data elsewhere, in Supabase Storage for example, and put its path into the payload');
  end if;
end
$$;

-- Writes jobs and answers, in the order asked: the id of each and whether it was created or existing
-- (same id, or same idempotency key for that type and owner). All or none. One job is announced; of
-- many, only the queues' workers hear.
create function picture_queue._enqueue(p_jobs jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_jobs jsonb;
  v_made public.job_queue[];
begin
  perform picture_queue._check_jobs(p_jobs);
  select coalesce(jsonb_agg(jsonb_strip_nulls(e.item - 'payload')
      || jsonb_build_object(
        'job_id', coalesce(e.item ->> 'job_id', gen_random_uuid()::text),
        'payload', coalesce(nullif(e.item -> 'payload', 'null'), '{}'),
        'queue', coalesce(e.item ->> 'queue', t.queue, 'default')) order by e.i), '[]')
  into v_jobs
  from jsonb_array_elements(p_jobs) with ordinality as e (item, i)
  left join picture_queue.job_type t on t.name = e.item ->> 'job_type';

  insert into picture_queue.queue (name)
  select distinct e.item ->> 'queue' as name from jsonb_array_elements(v_jobs) as e (item)
  where not exists (select from picture_queue.queue q where q.name = e.item ->> 'queue')
  order by name
  on conflict do nothing;

  with made as (
    insert into public.job_queue (id, queue, job_type, payload, priority, hold, max_attempts, timeout_seconds,
      scheduled_for, user_id, generation_id, idempotency_key, created_at, updated_at)
    select e.job_id, e.queue, e.job_type, e.payload, coalesce(e.priority, 0),
      case when e.scheduled_for > v_now then 'scheduled' end,
      coalesce(e.max_attempts, t.max_attempts, q.max_attempts, s.max_attempts),
      (e.options ->> 'timeout_seconds')::real, e.scheduled_for, e.user_id, e.generation_id, e.idempotency_key,
      v_now, v_now
    from rows from (jsonb_to_recordset(v_jobs) as (job_id uuid, queue text, job_type text, payload jsonb,
      priority integer, scheduled_for timestamptz, max_attempts integer, user_id uuid, generation_id uuid,
      idempotency_key text, options jsonb))
      with ordinality as e (job_id, queue, job_type, payload, priority, scheduled_for, max_attempts, user_id,
        generation_id, idempotency_key, options, i)
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = e.job_type
    left join picture_queue.queue q on q.name = e.queue
    order by e.i
    on conflict do nothing
    returning job_queue as job
  )
  select array_agg(m.job) into v_made from made m;

  if jsonb_array_length(v_jobs) = 1 then
    perform picture_queue._emit(v_made);
  end if;
  perform picture_queue._wake(
    (select array_agg(distinct m.queue) from unnest(v_made) m where m.hold is null), 'enqueue');
  return picture_queue._enqueued(v_jobs, v_made);
end
$$;

-- The answer of _enqueue: finds the jobs that were there before, and refuses an id that means
-- another job.
create function picture_queue._enqueued(p_jobs jsonb, p_made public.job_queue[]) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_answer jsonb;
  v_clash text;
begin
  with asked as (
    select (e.item ->> 'job_id')::uuid as id, e.item ->> 'job_type' as job_type, (e.item ->> 'user_id')::uuid as user_id,
      e.item ->> 'idempotency_key' as key, e.i
    from jsonb_array_elements(p_jobs) with ordinality as e (item, i)
  ),
  found as (
    select a.i, a.id as asked_id, m.id as made_id, x.id as same_id, k.id as same_key,
      (x.job_type, x.user_id) is distinct from (a.job_type, a.user_id) as differs
    from asked a
    left join unnest(p_made) m on m.id = a.id
    left join public.job_queue x on m.id is null and x.id = a.id
    left join public.job_queue k on m.id is null and x.id is null and a.key is not null
      and k.idempotency_key = a.key and k.job_type = a.job_type and k.user_id is not distinct from a.user_id
  )
  select
    jsonb_agg(jsonb_build_object(
      'job_id', coalesce(f.made_id, f.same_id, f.same_key),
      'outcome', case when f.made_id is null then 'existing' else 'created' end) order by f.i),
    min(f.asked_id::text) filter (where f.made_id is null and f.same_id is not null and f.differs)
  into v_answer, v_clash
  from found f;
  if v_clash is not null then
    perform picture_queue._refuse('PQ_CONFLICT', format('job_id %s is another job', v_clash), 'make a new uuid for each job');
  end if;
  return coalesce(v_answer, '[]');
end
$$;


-- 260_function__claim.sql

-- Keeps the row of a worker: written when something changed or every 5 seconds, not at each claim.
create function picture_queue._touch_worker(
  p_worker text, p_queues text[], p_job_types text[], p_idle boolean, p_swept boolean)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
begin
  if not p_swept and exists (
    select from picture_queue.worker w
    where w.name = p_worker and w.idle = p_idle and w.queues = p_queues and w.job_types = p_job_types
      and w.seen_at > v_now - interval '5 seconds')
  then
    return;
  end if;
  insert into picture_queue.worker as w (name, queues, job_types, idle, seen_at, swept_at)
  values (p_worker, p_queues, p_job_types, p_idle, v_now, v_now)
  on conflict (name) do update
  set queues = p_queues, job_types = p_job_types, idle = p_idle, seen_at = v_now,
    swept_at = case when p_swept then v_now else w.swept_at end;
end
$$;

-- Leases up to p_max_jobs of what can be claimed, highest priority first, then oldest. A repeated
-- call (same p_request_id) gives the jobs of the first again: the request id is the lease id.
-- p_queues null: every queue; p_job_types null: every type.
create function picture_queue._claim(
  p_worker text, p_queues text[], p_job_types text[], p_max_jobs integer, p_lease_seconds real,
  p_request_id uuid, p_legacy boolean)
returns setof public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_queues text[] := coalesce(p_queues, (select array_agg(name order by name) from picture_queue.queue));
  v_changes picture_queue.change[];
begin
  return query
    select * from public.job_queue
    where status = 'processing' and hold is null and lease_id = p_request_id and worker = p_worker;
  if found then
    return;
  end if;

  perform picture_queue._promote(100);
  select array_agg(row(
      d.id, 'claim', null, null, null, null, null, p_worker, p_request_id,
      case when p_legacy then p_lease_seconds
        else coalesce(t.lease_seconds, q.lease_seconds, p_lease_seconds, s.lease_seconds) end,
      p_legacy)::picture_queue.change order by d.priority desc, d.seq)
  into v_changes
  from (
    select j.* from unnest(v_queues) as name
    cross join lateral (
      select id, queue, job_type, priority, seq from public.job_queue
      where queue = name and status = 'pending' and hold is null
        and (p_job_types is null or job_type = any (p_job_types))
      order by priority desc, seq limit p_max_jobs
      for update skip locked
    ) j
    order by j.priority desc, j.seq limit p_max_jobs
  ) d
  cross join picture_queue.setting s
  left join picture_queue.job_type t on t.name = d.job_type
  left join picture_queue.queue q on q.name = d.queue;

  if v_changes is not null then
    return query select * from picture_queue._transition(v_changes) order by priority desc, seq;
  end if;
end
$$;

-- claim_jobs for the worker: sweeps once a second at most, and remembers a worker that found less
-- than it asked for, so that the next enqueue wakes it.
create function picture_queue._claim_jobs(
  p_worker text, p_queues text[], p_job_types text[], p_max_jobs integer, p_lease_seconds real, p_request_id uuid)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_sweep boolean := not exists (
    select from picture_queue.worker w
    where w.name = p_worker and w.swept_at > picture_queue._now() - interval '1 second');
  v_jobs jsonb;
begin
  perform picture_queue._check_claim(p_worker, p_queues, p_max_jobs, p_lease_seconds, p_request_id);
  if v_sweep then
    perform picture_queue._sweep(100);
  end if;
  select coalesce(jsonb_agg(to_jsonb(j) || jsonb_build_object('timeout_seconds',
      coalesce(j.timeout_seconds, t.timeout_seconds, q.timeout_seconds, s.timeout_seconds))
    order by j.priority desc, j.seq), '[]')
  into v_jobs
  from picture_queue._claim(p_worker, p_queues, p_job_types, p_max_jobs, p_lease_seconds, p_request_id, false) j
  cross join picture_queue.setting s
  left join picture_queue.job_type t on t.name = j.job_type
  left join picture_queue.queue q on q.name = j.queue;
  perform picture_queue._touch_worker(
    p_worker, p_queues, p_job_types, jsonb_array_length(v_jobs) < p_max_jobs, v_sweep);
  return v_jobs;
end
$$;

create function picture_queue._check_claim(
  p_worker text, p_queues text[], p_max_jobs integer, p_lease_seconds real, p_request_id uuid)
returns void
language plpgsql set search_path = ''
as $$
declare
  v_problem text := case
    when coalesce(p_worker, '') = '' then 'worker is empty'
    when coalesce(cardinality(p_queues), 0) = 0 then 'queues is empty'
    when p_max_jobs is null or p_max_jobs not between 0 and 1000 then format('max_jobs is %s, not 0 to 1000', p_max_jobs)
    when p_lease_seconds not between 1 and 86400 then format('lease_seconds is %s, not 1 to 86400', p_lease_seconds)
    when p_request_id is null then 'request_id is null'
  end;
begin
  if v_problem is not null then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
end
$$;


-- 270_function__report.sql

-- What an outcome asks for, as an action of picture_queue.edge. A job whose cancel was requested is
-- cancelled whatever its handler made of it, unless it completed.
create function picture_queue._action(
  p_outcome text, p_retryable boolean, p_cancel_requested boolean, p_attempts_left boolean)
returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_outcome = 'completed' then 'complete'
    when p_outcome = 'cancelled' or p_cancel_requested then 'cancel'
    when p_outcome = 'failed' and p_retryable and p_attempts_left then 'back_off'
    when p_outcome = 'failed' then 'fail'
    when p_outcome = 'snoozed' then 'snooze'
    when p_outcome = 'released' then 'release'
    when p_outcome = 'parked' then 'park'
  end
$$;

-- Refuses outcomes that are not well formed, before anything is written.
create function picture_queue._check_outcomes(p_outcomes jsonb) returns void
language plpgsql set search_path = ''
as $$
declare
  v_problem text;
begin
  if jsonb_typeof(p_outcomes) is distinct from 'array' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'outcomes is not a list');
  end if;
  select format('outcomes[%s]: %s', e.i - 1, case
      when e.item ->> 'job_id' is null then 'job_id is missing'
      when e.item ->> 'lease_id' is null then 'lease_id is missing'
      when e.item ->> 'outcome' is null
        or e.item ->> 'outcome' not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
        then format('outcome is %s', coalesce(e.item -> 'outcome', 'null'))
      else format('delay_seconds is %s, not 0 to 31536000', e.item -> 'delay_seconds') end)
  into v_problem
  from jsonb_array_elements(p_outcomes) with ordinality as e (item, i)
  where e.item ->> 'job_id' is null or e.item ->> 'lease_id' is null or e.item ->> 'outcome' is null
    or e.item ->> 'outcome' not in ('completed', 'failed', 'snoozed', 'released', 'parked', 'cancelled')
    or (e.item ->> 'delay_seconds')::numeric not between 0 and 31536000
  order by e.i limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_problem);
  end if;
end
$$;

-- Writes how attempts ended, fenced by their leases. Answers for each, in the order asked: ok;
-- repeated (this lease reported before, nothing changed); stale (the lease ended, nothing changed).
-- A result above the limit fails its job, since no repetition makes it smaller.
create function picture_queue._report(p_outcomes jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_changes picture_queue.change[];
  v_stand jsonb;
  v_answer jsonb;
begin
  perform picture_queue._check_outcomes(p_outcomes);
  perform from public.job_queue
  where id in (select (e.item ->> 'job_id')::uuid from jsonb_array_elements(p_outcomes) as e (item))
  order by id for update;

  with asked as (
    select distinct on (o.job_id) o.*, octet_length(o.result::text) > s.max_result_bytes as too_large
    from jsonb_to_recordset(p_outcomes) as o (job_id uuid, lease_id uuid, outcome text, result jsonb, error text,
      detail text, retryable boolean, delay_seconds real, duration_seconds real)
    cross join picture_queue.setting s
  ),
  wished as (
    select a.*, j.attempt, picture_queue._action(
        case when a.too_large then 'failed' else a.outcome end,
        coalesce(a.retryable, true) and not coalesce(a.too_large, false),
        j.cancel_requested_at is not null, j.attempt < j.max_attempts) as action,
      coalesce(t.backoff_seconds, q.backoff_seconds, s.backoff_seconds) as base,
      coalesce(t.backoff_cap_seconds, q.backoff_cap_seconds, s.backoff_cap_seconds) as cap
    from asked a
    join public.job_queue j on j.id = a.job_id
    cross join picture_queue.setting s
    left join picture_queue.job_type t on t.name = j.job_type
    left join picture_queue.queue q on q.name = j.queue
    where j.status = 'processing' and j.hold is null and j.lease_id = a.lease_id
  )
  select array_agg(row(
      w.job_id, w.action,
      v_now + make_interval(secs => coalesce(w.delay_seconds,
        case w.action when 'back_off' then picture_queue._backoff(w.attempt, w.base, w.cap) else 0 end)),
      w.result,
      case when w.too_large then 'The result is larger than the queue allows.'
        when w.action in ('fail', 'back_off') then coalesce(left(w.error, 2000), 'The job failed without saying why.') end,
      w.detail, w.duration_seconds, null, null, null, null)::picture_queue.change)
  into v_changes
  from wished w;

  select jsonb_object_agg(t.id, t.status) into v_stand from picture_queue._transition(v_changes) t;
  select coalesce(jsonb_agg(jsonb_build_object(
      'job_id', o.job_id,
      'outcome', case when v_stand ? o.job_id::text then 'ok' when j.lease_id = o.lease_id then 'repeated' else 'stale' end,
      'status', j.status) order by o.i), '[]')
  into v_answer
  from rows from (jsonb_to_recordset(p_outcomes) as (job_id uuid, lease_id uuid))
    with ordinality as o (job_id, lease_id, i)
  left join public.job_queue j on j.id = o.job_id;
  return v_answer;
end
$$;


-- 280_function__lease.sql

-- The job, locked; refuses when there is none.
create function picture_queue._locked_job(p_job_id uuid) returns public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_job public.job_queue;
begin
  select * into v_job from public.job_queue where id = p_job_id for update;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  end if;
  return v_job;
end
$$;

-- The job under this lease, locked; refuses when the lease ended.
create function picture_queue._leased(p_job_id uuid, p_lease_id uuid) returns public.job_queue
language plpgsql set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._locked_job(p_job_id);
begin
  if v_job.lease_expires_at is null or v_job.lease_id is distinct from p_lease_id then
    perform picture_queue._refuse('PQ_STALE_LEASE',
      format('job %s is %s and its lease is not %s', p_job_id, v_job.status, p_lease_id),
      'stop working on this job; whoever holds it now goes on');
  end if;
  return v_job;
end
$$;

-- Prolongs the leases that still hold. Answers the jobs to cancel, and those whose lease is lost.
create function picture_queue._heartbeat(p_worker text, p_leases jsonb) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_answer jsonb;
begin
  perform from public.job_queue
  where id in (select (l.item ->> 'job_id')::uuid from jsonb_array_elements(p_leases) as l (item))
  order by id for update;
  with held as (
    update public.job_queue j set lease_expires_at = v_now + make_interval(secs => j.lease_seconds)
    from jsonb_to_recordset(p_leases) as l (job_id uuid, lease_id uuid)
    where j.id = l.job_id and j.lease_id = l.lease_id and j.status = 'processing' and j.hold is null
    returning j.id, j.cancel_requested_at
  )
  select jsonb_build_object(
    'cancel', coalesce(jsonb_agg(l.job_id) filter (where h.cancel_requested_at is not null), '[]'),
    'lost', coalesce(jsonb_agg(l.job_id) filter (where h.id is null), '[]'))
  into v_answer
  from jsonb_to_recordset(p_leases) as l (job_id uuid)
  left join held h on h.id = l.job_id;
  update picture_queue.worker set seen_at = v_now where name = p_worker;
  return v_answer;
end
$$;

-- Writes the progress of a job under its lease. At most two progress events a second and job go out;
-- 0 and 100 always do. The row has the newest value in any case.
create function picture_queue._report_progress(p_job_id uuid, p_lease_id uuid, p_progress integer, p_message text)
returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_now timestamptz := picture_queue._now();
  v_job public.job_queue;
  v_announce boolean;
begin
  if p_progress is null or p_progress not between 0 and 100 then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('progress is %s, not 0 to 100', p_progress), 'pass percent');
  end if;
  v_job := picture_queue._leased(p_job_id, p_lease_id);
  v_announce := p_progress in (0, 100)
    or coalesce(v_job.progress_event_at < v_now - interval '0.5 seconds', true);
  update public.job_queue set
    progress = p_progress,
    message = left(p_message, 500),
    version = version + 1,
    progress_event_at = case when v_announce then v_now else progress_event_at end
  where id = p_job_id
  returning * into v_job;
  if v_announce and exists (select from picture_queue.queue q where q.name = v_job.queue and q.events = 'progress') then
    perform picture_queue._emit(array[v_job]);
  end if;
  return jsonb_build_object('cancel_requested', v_job.cancel_requested_at is not null);
end
$$;


-- 290_function_cancel_retry.sql

-- Cancels a job of the caller's: at once while it is pending; a running one is asked to stop (its
-- worker hears with the next heartbeat); a parked one is claimed once more so that its handler can
-- undo what it started. Cancelling twice is the same as once.
create function picture_queue.cancel_job(p_job_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_job public.job_queue;
  v_action text;
begin
  select * into v_job from public.job_queue
  where id = p_job_id and (picture_queue._is_service() or user_id = picture_queue._caller_id()) for update;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', p_job_id));
  elsif v_job.status in ('completed', 'failed') then
    perform picture_queue._refuse('PQ_FINISHED_JOB', format('job %s is %s already', p_job_id, v_job.status));
  elsif v_job.status <> 'cancelled' and v_job.cancel_requested_at is null then
    update public.job_queue set cancel_requested_at = picture_queue._now() where id = p_job_id;
    v_action := case when v_job.status = 'pending' then 'cancel' when v_job.hold = 'parked' then 'wake' end;
    if v_action is not null then
      perform picture_queue._transition(array[picture_queue._change(p_job_id, v_action)]);
    end if;
    if v_job.status = 'processing' then
      perform picture_queue._wake(array[v_job.queue], 'cancel');
    end if;
    select * into v_job from public.job_queue where id = p_job_id;
  end if;
  return jsonb_build_object('job_id', v_job.id, 'status', v_job.status,
    'cancel_requested', v_job.cancel_requested_at is not null);
end
$$;

-- Gives a failed or cancelled job one more attempt, if none is left.
create function picture_queue._retry_job(p_job_id uuid) returns jsonb
language plpgsql set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._locked_job(p_job_id);
begin
  if v_job.status in ('processing', 'completed') then
    perform picture_queue._refuse('PQ_FINISHED_JOB', format('job %s is %s', p_job_id, v_job.status),
      'only a failed or cancelled job can be retried');
  end if;
  -- A pending job is what a retry leads to: repeating the call changes nothing.
  if v_job.status <> 'pending' then
    select * into v_job from picture_queue._transition(array[picture_queue._change(p_job_id, 'retry')]);
    perform picture_queue._wake(array[v_job.queue], 'enqueue');
  end if;
  return jsonb_build_object('job_id', v_job.id, 'status', v_job.status);
end
$$;


-- 300_function_enqueue.sql

-- Writes one job and returns its id. With idempotency_key, or with a job_id made by the caller, the
-- call can be repeated: it returns the job that is already there.
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
language sql volatile security definer set search_path = ''
as $$
  select (picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
    'job_type', job_type, 'payload', payload, 'priority', priority, 'queue', queue, 'scheduled_for', scheduled_for,
    'max_attempts', max_attempts, 'user_id', user_id, 'idempotency_key', idempotency_key, 'job_id', job_id,
    'options', options))) #>> '{0,job_id}')::uuid
$$;
comment on function public.enqueue_job is 'Writes one job and returns its id.';

-- Writes many jobs, all or none; answers id and outcome (created or existing) of each.
create function public.enqueue_jobs(jobs jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  return picture_queue._enqueue(jobs);
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', 'two bulk enqueues share idempotency keys', 'repeat the call');
  return null;
end
$$;
comment on function public.enqueue_jobs is 'Writes many jobs in one call; answers id and outcome of each.';


-- 310_function_claim.sql

-- For callers that never heartbeat: one job under a lease of at least ten minutes, marked legacy,
-- which complete_job may end without naming the lease. It sweeps too, since there may be no worker.
create function public.claim_next_job(queue text default null) returns setof public.job_queue
language sql volatile security definer set search_path = ''
as $$
  select picture_queue._sweep(100);
  select * from picture_queue._claim(
    'claim_next_job', case when queue is not null then array[queue] end, null, 1,
    (select greatest(600, s.timeout_seconds) from picture_queue.setting s)::real, gen_random_uuid(), true)
$$;
comment on function public.claim_next_job is 'Claims one job under a long lease, for callers without heartbeat.';

-- Leases up to max_jobs jobs of these types to a worker. Repeating it with the same request_id gives
-- the same jobs.
create function public.claim_jobs(
  worker text, queues text[], job_types text[], max_jobs integer default 1, lease_seconds real default 30,
  request_id uuid default gen_random_uuid())
returns jsonb
language sql volatile security definer set search_path = ''
as $$ select picture_queue._claim_jobs(worker, queues, job_types, max_jobs, lease_seconds, request_id) $$;
comment on function public.claim_jobs is 'Leases jobs to a worker; repeatable by request_id.';


-- 320_function_report.sql

-- Prolongs leases; answers the jobs to cancel and those whose lease is lost.
create function public.heartbeat_jobs(worker text, leases jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
  return picture_queue._heartbeat(worker, leases);
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
  return null;
end
$$;
comment on function public.heartbeat_jobs is 'Prolongs leases; answers which jobs to cancel and which are lost.';

-- Writes the progress (percent) of a job under its lease.
create function public.report_progress(job_id uuid, lease_id uuid, progress integer, message text default null)
returns jsonb
language sql volatile security definer set search_path = ''
as $$ select picture_queue._report_progress(job_id, lease_id, progress, message) $$;
comment on function public.report_progress is 'Writes the progress of a job, in percent, under its lease.';

-- Writes how attempts ended and, in the same round trip, claims the next jobs if claim is given.
create function public.report_jobs(outcomes jsonb, claim jsonb default null) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_outcomes jsonb := picture_queue._report(outcomes);
  v_jobs jsonb := '[]'::jsonb;
begin
  if jsonb_typeof(claim) = 'object' then
    select picture_queue._claim_jobs(
      c.worker, c.queues, c.job_types, c.max_jobs, coalesce(c.lease_seconds, 30), c.request_id)
    into v_jobs
    from jsonb_to_record(claim) as c (worker text, queues text[], job_types text[], max_jobs integer,
      lease_seconds real, request_id uuid);
  end if;
  return jsonb_build_object('outcomes', v_outcomes, 'jobs', v_jobs);
exception when deadlock_detected then
  perform picture_queue._refuse('PQ_BUSY', null, 'repeat the call');
  return null;
end
$$;
comment on function public.report_jobs is 'Writes how attempts ended, many at a time, and may claim the next jobs.';

-- Ends one attempt and returns the job's new status: error null completes it, else it is retried or
-- fails. Only a legacy lease may be ended without its lease_id.
create function public.complete_job(
  job_id uuid, result jsonb default null, error text default null, lease_id uuid default null)
returns text
language plpgsql security definer set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._locked_job(job_id);
  v_outcome jsonb;
begin
  if lease_id is null and not v_job.lease_is_legacy then
    perform picture_queue._refuse('PQ_STALE_LEASE', format('job %s is not under a legacy lease', job_id), 'pass its lease_id');
  end if;
  v_outcome := picture_queue._report(jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
    'job_id', job_id, 'lease_id', coalesce(lease_id, v_job.lease_id), 'error', error,
    'outcome', case when error is null then 'completed' else 'failed' end))
    || jsonb_build_object('result', result))) -> 0;
  if v_outcome ->> 'outcome' = 'stale' then
    perform picture_queue._refuse('PQ_STALE_LEASE', format('job %s is %s', job_id, v_job.status));
  end if;
  return v_outcome ->> 'status';
end
$$;
comment on function public.complete_job is 'Ends one attempt: completed, or retried or failed when error is given.';


-- 330_function_cancel_retry.sql

-- Owners and service keys. The rights are in picture_queue.cancel_job, which knows the caller.
create function public.cancel_job(job_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select picture_queue.cancel_job(job_id) $$;
comment on function public.cancel_job is 'Cancels a pending job at once; asks a running one to stop.';

create function public.retry_job(job_id uuid) returns jsonb
language sql volatile security definer set search_path = ''
as $$ select picture_queue._retry_job(job_id) $$;
comment on function public.retry_job is 'Makes a failed or cancelled job pending again.';


-- 340_function_read.sql

-- Reads, as the caller: row level security decides what there is.
create function public.get_job(job_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_job jsonb;
begin
  select to_jsonb(j) into v_job from public.job_queue j where j.id = get_job.job_id;
  if v_job is null then
    perform picture_queue._refuse('PQ_UNKNOWN_JOB', format('job_id is %s', job_id));
  end if;
  return v_job;
end
$$;
comment on function public.get_job is 'One job of the caller''s.';

-- filter: queue, status, job_type, limit (100, at most 1000), before_seq (of the last row of a page).
create function public.list_jobs(filter jsonb default '{}') returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(j) order by j.seq desc), '[]')
  from (
    select * from public.job_queue
    where (filter ->> 'queue' is null or queue = filter ->> 'queue')
      and (filter ->> 'status' is null or status = filter ->> 'status')
      and (filter ->> 'job_type' is null or job_type = filter ->> 'job_type')
      and seq < coalesce((filter ->> 'before_seq')::bigint, 9223372036854775807)
    order by seq desc
    limit least(coalesce((filter ->> 'limit')::integer, 100), 1000)
  ) j
$$;
comment on function public.list_jobs is 'Jobs of the caller''s, newest first.';

create function public.get_generation(generation_id uuid) returns jsonb
language plpgsql stable security invoker set search_path = ''
as $$
declare
  v_generation jsonb;
begin
  select to_jsonb(g) || jsonb_build_object('images', coalesce(
      (select jsonb_agg(to_jsonb(i) order by i.n) from public.images i where i.generation_id = g.id), '[]'))
  into v_generation
  from public.generations g where g.id = get_generation.generation_id;
  if v_generation is null then
    perform picture_queue._refuse('PQ_UNKNOWN_GENERATION', format('generation_id is %s', generation_id));
  end if;
  return v_generation;
end
$$;
comment on function public.get_generation is 'One generation of the caller''s with its images.';

-- filter: status, limit (100, at most 1000), before (created_at of the last row of a page).
create function public.list_generations(filter jsonb default '{}') returns jsonb
language sql stable security invoker set search_path = ''
as $$
  select coalesce(jsonb_agg(to_jsonb(g) || jsonb_build_object('images', coalesce(
      (select jsonb_agg(to_jsonb(i) order by i.n) from public.images i where i.generation_id = g.id), '[]'))
    order by g.created_at desc, g.id), '[]')
  from (
    select * from public.generations
    where (filter ->> 'status' is null or status = filter ->> 'status')
      and created_at < coalesce((filter ->> 'before')::timestamptz, 'infinity')
    order by created_at desc, id
    limit least(coalesce((filter ->> 'limit')::integer, 100), 1000)
  ) g
$$;
comment on function public.list_generations is 'Generations of the caller''s with their images, newest first.';


-- 350_function_worker.sql

-- A worker says who it is and which job types it can run, with their policies; answers the version
-- of this database. Repeating it changes nothing.
create function public.register_worker(worker text, queues text[], job_types jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_types text[];
begin
  if coalesce(worker, '') = '' or coalesce(cardinality(queues), 0) = 0
    or jsonb_typeof(job_types) is distinct from 'object'
  then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT',
      'worker must have a name, queues must not be empty, job_types must be an object');
  end if;
  select coalesce(array_agg(k order by k), '{}') into v_types from jsonb_object_keys(job_types) k;
  insert into picture_queue.job_type as t
    (name, queue, max_attempts, timeout_seconds, lease_seconds, backoff_seconds, backoff_cap_seconds)
  select e.key, p.queue, p.max_attempts, p.timeout_seconds, p.lease_seconds, p.backoff_seconds, p.backoff_cap_seconds
  from jsonb_each(job_types) e
  cross join lateral jsonb_to_record(e.value) as p (queue text, max_attempts integer, timeout_seconds real,
    lease_seconds real, backoff_seconds real, backoff_cap_seconds real)
  order by e.key
  on conflict (name) do update set queue = excluded.queue, max_attempts = excluded.max_attempts,
    timeout_seconds = excluded.timeout_seconds, lease_seconds = excluded.lease_seconds,
    backoff_seconds = excluded.backoff_seconds, backoff_cap_seconds = excluded.backoff_cap_seconds,
    registered_at = picture_queue._now()
  where (t.queue, t.max_attempts, t.timeout_seconds, t.lease_seconds, t.backoff_seconds, t.backoff_cap_seconds)
    is distinct from (excluded.queue, excluded.max_attempts, excluded.timeout_seconds, excluded.lease_seconds,
      excluded.backoff_seconds, excluded.backoff_cap_seconds);
  perform picture_queue._touch_worker(worker, queues, v_types, false, true);
  return picture_queue.version();
exception when check_violation then
  perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'a job type has a name or a policy out of range',
    'names are letters, digits and _ . : - ; times are above 0 and at most 31536000 seconds');
  return null;
end
$$;
comment on function public.register_worker is 'A worker says what it can run; answers the version of the database.';

create function public.unregister_worker(worker text) returns void
language sql volatile security definer set search_path = ''
as $$ delete from picture_queue.worker w where w.name = unregister_worker.worker $$;
comment on function public.unregister_worker is 'A worker says that it stopped.';


-- 360_function_version.sql

-- version: of the SQL. contract: rises when a function is added or changed. oldest_client_contract:
-- the oldest client these functions still serve.
create function picture_queue.version() returns jsonb
language sql immutable set search_path = ''
as $$ select jsonb_build_object('version', '0.1.0', 'contract', 1, 'oldest_client_contract', 1) $$;

create function public.picture_queue_version() returns jsonb
language sql stable security invoker set search_path = ''
as $$ select picture_queue.version() $$;
comment on function public.picture_queue_version is 'The version of picture-queue in this database.';


-- 400_function__check_input.sql

-- What is wrong with one input of a model: the value and the rule; null if nothing.
-- p_rule is one entry of model.inputs.
create function picture_queue._input_problem(p_rule jsonb, p_value jsonb) returns text
language sql immutable set search_path = ''
as $$
  select case
    when p_rule ->> 'type' = 'integer' and (jsonb_typeof(p_value) <> 'number' or (p_value #>> '{}')::numeric % 1 <> 0)
      then 'is not a whole number'
    when p_rule ->> 'type' in ('number', 'string', 'boolean', 'array') and jsonb_typeof(p_value) <> p_rule ->> 'type'
      then format('is not of type %s', p_rule ->> 'type')
    when p_rule ->> 'format' = 'uri' and exists (
      select from jsonb_array_elements_text(
        case jsonb_typeof(p_value) when 'array' then p_value else jsonb_build_array(p_value) end) u
      where u !~ '^https://[^\s]+$')
      then 'is not an https:// address'
    when jsonb_typeof(p_rule -> 'enum') = 'array' and not (p_rule -> 'enum') @> p_value
      then format('is not one of %s', (select string_agg(v, ', ') from jsonb_array_elements_text(p_rule -> 'enum') v))
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric < (p_rule ->> 'minimum')::numeric
      then format('is below %s', p_rule ->> 'minimum')
    when jsonb_typeof(p_value) = 'number' and (p_value #>> '{}')::numeric > (p_rule ->> 'maximum')::numeric
      then format('is above %s', p_rule ->> 'maximum')
  end
$$;

-- Refuses a prompt or an input that does not fit the model, naming the field, the value and the rule.
create function picture_queue._check_input(p_model picture_queue.model, p_prompt text, p_input jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_limit integer := (select max_prompt_length from picture_queue.setting);
  v_takes_prompt boolean := p_model.inputs @> '[{"name": "prompt"}]';
  v_detail text;
begin
  v_detail := case
    when jsonb_typeof(p_input) is distinct from 'object' then 'input is not an object'
    when v_takes_prompt and btrim(coalesce(p_prompt, ''), E' \t\r\n') = '' then 'prompt is empty'
    when length(p_prompt) > v_limit then format('prompt has %s characters, the limit is %s', length(p_prompt), v_limit)
    when not v_takes_prompt and coalesce(p_prompt, '') <> '' then format('%s takes no prompt', p_model.model_id)
    when p_input ? 'prompt' then 'input.prompt is not permitted, prompt is an argument of its own'
  end;
  if v_detail is not null then
    perform picture_queue._refuse('PQ_INVALID_INPUT', v_detail, 'change the prompt');
  end if;
  select format('input.%s is %s and %s', e.key, left(e.value::text, 100),
      coalesce(picture_queue._input_problem(r.rule, e.value), 'is not an input of ' || p_model.model_id))
  into v_detail
  from jsonb_each(p_input) e
  left join jsonb_array_elements(p_model.inputs) as r (rule) on r.rule ->> 'name' = e.key
  where r.rule is null or picture_queue._input_problem(r.rule, e.value) is not null
  order by e.key limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_INPUT', v_detail, format('inputs of %s: %s', p_model.model_id,
      (select string_agg(r.rule ->> 'name', ', ') from jsonb_array_elements(p_model.inputs) as r (rule)
       where r.rule ->> 'name' <> 'prompt')));
  end if;
  select format('input.%s is missing', r.rule ->> 'name') into v_detail
  from jsonb_array_elements(p_model.inputs) as r (rule)
  where (r.rule ->> 'required')::boolean and r.rule ->> 'name' <> 'prompt' and not p_input ? (r.rule ->> 'name')
  limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_INPUT', v_detail, format('%s requires it', p_model.model_id));
  end if;
end
$$;


-- 410_function_start_generation.sql

-- Refuses options that are not known, or not the caller's to set.
create function picture_queue._check_options(p_options jsonb) returns void
language plpgsql stable set search_path = ''
as $$
declare
  v_service boolean := picture_queue._is_service();
  v_detail text;
begin
  if jsonb_typeof(p_options) is distinct from 'object' then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', 'options is not an object');
  end if;
  select format('options.%s is not known', k) into v_detail from jsonb_object_keys(p_options) k
  where k not in ('scheduled_for', 'idempotency_key', 'generation_id', 'user_id', 'priority') order by k limit 1;
  if found then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', v_detail,
      'known are scheduled_for, idempotency_key, generation_id, user_id and priority');
  elsif not v_service and picture_queue._caller_id() is null then
    perform picture_queue._refuse('PQ_NOT_AUTHENTICATED', 'the token names no user');
  elsif not v_service and p_options ?| array['user_id', 'priority'] then
    perform picture_queue._refuse('PQ_NOT_ALLOWED', 'options.user_id and options.priority need a service key',
      'leave them out: the generation is yours');
  end if;
end
$$;

-- Checks the wish against the model, then writes the generation and its job in one transaction.
-- Repeating it with the same options.generation_id or options.idempotency_key gives the first answer.
create function picture_queue.start_generation(p_prompt text, p_model_id text, p_input jsonb, p_options jsonb)
returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_user uuid;
  v_model picture_queue.model;
  v_generation_id uuid;
  v_job jsonb;
  v_row public.job_queue;
begin
  perform picture_queue._check_options(p_options);
  v_user := case when picture_queue._is_service() then (p_options ->> 'user_id')::uuid else picture_queue._caller_id() end;
  v_generation_id := coalesce((p_options ->> 'generation_id')::uuid, gen_random_uuid());
  select m.* into v_model from picture_queue.model m
  where m.enabled and m.model_id = coalesce(p_model_id, (select default_model from picture_queue.setting));
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_MODEL', format('model_id is %s', left(quote_nullable(p_model_id), 200)),
      'list_models() has those this project offers');
  end if;
  perform picture_queue._check_input(v_model, p_prompt, p_input);

  -- The id of the job follows from the generation's, so a repetition meets the same job.
  v_job := picture_queue._enqueue(jsonb_build_array(jsonb_build_object(
    'job_id', md5('picture_queue job of generation ' || v_generation_id)::uuid,
    'job_type', 'generate-image', 'generation_id', v_generation_id,
    'payload', jsonb_build_object('generation_id', v_generation_id),
    'user_id', v_user, 'priority', (p_options ->> 'priority')::integer,
    'scheduled_for', (p_options ->> 'scheduled_for')::timestamptz,
    'idempotency_key', p_options ->> 'idempotency_key'))) -> 0;
  select * into v_row from public.job_queue where id = (v_job ->> 'job_id')::uuid;
  if v_job ->> 'outcome' = 'created' then
    insert into public.generations (id, user_id, job_id, model_id, prompt, input, status, created_at, updated_at)
    values (v_row.generation_id, v_user, v_row.id, v_model.model_id, coalesce(p_prompt, ''), p_input, v_row.status,
      v_row.created_at, v_row.created_at);
  end if;
  return jsonb_build_object('generation_id', v_row.generation_id, 'job_id', v_row.id, 'status', v_row.status);
end
$$;

create function public.start_generation(
  prompt text, model_id text default null, input jsonb default '{}', options jsonb default '{}')
returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select picture_queue.start_generation(prompt, model_id, input, options) $$;
comment on function public.start_generation is 'Asks for a picture; answers at once with generation_id and job_id.';


-- 420_function_generation.sql

-- Cancels the job of a generation of the caller's.
create function picture_queue.cancel_generation(p_generation_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_job_id uuid;
begin
  select g.job_id into v_job_id from public.generations g
  where g.id = p_generation_id and (picture_queue._is_service() or g.user_id = picture_queue._caller_id());
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_GENERATION', format('generation_id is %s', p_generation_id));
  end if;
  return picture_queue.cancel_job(v_job_id) || jsonb_build_object('generation_id', p_generation_id);
end
$$;

create function public.cancel_generation(generation_id uuid) returns jsonb
language sql volatile security invoker set search_path = ''
as $$ select picture_queue.cancel_generation(generation_id) $$;
comment on function public.cancel_generation is 'Cancels a generation of the caller''s.';

-- The models on offer, with their inputs.
create function picture_queue.list_models() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'model_id', m.model_id, 'kind', m.kind, 'inputs', m.inputs, 'typical_seconds', m.typical_seconds,
    'price_usd_per_image', m.price_usd_per_image, 'default', m.model_id = s.default_model) order by m.model_id), '[]')
  from picture_queue.model m cross join picture_queue.setting s
  where m.enabled
$$;

create function public.list_models() returns jsonb
language sql stable security invoker set search_path = ''
as $$ select picture_queue.list_models() $$;
comment on function public.list_models is 'The models on offer, with their inputs.';


-- 430_function_prediction.sql

-- The worker's side of a generation: pay once. begin_prediction commits a row before Replicate is
-- called, or gives back the live one of a worker that died; record_prediction learns the id right
-- after; the row ends with finish_prediction. All under the lease of the job.

-- Answers what to send. prediction.id is the row; resumed says that the row was there before: a live
-- one, or one that succeeded, with images as saved, whose worker died before it could report. owned are
-- the prediction ids of the last two hours that belong to rows, so that an orphan can be told.
create function public.begin_prediction(job_id uuid, lease_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._leased(job_id, lease_id);
  v_generation public.generations;
  v_model picture_queue.model;
  v_row picture_queue.prediction;
  v_resumed boolean;
begin
  select * into v_generation from public.generations g where g.id = v_job.generation_id;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_GENERATION', format('job %s has no generation', v_job.id));
  end if;
  select * into v_model from picture_queue.model m where m.model_id = v_generation.model_id;
  if not found then
    perform picture_queue._refuse('PQ_UNKNOWN_MODEL', format('model_id is %s', v_generation.model_id));
  end if;
  select * into v_row from picture_queue.prediction p
  where p.generation_id = v_generation.id and p.state in ('creating', 'created', 'succeeded')
  order by p.state = 'succeeded', p.created_at desc limit 1;
  v_resumed := found;
  if not v_resumed then
    insert into picture_queue.prediction (job_id, generation_id, attempt, model_id, input, created_at, updated_at)
    values (v_job.id, v_generation.id, v_job.attempt, v_model.model_id,
      v_generation.input || case when v_model.inputs @> '[{"name": "prompt"}]'
        then jsonb_build_object('prompt', v_generation.prompt) else '{}' end,
      picture_queue._now(), picture_queue._now())
    returning * into v_row;
  end if;
  return jsonb_build_object(
    'generation', to_jsonb(v_generation), 'model', to_jsonb(v_model), 'prediction', to_jsonb(v_row),
    'resumed', v_resumed,
    'images', (select coalesce(jsonb_agg(to_jsonb(i) order by i.n), '[]') from public.images i
      where i.generation_id = v_generation.id),
    'owned', (select coalesce(jsonb_agg(p.prediction_id), '[]') from picture_queue.prediction p
      where p.prediction_id is not null and p.created_at > picture_queue._now() - interval '2 hours'));
end
$$;
comment on function public.begin_prediction is 'Commits the row of a prediction, or gives back the one there is.';

-- The row of a prediction, live and of this lease's job, locked.
create function picture_queue._live_prediction(p_job_id uuid, p_lease_id uuid, p_prediction uuid)
returns picture_queue.prediction
language plpgsql set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._leased(p_job_id, p_lease_id);
  v_row picture_queue.prediction;
begin
  select * into v_row from picture_queue.prediction p
  where p.id = p_prediction and p.generation_id = v_job.generation_id for update;
  if not found then
    perform picture_queue._refuse('PQ_CONFLICT', format('prediction %s is not one of job %s', p_prediction, p_job_id));
  end if;
  return v_row;
end
$$;

create function public.record_prediction(job_id uuid, lease_id uuid, prediction uuid, prediction_id text) returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_row picture_queue.prediction := picture_queue._live_prediction(job_id, lease_id, prediction);
begin
  if v_row.prediction_id is not distinct from record_prediction.prediction_id then
    return;
  elsif v_row.state <> 'creating' then
    perform picture_queue._refuse('PQ_CONFLICT', format('prediction %s is %s already', prediction, v_row.state));
  end if;
  update picture_queue.prediction p
  set prediction_id = record_prediction.prediction_id, state = 'created', updated_at = picture_queue._now()
  where p.id = v_row.id;
exception when unique_violation then
  perform picture_queue._refuse('PQ_CONFLICT', format('prediction_id %s belongs to another row', prediction_id));
end
$$;
comment on function public.record_prediction is 'Stores the id Replicate gave to a prediction.';

-- state: succeeded, failed, canceled, aborted, or lost (outcome unknown and nothing found).
create function public.finish_prediction(
  job_id uuid, lease_id uuid, prediction uuid, state text, error text default null, metrics jsonb default null)
returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_row picture_queue.prediction := picture_queue._live_prediction(job_id, lease_id, prediction);
begin
  if coalesce(state, '') not in ('succeeded', 'failed', 'canceled', 'aborted', 'lost') then
    perform picture_queue._refuse('PQ_INVALID_ARGUMENT', format('state is %s', quote_nullable(state)));
  end if;
  update picture_queue.prediction p
  set state = finish_prediction.state, error = left(finish_prediction.error, 8192),
    metrics = finish_prediction.metrics, updated_at = picture_queue._now(), finished_at = picture_queue._now()
  where p.id = v_row.id and p.state in ('creating', 'created');
end
$$;
comment on function public.finish_prediction is 'Ends the row of a prediction.';

-- images: n, path, mime_type, width, height, bytes of each; repeating it changes nothing.
create function public.save_images(job_id uuid, lease_id uuid, images jsonb) returns void
language plpgsql security definer set search_path = ''
as $$
declare
  v_job public.job_queue := picture_queue._leased(job_id, lease_id);
begin
  insert into public.images (generation_id, user_id, n, path, mime_type, width, height, bytes)
  select v_job.generation_id, v_job.user_id, i.n, i.path, i.mime_type, i.width, i.height, i.bytes
  from jsonb_to_recordset(images) as i (
    n integer, path text, mime_type text, width integer, height integer, bytes bigint)
  order by i.n
  on conflict (generation_id, n) do update set path = excluded.path, mime_type = excluded.mime_type,
    width = excluded.width, height = excluded.height, bytes = excluded.bytes;
end
$$;
comment on function public.save_images is 'Writes the images of a generation under the lease of its job.';


-- 500_views.sql

-- One row a queue: what waits, what runs, what failed lately. Reads partial indexes, not the history.
create view public.queue_health with (security_invoker = true) as
select q.name as queue,
  coalesce(c.pending, 0) as pending,
  coalesce(c.scheduled, 0) as scheduled,
  coalesce(c.processing, 0) as processing,
  coalesce(c.parked, 0) as parked,
  (select count(*) from public.job_queue f where f.status = 'failed' and f.queue = q.name
    and f.finished_at > now() - interval '1 day') as failed_last_day,
  coalesce(c.oldest_pending_seconds, 0) as oldest_pending_seconds,
  (select count(*) from picture_queue.worker w
    where w.queues @> array[q.name] and w.seen_at > now() - interval '1 minute') as workers
from picture_queue.queue q
left join (
  select queue,
    count(*) filter (where status = 'pending' and hold is null) as pending,
    count(*) filter (where hold = 'scheduled') as scheduled,
    count(*) filter (where status = 'processing' and hold is null) as processing,
    count(*) filter (where hold = 'parked') as parked,
    round(extract(epoch from now() - min(greatest(created_at, scheduled_for))
      filter (where status = 'pending' and hold is null)), 3) as oldest_pending_seconds
  from (
    select queue, status, hold, created_at, scheduled_for from public.job_queue
    where status = 'pending' and hold is null
    union all
    select queue, status, hold, created_at, scheduled_for from public.job_queue
    where status = 'processing' and hold is null
    union all
    select queue, status, hold, created_at, scheduled_for from public.job_queue
    where hold in ('scheduled', 'parked')
  ) open_jobs
  group by queue
) c on c.queue = q.name
order by q.name;
comment on view public.queue_health is 'One row a queue: what waits, what runs, what failed in the last day.';

create view public.failed_jobs_recent with (security_invoker = true) as
select id, queue, job_type, error, attempt, max_attempts, user_id, created_at, finished_at
from public.job_queue
where status = 'failed'
order by finished_at desc;
comment on view public.failed_jobs_recent is 'Failed jobs, the newest first.';

-- Processing for more than ten minutes, or the lease expired and nobody has swept it yet.
create view public.stuck_jobs with (security_invoker = true) as
select id, queue, job_type, worker, attempt, max_attempts, started_at, lease_expires_at, user_id
from public.job_queue
where status = 'processing' and hold is null
  and (started_at < now() - interval '10 minutes' or lease_expires_at < now())
order by started_at;
comment on view public.stuck_jobs is 'Jobs processing for over ten minutes, or with an expired lease.';


-- 510_function_health.sql

-- Everything an operator asks first: the queues, the workers of the last minute, and the job types
-- that wait although no worker knows them.
create function public.queue_status() returns jsonb
language sql stable security definer set search_path = ''
as $$
  select jsonb_build_object(
    'queues', (select coalesce(jsonb_agg(to_jsonb(h)), '[]') from public.queue_health h),
    'workers', (
      select coalesce(jsonb_agg(jsonb_build_object('worker', w.name, 'queues', w.queues, 'job_types', w.job_types,
        'idle', w.idle, 'seen_at', w.seen_at) order by w.name), '[]')
      from picture_queue.worker w where w.seen_at > picture_queue._now() - interval '1 minute'),
    'job_types_without_worker', (
      select coalesce(jsonb_agg(jsonb_build_object('job_type', u.job_type, 'queue', u.queue, 'pending', u.pending)
        order by u.job_type, u.queue), '[]')
      from (
        select j.job_type, j.queue, count(*) as pending from public.job_queue j
        where j.status = 'pending' and j.hold is null and not exists (
          select from picture_queue.worker w
          where j.queue = any (w.queues) and j.job_type = any (w.job_types)
            and w.seen_at > picture_queue._now() - interval '1 minute')
        group by j.job_type, j.queue
      ) u),
    'stuck', (select count(*) from public.stuck_jobs))
$$;
comment on function public.queue_status is 'Queues, workers, and job types that wait although no worker knows them.';


-- 600_trigger_updated_at.sql

create function picture_queue._set_updated_at() returns trigger
language plpgsql set search_path = ''
as $$
begin
  new.updated_at := picture_queue._now();
  return new;
end
$$;

create trigger job_queue_updated_at before update on public.job_queue
for each row execute function picture_queue._set_updated_at();


-- 700_data_models.sql

-- The catalogue, written by scripts/build_migration.py from picture_queue/replicate/models.json.
insert into picture_queue.model
  (model_id, kind, official, version, typical_seconds, price_usd_per_image, max_outputs_param,
   output, progress_in_logs, inputs)
select m.id, m.kind, m.official, m.version, m.typical_seconds, m.price_usd_per_image,
  m.max_outputs_param, m.output, m.progress_in_logs, m.inputs
from jsonb_to_recordset($models$
[
{"id": "black-forest-labs/flux-schnell", "kind": "text-to-image", "official": true, "version": "bf53bdb93d739c9c915091cfa5f49ca662d11273a5eb30e7a2ec1939bcf27a00", "typical_seconds": 0.8, "price_usd_per_image": 0.003, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 4, "minimum": 1, "maximum": 4}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "megapixels", "type": "string", "required": false, "default": "1", "enum": ["1", "0.25"]}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "black-forest-labs/flux-dev", "kind": "text-to-image", "official": true, "version": "0cce3d40843963ebc7b6d976778e977c8f3ae3d0980a37cb5204f8fa0289e3d2", "typical_seconds": 3.2, "price_usd_per_image": 0.025, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "3:4", "4:3", "9:16", "9:21"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 28, "minimum": 1, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 0, "maximum": 10}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "megapixels", "type": "string", "required": false, "default": "1", "enum": ["1", "0.25"]}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "black-forest-labs/flux-pro", "kind": "text-to-image", "official": true, "version": "caf8d6bf110808c53bb90767ea81e1bbd0f0690ba37a4a24b27b17e2f9a5c011", "typical_seconds": 14.1, "price_usd_per_image": 0.055, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "2:3", "3:2", "4:5", "5:4", "9:16"]}, {"name": "steps", "type": "integer", "required": false, "default": 25, "minimum": 1, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 2, "maximum": 5}, {"name": "interval", "type": "number", "required": false, "default": 2, "minimum": 1, "maximum": 4}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 5}, {"name": "seed", "type": "integer", "required": false}], "output": "uri", "progress_in_logs": "empty"},
{"id": "black-forest-labs/flux-1.1-pro", "kind": "text-to-image", "official": true, "version": "96ccd0e758a1796926584ded2246369cdf8eb3d7c34475cf9c442be5e097d926", "typical_seconds": 8.7, "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_prompt", "type": "string", "format": "uri", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]}, {"name": "width", "type": "integer", "required": false, "minimum": 256, "maximum": 1440}, {"name": "height", "type": "integer", "required": false, "minimum": 256, "maximum": 1440}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 6}, {"name": "seed", "type": "integer", "required": false}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "output": "uri", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-1.1-pro-ultra", "kind": "text-to-image", "official": true, "price_usd_per_image": 0.06, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "raw", "type": "boolean", "required": false, "default": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16", "9:21"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 6}, {"name": "image_prompt", "type": "string", "format": "uri", "required": false}, {"name": "image_prompt_strength", "type": "number", "required": false, "default": 0.1, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}], "output": "uri"},
{"id": "black-forest-labs/flux-kontext-pro", "kind": "image-edit", "official": true, "version": "0a1381936934845a14efcc9f309ce7d031cb905867878b5c5830280e00e97606", "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_image", "type": "string", "format": "uri", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image", "enum": ["match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["jpg", "png"]}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 0, "maximum": 6}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}], "output": "uri"},
{"id": "black-forest-labs/flux-kontext-max", "kind": "image-edit", "official": true, "version": "b94039e52f5065899a5f50cc69186801e28d63c74b0a3dafc22ea93bbdf4c36c", "price_usd_per_image": 0.08, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_image", "type": "string", "format": "uri", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image", "enum": ["match_input_image", "1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["jpg", "png"]}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 0, "maximum": 6}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}], "output": "uri"},
{"id": "black-forest-labs/flux-kontext-dev", "kind": "image-edit", "version": "a1408d2c4fd0af9bf22673accc5c066780fb26f50c70564eddf568601969aee8", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_image", "type": "string", "format": "uri", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image"}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 30, "minimum": 4, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 2.5, "minimum": 0, "maximum": 10}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "output": "uri"},
{"id": "black-forest-labs/flux-2-pro", "kind": "text-to-image", "official": true, "version": "f558a59a8bf126d892ab219846966674f6acc616940c17841aeb242e245952ff", "typical_seconds": 5.6, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_images", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["match_input_image", "custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "1 MP", "enum": ["match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP"]}, {"name": "width", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "height", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 5}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "output": "uri", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-2-max", "kind": "text-to-image", "official": true, "version": "9c23b0aaa98765a9676dbdda58b9c9915627751300747bad54cb1c11b135d3ca", "typical_seconds": 30.8, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "input_images", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["match_input_image", "custom", "1:1", "16:9", "3:2", "2:3", "4:5", "5:4", "9:16", "3:4", "4:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "1 MP", "enum": ["match_input_image", "0.5 MP", "1 MP", "2 MP", "4 MP"]}, {"name": "width", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "height", "type": "integer", "required": false, "minimum": 256, "maximum": 2048}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 5}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "output": "uri", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-2-klein-9b", "kind": "text-to-image", "version": "963f7b2c4aa2bc7e6377b95759dcf3a21cf175f6e8b0d8c1efe7bf6c8a23b690", "typical_seconds": 0.7, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "images", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "9:16", "3:2", "2:3", "4:3", "3:4", "5:4", "4:5", "21:9", "9:21", "match_input_image"]}, {"name": "megapixels", "type": "string", "required": false, "default": "1", "enum": ["0.25", "0.5", "1", "2", "4"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 95, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "output": "uri[]", "progress_in_logs": "text"},
{"id": "black-forest-labs/flux-redux-dev", "kind": "image-variation", "official": true, "version": "96b56814e57dfa601f3f524f82a2b336ef49012cda68828cb37cde66f481b7cb", "price_usd_per_image": 0.025, "max_outputs_param": "num_outputs", "inputs": [{"name": "redux_image", "type": "string", "format": "uri", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 28, "minimum": 1, "maximum": 50}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 0, "maximum": 10}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}, {"name": "megapixels", "type": "string", "required": false, "default": "1"}], "output": "uri[]"},
{"id": "black-forest-labs/flux-fill-pro", "kind": "image-edit", "official": true, "version": "9609ba7331ed872c99f81c92c69a9ee52a50d8aba99f636173e0674d997efd0c", "price_usd_per_image": 0.05, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "outpaint", "type": "string", "required": false, "default": "None", "enum": ["None", "Zoom out 1.5x", "Zoom out 2x", "Make square", "Left outpaint", "Right outpaint", "Top outpaint", "Bottom outpaint"]}, {"name": "seed", "type": "integer", "required": false}, {"name": "steps", "type": "integer", "required": false, "default": 50, "minimum": 1, "maximum": 50}, {"name": "prompt_upsampling", "type": "boolean", "required": false, "default": false}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 2, "maximum": 5}, {"name": "safety_tolerance", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 6}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}], "output": "uri"},
{"id": "stability-ai/sdxl", "kind": "text-to-image", "official": false, "version": "7762fd07cf82c948538e41f63f77d685e02b063e37e496e96eefd46c929f9bdc", "typical_seconds": 5.0, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "An astronaut riding a rainbow unicorn"}, {"name": "negative_prompt", "type": "string", "required": false, "default": ""}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "width", "type": "integer", "required": false, "default": 1024}, {"name": "height", "type": "integer", "required": false, "default": 1024}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "scheduler", "type": "string", "required": false, "default": "K_EULER", "enum": ["DDIM", "DPMSolverMultistep", "HeunDiscrete", "KarrasDPM", "K_EULER_ANCESTRAL", "K_EULER", "PNDM"]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 50, "minimum": 1, "maximum": 500}, {"name": "guidance_scale", "type": "number", "required": false, "default": 7.5, "minimum": 1, "maximum": 50}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}, {"name": "refine", "type": "string", "required": false, "default": "no_refiner", "enum": ["no_refiner", "expert_ensemble_refiner", "base_image_refiner"]}, {"name": "high_noise_frac", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}, {"name": "refine_steps", "type": "integer", "required": false}, {"name": "apply_watermark", "type": "boolean", "required": false, "default": true}, {"name": "lora_scale", "type": "number", "required": false, "default": 0.6, "minimum": 0, "maximum": 1}, {"name": "replicate_weights", "type": "string", "required": false}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "stability-ai/stable-diffusion-3.5-large", "kind": "text-to-image", "official": true, "version": "feb36d70a9f2791ed9df99f795ea5684da18f52b5f6b488dfdef635ca19d6bd3", "price_usd_per_image": 0.065, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "cfg", "type": "number", "required": false, "default": 5, "minimum": 1, "maximum": 10}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}], "output": "uri"},
{"id": "stability-ai/stable-diffusion-3.5-medium", "kind": "text-to-image", "official": true, "version": "1323a3a68cbf2b58c708f38fba9557e39d68a77cb287a8d7372ba0443f6f0767", "price_usd_per_image": 0.035, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "cfg", "type": "number", "required": false, "default": 5, "minimum": 1, "maximum": 10}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}], "output": "uri"},
{"id": "stability-ai/stable-diffusion-3.5-large-turbo", "kind": "text-to-image", "official": true, "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1"}, {"name": "cfg", "type": "number", "required": false, "default": 1}, {"name": "steps", "type": "integer", "required": false, "default": 4, "minimum": 1, "maximum": 10}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp"}, {"name": "output_quality", "type": "integer", "required": false, "default": 90, "maximum": 100}]},
{"id": "stability-ai/stable-diffusion-3", "kind": "text-to-image", "version": "527d2a6296facb8e47ba1eaf17f142c240c19a30894f437feee9b91cc29d8e4f", "typical_seconds": 2.8, "inputs": [{"name": "prompt", "type": "string", "required": false, "default": ""}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "21:9", "3:2", "2:3", "4:5", "5:4", "9:16", "9:21"]}, {"name": "cfg", "type": "number", "required": false, "default": 3.5, "minimum": 0, "maximum": 20}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "prompt_strength", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "steps", "type": "integer", "required": false, "default": 28, "minimum": 1, "maximum": 28}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 90, "minimum": 0, "maximum": 100}, {"name": "seed", "type": "integer", "required": false}, {"name": "negative_prompt", "type": "string", "required": false, "default": ""}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "bytedance/sdxl-lightning-4step", "kind": "text-to-image", "official": false, "version": "5599ed30703defd1d160a25a63321b4dec97101d98b4674bcc56e41f62f35637", "typical_seconds": 0.9, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "self-portrait of a woman, lightning in the background"}, {"name": "negative_prompt", "type": "string", "required": false, "default": "worst quality, low quality"}, {"name": "width", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 1280}, {"name": "height", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 1280}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "scheduler", "type": "string", "required": false, "default": "K_EULER", "enum": ["DDIM", "DPMSolverMultistep", "HeunDiscrete", "KarrasDPM", "K_EULER_ANCESTRAL", "K_EULER", "PNDM", "DPM++2MSDE"]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 4, "minimum": 1, "maximum": 10}, {"name": "guidance_scale", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 50}, {"name": "seed", "type": "integer", "required": false}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "ideogram-ai/ideogram-v2", "kind": "text-to-image", "official": true, "version": "d07f7f3ad03f2ec100edeaa91e26ac731d7d00ec369e6a475b80c04bd1101d5d", "typical_seconds": 19.6, "price_usd_per_image": 0.08, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "16:10", "10:16", "3:1", "1:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1024", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "720x1280", "736x1312", "768x1024", "768x1088", "768x1152", "768x1216", "768x1232", "768x1280", "768x1344", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x640", "1024x768", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x768", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1232x768", "1248x832", "1280x704", "1280x720", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design", "Render 3D", "Anime"]}, {"name": "seed", "type": "integer", "required": false}], "output": "uri", "progress_in_logs": "text"},
{"id": "ideogram-ai/ideogram-v2-turbo", "kind": "text-to-image", "official": true, "version": "fbb188a06a69327a5daa9d82162b31528823d918705aefeeebd17856f856cfac", "typical_seconds": 12.4, "price_usd_per_image": 0.05, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "16:10", "10:16", "3:1", "1:3"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1024", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "720x1280", "736x1312", "768x1024", "768x1088", "768x1152", "768x1216", "768x1232", "768x1280", "768x1344", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x640", "1024x768", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x768", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1232x768", "1248x832", "1280x704", "1280x720", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design", "Render 3D", "Anime"]}, {"name": "seed", "type": "integer", "required": false}], "output": "uri", "progress_in_logs": "text"},
{"id": "ideogram-ai/ideogram-v3-turbo", "kind": "text-to-image", "official": true, "typical_seconds": 6.1, "price_usd_per_image": 0.03, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:3", "3:1", "1:2", "2:1", "9:16", "16:9", "10:16", "16:10", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "1:1"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design"]}, {"name": "style_reference_images", "type": "array", "format": "uri", "required": false}, {"name": "style_preset", "type": "string", "required": false, "default": "None"}, {"name": "seed", "type": "integer", "required": false, "maximum": 2147483647}]},
{"id": "ideogram-ai/ideogram-v3-balanced", "kind": "text-to-image", "official": true, "price_usd_per_image": 0.06, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:3", "3:1", "1:2", "2:1", "9:16", "16:9", "10:16", "16:10", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "1:1"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design"]}, {"name": "style_reference_images", "type": "array", "format": "uri", "required": false}, {"name": "style_preset", "type": "string", "required": false, "default": "None"}, {"name": "seed", "type": "integer", "required": false, "maximum": 2147483647}]},
{"id": "ideogram-ai/ideogram-v3-quality", "kind": "text-to-image", "official": true, "version": "03944eb99122997251eaa29263ada2fbc2cc943ccd8c27d3c8af453acde737c8", "price_usd_per_image": 0.09, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:3", "3:1", "1:2", "2:1", "9:16", "16:9", "10:16", "16:10", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "1:1"]}, {"name": "resolution", "type": "string", "required": false, "default": "None", "enum": ["None", "512x1536", "576x1408", "576x1472", "576x1536", "640x1344", "640x1408", "640x1472", "640x1536", "704x1152", "704x1216", "704x1280", "704x1344", "704x1408", "704x1472", "736x1312", "768x1088", "768x1216", "768x1280", "768x1344", "800x1280", "832x960", "832x1024", "832x1088", "832x1152", "832x1216", "832x1248", "864x1152", "896x960", "896x1024", "896x1088", "896x1120", "896x1152", "960x832", "960x896", "960x1024", "960x1088", "1024x832", "1024x896", "1024x960", "1024x1024", "1088x768", "1088x832", "1088x896", "1088x960", "1120x896", "1152x704", "1152x832", "1152x864", "1152x896", "1216x704", "1216x768", "1216x832", "1248x832", "1280x704", "1280x768", "1280x800", "1312x736", "1344x640", "1344x704", "1344x768", "1408x576", "1408x640", "1408x704", "1472x576", "1472x640", "1472x704", "1536x512", "1536x576", "1536x640"]}, {"name": "magic_prompt_option", "type": "string", "required": false, "default": "Auto", "enum": ["Auto", "On", "Off"]}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "style_type", "type": "string", "required": false, "default": "None", "enum": ["None", "Auto", "General", "Realistic", "Design"]}, {"name": "style_reference_images", "type": "array", "format": "uri", "required": false}, {"name": "style_preset", "type": "string", "required": false, "default": "None"}, {"name": "seed", "type": "integer", "required": false, "maximum": 2147483647}]},
{"id": "recraft-ai/recraft-v3", "kind": "text-to-image", "official": true, "version": "e06217725b21e2c059a09b3f44b4aef56574173aee9976c9726bdc0f474d7f46", "typical_seconds": 8.8, "price_usd_per_image": 0.04, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "size", "type": "string", "required": false, "default": "1024x1024", "enum": ["1024x1024", "1365x1024", "1024x1365", "1536x1024", "1024x1536", "1820x1024", "1024x1820", "1024x2048", "2048x1024", "1434x1024", "1024x1434", "1024x1280", "1280x1024", "1024x1707", "1707x1024"]}, {"name": "style", "type": "string", "required": false, "default": "any", "enum": ["any", "realistic_image", "digital_illustration", "digital_illustration/pixel_art", "digital_illustration/hand_drawn", "digital_illustration/grain", "digital_illustration/infantile_sketch", "digital_illustration/2d_art_poster", "digital_illustration/handmade_3d", "digital_illustration/hand_drawn_outline", "digital_illustration/engraving_color", "digital_illustration/2d_art_poster_2", "realistic_image/b_and_w", "realistic_image/hard_flash", "realistic_image/hdr", "realistic_image/natural_light", "realistic_image/studio_portrait", "realistic_image/enterprise", "realistic_image/motion_blur"]}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "Not set"}], "output": "uri", "progress_in_logs": "text"},
{"id": "recraft-ai/recraft-v3-svg", "kind": "vector", "official": true, "price_usd_per_image": 0.08, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "size", "type": "string", "required": false, "default": "1024x1024"}, {"name": "style", "type": "string", "required": false, "default": "any"}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "Not set"}], "output": "uri"},
{"id": "recraft-ai/recraft-crisp-upscale", "kind": "upscale", "official": true, "version": "31c70d9026bbd25ee2b751825e19101e0321b8814c33863c88fe5d0d63c00c82", "price_usd_per_image": 0.006, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "output": "uri"},
{"id": "recraft-ai/recraft-vectorize", "kind": "vector", "version": "9f71824b45b71f56b576b97149c314989cfabf90b08f0506ffcdc9fa62beb05d", "typical_seconds": 6.7, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "output": "uri", "progress_in_logs": "text"},
{"id": "recraft-ai/recraft-v4", "kind": "text-to-image", "version": "7f7d8cad0d7b7af205a2b46a4031f8c7084a9857609b9547a9f3c044afe64212", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "Not set"}, {"name": "size", "type": "string", "required": false, "default": "1024x1024"}], "output": "uri"},
{"id": "google/imagen-4", "kind": "text-to-image", "official": true, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "9:16", "16:9", "3:4", "4:3"]}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}], "output": "uri"},
{"id": "google/imagen-4-fast", "kind": "text-to-image", "official": true, "price_usd_per_image": 0.02, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "9:16", "16:9", "3:4", "4:3"]}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}], "output": "uri"},
{"id": "google/imagen-4-ultra", "kind": "text-to-image", "official": true, "version": "eb08b03f79ebc3d4b2542baacca07cc1e0729d24ed1730945555409f0ee30e1a", "price_usd_per_image": 0.06, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "9:16", "16:9", "3:4", "4:3"]}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}], "output": "uri"},
{"id": "google/nano-banana", "kind": "image-edit", "official": true, "version": "adfd722f0c8b5abd782eac022a625a14fb812951de19618dfc4979f6651a00b4", "typical_seconds": 10.5, "price_usd_per_image": 0.039, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_input", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}, {"name": "aspect_ratio", "type": "string", "required": false, "enum": ["match_input_image", "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"]}], "output": "uri", "progress_in_logs": "text"},
{"id": "google/nano-banana-pro", "kind": "image-edit", "official": true, "version": "f5318740f60d79bf0c480216aaf9ca7614977553170eacd19ff8cbcda2409ac8", "price_usd_per_image": 0.15, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_input", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image"}, {"name": "resolution", "type": "string", "required": false, "default": "2K", "enum": ["1K", "2K", "4K"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg"}, {"name": "safety_filter_level", "type": "string", "required": false, "default": "block_only_high", "enum": ["block_low_and_above", "block_medium_and_above", "block_only_high"]}], "output": "uri"},
{"id": "bytedance/seedream-3", "kind": "text-to-image", "version": "9b49a0d87ee348c6c53783fc231dbdd65b13d8f90c95d8bd285d06eb745ccfb5", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "seed", "type": "integer", "required": false}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "16:9"}, {"name": "size", "type": "string", "required": false, "default": "regular", "enum": ["small", "regular", "big"]}, {"name": "width", "type": "integer", "required": false, "default": 2048, "minimum": 512, "maximum": 2048}, {"name": "height", "type": "integer", "required": false, "default": 2048, "minimum": 512, "maximum": 2048}, {"name": "guidance_scale", "type": "number", "required": false, "default": 2.5, "minimum": 1, "maximum": 10}], "output": "uri"},
{"id": "bytedance/seedream-4", "kind": "text-to-image", "official": true, "version": "3ee3b70df63b39e425ccb0188d3c14961177c11fa20516d9dfd30a868b41b2d5", "typical_seconds": 14.4, "price_usd_per_image": 0.03, "max_outputs_param": "max_images", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "image_input", "type": "array", "format": "uri", "required": false, "default": []}, {"name": "size", "type": "string", "required": false, "default": "2K", "enum": ["1K", "2K", "4K", "custom"]}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "match_input_image", "enum": ["match_input_image", "1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3", "21:9"]}, {"name": "width", "type": "integer", "required": false, "default": 2048, "minimum": 1024, "maximum": 4096}, {"name": "height", "type": "integer", "required": false, "default": 2048, "minimum": 1024, "maximum": 4096}, {"name": "sequential_image_generation", "type": "string", "required": false, "default": "disabled", "enum": ["disabled", "auto"]}, {"name": "max_images", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 15}, {"name": "enhance_prompt", "type": "boolean", "required": false, "default": true}], "output": "uri[]"},
{"id": "qwen/qwen-image", "kind": "text-to-image", "official": true, "price_usd_per_image": 0.025, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "seed", "type": "integer", "required": false}, {"name": "image", "type": "string", "format": "uri", "required": false}, {"name": "go_fast", "type": "boolean", "required": false, "default": true}, {"name": "guidance", "type": "number", "required": false, "default": 3, "minimum": 0, "maximum": 10}, {"name": "strength", "type": "number", "required": false, "default": 0.9, "minimum": 0, "maximum": 1}, {"name": "image_size", "type": "string", "required": false, "default": "optimize_for_quality", "enum": ["optimize_for_quality", "optimize_for_speed"]}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "16:9", "enum": ["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3"]}, {"name": "lora_weights", "type": "string", "required": false}, {"name": "lora_scale", "type": "number", "required": false, "default": 1}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}, {"name": "enhance_prompt", "type": "boolean", "required": false, "default": false}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 50}, {"name": "disable_safety_checker", "type": "boolean", "required": false, "default": false}], "output": "uri[]"},
{"id": "openai/gpt-image-1", "kind": "text-to-image", "official": true, "version": "a6198aeaea27df5f3a9f11335cd61b2031729f9527cd34e6cdb4bb3ee9355b87", "typical_seconds": 45.9, "max_outputs_param": "number_of_images", "inputs": [{"name": "openai_api_key", "type": "string", "required": true}, {"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "3:2", "2:3"]}, {"name": "input_fidelity", "type": "string", "required": false, "default": "low", "enum": ["low", "high"]}, {"name": "input_images", "type": "array", "format": "uri", "required": false}, {"name": "number_of_images", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 10}, {"name": "quality", "type": "string", "required": false, "default": "auto", "enum": ["low", "medium", "high", "auto"]}, {"name": "background", "type": "string", "required": false, "default": "auto", "enum": ["auto", "transparent", "opaque"]}, {"name": "output_compression", "type": "integer", "required": false, "default": 90, "minimum": 0, "maximum": 100}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["png", "jpeg", "webp"]}, {"name": "moderation", "type": "string", "required": false, "default": "auto", "enum": ["auto", "low"]}, {"name": "user_id", "type": "string", "required": false}], "output": "uri[]"},
{"id": "minimax/image-01", "kind": "text-to-image", "official": true, "version": "928f3bd6ac899108d0ab8cf7f91dfa39a03eda0175e94c9b4cd075776dececf0", "typical_seconds": 30.5, "price_usd_per_image": 0.01, "max_outputs_param": "number_of_images", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "1:1", "enum": ["1:1", "16:9", "4:3", "3:2", "2:3", "3:4", "9:16", "21:9"]}, {"name": "number_of_images", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 9}, {"name": "prompt_optimizer", "type": "boolean", "required": false, "default": true}, {"name": "subject_reference", "type": "string", "format": "uri", "required": false}], "output": "uri[]"},
{"id": "luma/photon", "kind": "text-to-image", "official": true, "version": "fe142c037cf359764f2058c3a42ef0dc750d908311d02868cbc7769fe800b648", "price_usd_per_image": 0.03, "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "aspect_ratio", "type": "string", "required": false, "default": "16:9", "enum": ["1:1", "3:4", "4:3", "9:16", "16:9", "9:21", "21:9"]}, {"name": "image_reference_url", "type": "string", "format": "uri", "required": false}, {"name": "image_reference_weight", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "style_reference_url", "type": "string", "format": "uri", "required": false}, {"name": "style_reference_weight", "type": "number", "required": false, "default": 0.85, "minimum": 0, "maximum": 1}, {"name": "character_reference_url", "type": "string", "format": "uri", "required": false}, {"name": "seed", "type": "integer", "required": false}], "output": "uri"},
{"id": "nvidia/sana-sprint-1.6b", "kind": "text-to-image", "version": "6ed1ce77cdc8db65550e76d5ab82556d0cb31ac8ab3c4947b168a0bda7b962e4", "inputs": [{"name": "prompt", "type": "string", "required": true}, {"name": "width", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 4096}, {"name": "height", "type": "integer", "required": false, "default": 1024, "minimum": 256, "maximum": 4096}, {"name": "inference_steps", "type": "integer", "required": false, "default": 2, "minimum": 1, "maximum": 4}, {"name": "intermediate_timesteps", "type": "number", "required": false, "default": 1.3, "minimum": 0.5, "maximum": 1.5}, {"name": "guidance_scale", "type": "number", "required": false, "default": 4.5, "minimum": 1, "maximum": 20}, {"name": "seed", "type": "integer", "required": false, "default": -1}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["webp", "jpg", "png"]}, {"name": "output_quality", "type": "integer", "required": false, "default": 80, "minimum": 0, "maximum": 100}], "output": "uri"},
{"id": "nvidia/sana", "kind": "text-to-image", "official": false, "typical_seconds": 7, "price_usd_per_image": 0.0097, "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "a cyberpunk cat with a neon sign that says \"Sana\""}, {"name": "negative_prompt", "type": "string", "required": false, "default": ""}, {"name": "model_variant", "type": "string", "required": false, "default": "1600M-1024px"}, {"name": "width", "type": "integer", "required": false, "default": 1024}, {"name": "height", "type": "integer", "required": false, "default": 1024}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 18, "minimum": 1}, {"name": "guidance_scale", "type": "number", "required": false, "default": 5, "minimum": 1, "maximum": 20}, {"name": "pag_guidance_scale", "type": "number", "required": false, "default": 2, "minimum": 1, "maximum": 20}, {"name": "seed", "type": "integer", "required": false}]},
{"id": "ai-forever/kandinsky-2.2", "kind": "text-to-image", "version": "ad9d7879fbffa2874e1d909d1d37d9bc682889cc65b31f7bb00d2362619f194a", "typical_seconds": 9.0, "max_outputs_param": "num_outputs", "inputs": [{"name": "prompt", "type": "string", "required": false, "default": "A moss covered astronaut with a black background"}, {"name": "negative_prompt", "type": "string", "required": false}, {"name": "width", "type": "integer", "required": false, "default": 512, "enum": [384, 512, 576, 640, 704, 768, 960, 1024, 1152, 1280, 1536, 1792, 2048]}, {"name": "height", "type": "integer", "required": false, "default": 512, "enum": [384, 512, 576, 640, 704, 768, 960, 1024, 1152, 1280, 1536, 1792, 2048]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 75, "minimum": 1, "maximum": 500}, {"name": "num_inference_steps_prior", "type": "integer", "required": false, "default": 25, "minimum": 1, "maximum": 500}, {"name": "num_outputs", "type": "integer", "required": false, "default": 1, "minimum": 1, "maximum": 4}, {"name": "seed", "type": "integer", "required": false}, {"name": "output_format", "type": "string", "required": false, "default": "webp", "enum": ["webp", "jpeg", "png"]}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "nightmareai/real-esrgan", "kind": "upscale", "version": "f121d640bd286e1fdc67f9799164c1d5be36ff74576ee11c803ae5b665dd46aa", "price_usd_per_image": 0.002, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "scale", "type": "number", "required": false, "default": 4, "minimum": 0, "maximum": 10}, {"name": "face_enhance", "type": "boolean", "required": false, "default": false}], "output": "uri"},
{"id": "philz1337x/clarity-upscaler", "kind": "upscale", "official": false, "version": "dfad41707589d68ecdccd1dfa600d55a208f9310748e44bfe35b4a6291453d5e", "typical_seconds": 12.8, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "prompt", "type": "string", "required": false, "default": "masterpiece, best quality, highres, <lora:more_details:0.5> <lora:SDXLrender_v2.0:1>"}, {"name": "negative_prompt", "type": "string", "required": false, "default": "(worst quality, low quality, normal quality:2) JuggernautNegative-neg"}, {"name": "scale_factor", "type": "number", "required": false, "default": 2}, {"name": "dynamic", "type": "number", "required": false, "default": 6, "minimum": 1, "maximum": 50}, {"name": "creativity", "type": "number", "required": false, "default": 0.35, "minimum": 0, "maximum": 1}, {"name": "resemblance", "type": "number", "required": false, "default": 0.6, "minimum": 0, "maximum": 3}, {"name": "tiling_width", "type": "integer", "required": false, "default": 112, "enum": [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256]}, {"name": "tiling_height", "type": "integer", "required": false, "default": 144, "enum": [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256]}, {"name": "sd_model", "type": "string", "required": false, "default": "juggernaut_reborn.safetensors [338b85bc4f]", "enum": ["epicrealism_naturalSinRC1VAE.safetensors [84d76a0328]", "juggernaut_reborn.safetensors [338b85bc4f]", "flat2DAnimerge_v45Sharp.safetensors"]}, {"name": "scheduler", "type": "string", "required": false, "default": "DPM++ 3M SDE Karras", "enum": ["DPM++ 2M Karras", "DPM++ SDE Karras", "DPM++ 2M SDE Exponential", "DPM++ 2M SDE Karras", "Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2M SDE Heun Karras", "DPM++ 2M SDE Heun Exponential", "DPM++ 3M SDE", "DPM++ 3M SDE Karras", "DPM++ 3M SDE Exponential", "DPM fast", "DPM adaptive", "LMS Karras", "DPM2 Karras", "DPM2 a Karras", "DPM++ 2S a Karras", "Restart", "DDIM", "PLMS", "UniPC"]}, {"name": "num_inference_steps", "type": "integer", "required": false, "default": 18, "minimum": 1, "maximum": 100}, {"name": "seed", "type": "integer", "required": false, "default": 1337}, {"name": "downscaling", "type": "boolean", "required": false, "default": false}, {"name": "downscaling_resolution", "type": "integer", "required": false, "default": 768}, {"name": "lora_links", "type": "string", "required": false, "default": ""}, {"name": "custom_sd_model", "type": "string", "required": false, "default": ""}, {"name": "sharpen", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 10}, {"name": "mask", "type": "string", "format": "uri", "required": false}, {"name": "handfix", "type": "string", "required": false, "default": "disabled", "enum": ["disabled", "hands_only", "image_and_hands"]}, {"name": "pattern", "type": "boolean", "required": false, "default": false}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["webp", "jpg", "png"]}], "output": "uri[]", "progress_in_logs": "percent"},
{"id": "philz1337x/crystal-upscaler", "kind": "upscale", "official": true, "version": "5d917b1444c89ed91055f3052d27e1ad433a1218599a36544510e1dfa9ac26c8", "typical_seconds": 12.0, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "scale_factor", "type": "number", "required": false, "default": 2}, {"name": "creativity", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 10}, {"name": "output_format", "type": "string", "required": false, "default": "png", "enum": ["png", "jpg"]}], "output": "uri", "progress_in_logs": "text"},
{"id": "topazlabs/image-upscale", "kind": "upscale", "version": "2fdc3b86a01d338ae89ad58e5d9241398a8a01de9b0dda41ba8a0434c8a00dc3", "typical_seconds": 12.8, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "enhance_model", "type": "string", "required": false, "default": "Standard V2", "enum": ["Standard V2", "Low Resolution V2", "CGI", "High Fidelity V2", "Text Refine"]}, {"name": "upscale_factor", "type": "string", "required": false, "default": "None", "enum": ["None", "2x", "4x", "6x"]}, {"name": "output_format", "type": "string", "required": false, "default": "jpg", "enum": ["jpg", "png"]}, {"name": "subject_detection", "type": "string", "required": false, "default": "None", "enum": ["None", "All", "Foreground", "Background"]}, {"name": "face_enhancement", "type": "boolean", "required": false, "default": false}, {"name": "face_enhancement_creativity", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 1}, {"name": "face_enhancement_strength", "type": "number", "required": false, "default": 0.8, "minimum": 0, "maximum": 1}], "output": "uri", "progress_in_logs": "text"},
{"id": "tencentarc/gfpgan", "kind": "upscale", "version": "0fbacf7afc6c144e5be9767cff80f25aff23e52b0708f17e20f9879b2f21516c", "typical_seconds": 1.7, "inputs": [{"name": "img", "type": "string", "format": "uri", "required": true}, {"name": "version", "type": "string", "required": false, "default": "v1.4", "enum": ["v1.2", "v1.3", "v1.4", "RestoreFormer"]}, {"name": "scale", "type": "number", "required": false, "default": 2}], "output": "uri", "progress_in_logs": "text"},
{"id": "sczhou/codeformer", "kind": "upscale", "version": "cc4956dd26fa5a7185d5660cc9100fab1b8070a1d1654a8bb5eb6d443b020bb2", "typical_seconds": 21.3, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "codeformer_fidelity", "type": "number", "required": false, "default": 0.5, "minimum": 0, "maximum": 1}, {"name": "background_enhance", "type": "boolean", "required": false, "default": true}, {"name": "face_upsample", "type": "boolean", "required": false, "default": true}, {"name": "upscale", "type": "integer", "required": false, "default": 2}], "output": "uri", "progress_in_logs": "text"},
{"id": "851-labs/background-remover", "kind": "background-removal", "official": false, "version": "a029dff38972b5fda4ec5d75d7d1cd25aeff621d2cf4946a41055d7db66b80bc", "typical_seconds": 2, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}, {"name": "threshold", "type": "number", "required": false, "default": 0, "minimum": 0, "maximum": 1}, {"name": "reverse", "type": "boolean", "required": false, "default": false}, {"name": "background_type", "type": "string", "required": false, "default": "rgba"}, {"name": "format", "type": "string", "required": false, "default": "png"}], "output": "uri"},
{"id": "lucataco/remove-bg", "kind": "background-removal", "official": false, "version": "95fcc2a26d3899cd6c2691c900465aaeff466285a65c14638cc5f36f34befaf1", "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "output": "uri"},
{"id": "smoretalk/rembg-enhance", "kind": "background-removal", "version": "4067ee2a58f6c161d434a9c077cfa012820b8e076efa2772aa171e26557da919", "typical_seconds": 14.6, "inputs": [{"name": "image", "type": "string", "format": "uri", "required": true}], "output": "uri", "progress_in_logs": "text"}
]
$models$) as m (id text, kind text, official boolean, version text, typical_seconds real,
  price_usd_per_image numeric, max_outputs_param text, output text, progress_in_logs text,
  inputs jsonb);


-- 800_policies.sql

-- Users read their own rows and write none: every change goes through a function.
create policy "picture_queue: read own jobs" on public.job_queue
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "picture_queue: read own generations" on public.generations
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "picture_queue: read own images" on public.images
  for select to authenticated using ((select auth.uid()) = user_id);


-- 900_grants.sql

-- Nothing is left to defaults: old projects grant everything to the API roles, new ones nothing, and
-- PostgreSQL lets everybody execute a new function.
revoke all on schema picture_queue from public, anon, authenticated, service_role;
revoke all on all tables in schema picture_queue from public, anon, authenticated, service_role;
revoke execute on all functions in schema picture_queue from public, anon, authenticated, service_role;
revoke all on
  public.job_queue, public.generations, public.images,
  public.queue_health, public.failed_jobs_recent, public.stuck_jobs
  from public, anon, authenticated, service_role;
revoke execute on function
  public.enqueue_job, public.enqueue_jobs, public.claim_next_job, public.claim_jobs, public.heartbeat_jobs,
  public.report_progress, public.report_jobs, public.complete_job, public.cancel_job, public.retry_job,
  public.get_job, public.list_jobs, public.get_generation, public.list_generations, public.register_worker,
  public.unregister_worker, public.picture_queue_version, public.start_generation, public.cancel_generation,
  public.list_models, public.begin_prediction, public.record_prediction, public.finish_prediction,
  public.save_images, public.queue_status
  from public, anon, authenticated, service_role;

grant usage on schema picture_queue to authenticated, service_role;

-- Owners, through row level security, and service keys.
grant select on public.job_queue, public.generations, public.images to authenticated, service_role;
grant execute on function
  public.cancel_job, public.get_job, public.list_jobs, public.get_generation, public.list_generations,
  public.picture_queue_version, public.start_generation, public.cancel_generation, public.list_models
  to authenticated, service_role;
-- What those call with the caller's rights; each takes the caller's identity from the token.
grant execute on function
  picture_queue.cancel_job, picture_queue.start_generation, picture_queue.cancel_generation,
  picture_queue.list_models, picture_queue.version, picture_queue._refuse
  to authenticated, service_role;

-- Service keys only.
grant select on public.queue_health, public.failed_jobs_recent, public.stuck_jobs to service_role;
grant select on picture_queue.queue, picture_queue.worker to service_role;
grant execute on function
  public.enqueue_job, public.enqueue_jobs, public.claim_next_job, public.claim_jobs, public.heartbeat_jobs,
  public.report_progress, public.report_jobs, public.complete_job, public.retry_job, public.register_worker,
  public.unregister_worker, public.begin_prediction, public.record_prediction, public.finish_prediction,
  public.save_images, public.queue_status
  to service_role;
grant execute on function picture_queue.maintain to service_role;


-- 950_supabase_realtime.sql

-- Only where Realtime is: events become rows of realtime.messages, which the server sends after
-- commit. One insert for many; realtime.send(), a subtransaction each, where the insert is refused.
-- What goes wrong is a warning: an event is a hint and must never undo the change it announces.
do $do$
begin
  if to_regclass('realtime.messages') is null then
    return;
  end if;
  execute $sql$
    create or replace function picture_queue._broadcast(p_events picture_queue.event[]) returns void
    language plpgsql set search_path = ''
    as $$
    begin
      insert into realtime.messages (topic, extension, event, payload, private)
      select e.topic, 'broadcast', e.name, e.payload, true from unnest(p_events) e;
    exception
      when insufficient_privilege then
        perform realtime.send(e.payload, e.name, e.topic, true) from unnest(p_events) e;
      when others then
        raise warning 'picture_queue: no event was sent: %', sqlerrm;
    end
    $$;
    create policy "picture_queue: read own topics" on realtime.messages
      for select to authenticated
      using (extension = 'broadcast' and (select realtime.topic()) = 'pq:user:' || (select auth.uid())::text);
  $sql$;
end
$do$;


-- 960_supabase_storage.sql

-- Only where Storage is: the private bucket of the pictures, in which users read their own folder.
do $do$
begin
  if to_regclass('storage.buckets') is null then
    return;
  end if;
  execute $sql$
    insert into storage.buckets (id, name, public) values ('pictures', 'pictures', false) on conflict do nothing;
    create policy "picture_queue: read own pictures" on storage.objects
      for select to authenticated
      using (bucket_id = 'pictures' and (storage.foldername(name))[1] = (select auth.uid())::text);
  $sql$;
end
$do$;


-- 970_pg_cron.sql

-- Schedules the maintenance where pg_cron is; call it again after installing pg_cron.
create function picture_queue.schedule_maintenance() returns text
language plpgsql set search_path = ''
as $$
begin
  if to_regproc('cron.schedule') is null and not exists (
    select from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'cron' and p.proname = 'schedule')
  then
    return 'pg_cron is not installed';
  end if;
  execute $sql$ select cron.schedule('process-job-queue', '* * * * *', 'select picture_queue.maintain()') $sql$;
  return 'scheduled';
end
$$;
revoke execute on function picture_queue.schedule_maintenance from public, anon, authenticated, service_role;
select picture_queue.schedule_maintenance();


-- The API learns of the new functions.
notify pgrst, 'reload schema';
