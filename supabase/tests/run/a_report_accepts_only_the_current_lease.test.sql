begin;
select plan(2);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid);
create temp table answer as select report_jobs(jsonb_build_array(
  jsonb_build_object('job_id', id, 'lease_id', gen_random_uuid(), 'outcome', 'completed'),
  jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) -> 'outcomes' as outcomes from claimed;
select is((select outcomes #>> '{0,outcome}' from answer), 'stale', 'another lease is stale');
select is((select outcomes #>> '{1,outcome}' from answer), 'ok', 'the current lease is accepted');

select * from finish();
rollback;
