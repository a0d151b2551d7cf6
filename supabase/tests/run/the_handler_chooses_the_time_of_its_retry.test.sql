begin;
select plan(1);

select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'failed') || '{"error": "later", "run_at": "2100-01-01T00:00:00Z"}')) from claimed;
select is((select scheduled_for from job_queue where queue = 'q'), '2100-01-01T00:00:00Z'::timestamptz, 'the time of the handler replaces the backoff');

select * from finish();
rollback;
