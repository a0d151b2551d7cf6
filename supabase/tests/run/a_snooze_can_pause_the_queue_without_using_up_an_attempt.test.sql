begin;
select plan(3);

select enqueue_job('t', queue => 'q') from generate_series(1, 2);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'snoozed') || '{"delay_seconds": 60, "pause_key": "queue:q"}')) from claimed;
select picture_queue.maintain();
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'no job of the queue is claimed during the pause');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select picture_queue.maintain();
create temp table claimed_later as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed_later), 2::bigint, 'both jobs are claimed after the pause');
select is((select max(attempt) from claimed_later), 1, 'the snooze did not count as an attempt of either job');

select * from finish();
rollback;
