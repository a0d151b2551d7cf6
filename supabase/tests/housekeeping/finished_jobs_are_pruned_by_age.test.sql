begin;
select plan(2);

select enqueue_job('t', queue => 'q') from generate_series(1, 3);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select picture_queue.maintain();
select is((select count(*) from job_queue where queue = 'q'), 3::bigint, 'finished jobs are kept at first');
-- Set the clock of picture-queue 8 days ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '8 days' $$;
select picture_queue.maintain();
select is((select count(*) from job_queue where queue = 'q'), 0::bigint, 'finished jobs are pruned after a week');

select * from finish();
rollback;
