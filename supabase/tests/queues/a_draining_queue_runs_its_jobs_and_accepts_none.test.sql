begin;
select plan(3);

select enqueue_job('t', queue => 'q');
select drain_queue('q');
select throws_like($$ select enqueue_job('t', queue => 'q') $$, 'PQ_QUEUE_DRAINING%', 'a new job is refused');
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}')), 1, 'the existing job runs');
select resume_queue('q');
select lives_ok($$ select enqueue_job('t', queue => 'q') $$, 'a resume ends the draining');

select * from finish();
rollback;
