begin;
select plan(3);

select enqueue_job('t', queue => 'q') from generate_series(1, 2);
select is(
  claim_jobs('w', '{q}', '{t}', 1, 30, '00000000-0000-0000-0000-000000000001'),
  claim_jobs('w', '{q}', '{t}', 1, 30, '00000000-0000-0000-0000-000000000001'), 'a repeated claim returns the same jobs');
create temp table claimed as select id, lease_id from job_queue where status = 'processing';
select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) from claimed;
select is((select report_jobs(jsonb_agg(jsonb_build_object('job_id', id, 'lease_id', lease_id, 'outcome', 'completed'))) #>> '{outcomes,0,outcome}' from claimed),
  'repeated', 'a repeated report is recognised');
select is((select count(*) from job_queue where queue = 'q' and status = 'pending'), 1::bigint, 'the other job is unchanged');

select * from finish();
rollback;
