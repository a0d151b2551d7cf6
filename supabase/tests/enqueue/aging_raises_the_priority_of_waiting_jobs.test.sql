begin;
select plan(1);

select set_queue('q', '{"aging_seconds": 10}');
select enqueue_job('t', '{"n": 1}', 0, 'q');
-- Set the clock of picture-queue 51 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '51 seconds' $$;
select enqueue_job('t', '{"n": 2}', 4, 'q');
select enqueue_job('t', '{"n": 3}', 9, 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select array_agg(payload ->> 'n') from claimed), '{3,1,2}'::text[], '51 seconds of waiting raise the priority by 5: above 4, below 9');

select * from finish();
rollback;
