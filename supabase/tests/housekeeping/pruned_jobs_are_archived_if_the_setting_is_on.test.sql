begin;
select plan(2);

select set_setting('{"archive": true}');
select enqueue_job('t', queue => 'q') from generate_series(1, 3);
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 3))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
-- Set the clock of picture-queue 8 days ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '8 days' $$;
select picture_queue.maintain();
select is((select count(*) from picture_queue.archive where queue = 'q'), 3::bigint, 'the pruned jobs are in the archive');
select ok((select bool_and(c.relrowsecurity) from pg_class c where c.relnamespace = 'picture_queue'::regnamespace and c.relname like 'archive%' and c.relkind in ('r', 'p')),
  'the archive has row level security');

select * from finish();
rollback;
