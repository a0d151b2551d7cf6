begin;
select plan(2);

select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select enqueue_job('t', queue => 'q', options => '{"delay_seconds": 10}');
-- Set the clock of picture-queue 40 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '40 seconds' $$;
select picture_queue.maintain();
select is((select count(*) from job_queue where queue = 'q' and status = 'pending' and hold is null), 2::bigint, 'both jobs are claimable');
select is((select max(attempt) from job_queue where queue = 'q'), 1, 'the attempt of the expired lease counts');

select * from finish();
rollback;
