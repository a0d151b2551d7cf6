begin;
select plan(1);

select enqueue_jobs('[{"job_type": "p", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000001"},
  {"job_type": "t", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000002", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}},
  {"job_type": "t", "queue": "q", "job_id": "00000000-0000-0000-0000-000000000003", "options": {"depends_on": ["00000000-0000-0000-0000-000000000002"]}}]');
select cancel_job('00000000-0000-0000-0000-000000000001');
select is((select count(*) from job_queue where queue = 'q' and status = 'cancelled'), 3::bigint, 'the child and the grandchild are cancelled too');

select * from finish();
rollback;
