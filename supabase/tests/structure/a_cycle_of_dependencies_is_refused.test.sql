begin;
select plan(2);

select throws_like($$ select enqueue_jobs('[{"job_type": "t", "job_id": "00000000-0000-0000-0000-000000000001", "options": {"depends_on": ["00000000-0000-0000-0000-000000000002"]}}, {"job_type": "t", "job_id": "00000000-0000-0000-0000-000000000002", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}}]') $$, 'PQ_CYCLE%', 'two jobs that depend on each other are refused');
select throws_like($$ select enqueue_job('t', job_id => '00000000-0000-0000-0000-000000000001', options => '{"depends_on": ["00000000-0000-0000-0000-000000000001"]}') $$, 'PQ_CYCLE%', 'a job that depends on itself is refused');

select * from finish();
rollback;
