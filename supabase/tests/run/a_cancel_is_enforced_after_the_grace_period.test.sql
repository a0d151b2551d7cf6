begin;
select plan(2);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select cancel_job('00000000-0000-0000-0000-000000000001');
-- Set the clock of picture-queue 31 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '31 seconds' $$;
select is((select heartbeat_jobs('w', jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id))) -> 'lost' from claimed),
  '["00000000-0000-0000-0000-000000000001"]', 'the worker loses the lease');
select picture_queue.maintain();
select is((select status from job_queue where id = '00000000-0000-0000-0000-000000000001'), 'cancelled', 'the job is cancelled');

select * from finish();
rollback;
