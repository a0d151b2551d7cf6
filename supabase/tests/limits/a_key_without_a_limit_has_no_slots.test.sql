begin;
select plan(3);

select enqueue_job('t', queue => 'q', options => '{"limit_keys": ["k"]}');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select slots from job_queue where id in (select id from claimed)), null, 'the job occupies no slot');
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is((select count(*) from picture_queue.limit_key where key = 'k'), 0::bigint, 'no running jobs are counted');
select is((select count(*) from picture_queue.freed_key where key = 'k'), 0::bigint, 'no slot is released');

select * from finish();
rollback;
