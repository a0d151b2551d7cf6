begin;
select plan(4);

select set_queue('q', '{"max_attempts": 7}');
select enqueue_job('t', queue => 'q');
select is((select max_attempts from job_queue where queue = 'q'), 7, 'an enqueue uses the policy of the queue');
select set_queue('q', '{"max_attempts": null}');
select is(set_queue('q') ->> 'max_attempts', null, 'null resets the policy to the default');
select throws_like($$ select set_queue('q', '{"max_attempts": 0}') $$, 'PQ_INVALID_ARGUMENT%', 'a value out of range is refused');
select throws_like($$ select set_queue('q', '{"colour": 1}') $$, 'PQ_INVALID_ARGUMENT%', 'an unknown policy is refused');

select * from finish();
rollback;
