begin;
select plan(3);

select enqueue_jobs('[{"job_type": "t", "queue": "q", "options": {"unique": {"period_seconds": 60}}}]');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is(enqueue_jobs('[{"job_type": "t", "queue": "q", "options": {"unique": {"period_seconds": 60}}}]') #>> '{0,outcome}',
  'created', 'a job is created after the period');
select enqueue_jobs('[{"job_type": "u", "queue": "q", "options": {"unique": {"states": ["pending"]}}}]');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{u}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is(enqueue_jobs('[{"job_type": "u", "queue": "q", "options": {"unique": {"states": ["pending"]}}}]') #>> '{0,outcome}',
  'created', 'a running job is not a duplicate if its states are only pending');
select throws_like($$ select enqueue_job('t', options => '{"unique": {"states": ["failed"]}}') $$, 'PQ_INVALID_ARGUMENT%', 'states without pending are refused');

select * from finish();
rollback;
