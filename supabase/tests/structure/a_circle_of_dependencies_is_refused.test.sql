begin;
select plan(2);

select throws_like($$ select enqueue_jobs('[{"job_type": "t", "job_id": "00000000-0000-0000-0000-000000000001", "options": {"depends_on": ["00000000-0000-0000-0000-000000000002"]}}, {"job_type": "t", "job_id": "00000000-0000-0000-0000-000000000002", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}}]') $$, 'PQ_CYCLE%', 'two that wait for each other');
select throws_like($$ select enqueue_job('t', job_id => '00000000-0000-0000-0000-000000000001', options => '{"depends_on": ["00000000-0000-0000-0000-000000000001"]}') $$, 'PQ_CYCLE%', 'one that waits for itself');

select * from finish();
rollback;
