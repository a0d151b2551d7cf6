begin;
select plan(2);

select enqueue_job('p', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000002', options => '{"depends_on": ["00000000-0000-0000-0000-000000000001"]}');
select cancel_job('00000000-0000-0000-0000-000000000002');
select retry_job('00000000-0000-0000-0000-000000000002');
select is((select hold from job_queue where id = '00000000-0000-0000-0000-000000000002'), 'waiting', 'the retried child waits');
select is(claim_jobs('w', '{q}', '{t}', 1), '[]', 'the waiting child is not claimed');

select * from finish();
rollback;
