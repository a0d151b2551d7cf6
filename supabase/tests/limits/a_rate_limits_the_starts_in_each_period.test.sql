begin;
select plan(4);

select set_limit('api:x', rate => 2, period_seconds => 60);
select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["api:x"]}') from generate_series(1, 5);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed), 2::bigint, 'two jobs start');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'jobs that ended count too');
-- Set the clock of picture-queue 59 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '59 seconds' $$;
select picture_queue.maintain();
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'ended jobs count for the whole period');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select picture_queue.maintain();
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}', 10)), 2, 'after the period two more jobs start');

select * from finish();
rollback;
