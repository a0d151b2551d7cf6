begin;
select plan(2);

select enqueue_job('t', queue => 'q');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed') || '{"result": {"path": "a.png"}}')) from claimed;
select is((select result from job_queue where queue = 'q'), '{"path": "a.png"}'::jsonb, 'the result is stored');
select is((select progress from job_queue where queue = 'q'), 100::smallint, 'the progress is 100');

select * from finish();
rollback;
