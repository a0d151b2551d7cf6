begin;
select plan(1);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001', options => '{"timeout_seconds": 5}');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
-- Set the clock of picture-queue 36 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '36 seconds' $$;
select is((select heartbeat_jobs('w', jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id))) -> 'lost' from claimed),
  '["00000000-0000-0000-0000-000000000001"]', 'the lease is lost after timeout and grace period');

select * from finish();
rollback;
