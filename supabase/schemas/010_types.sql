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
