begin;
select plan(4);

select set_queue('q', '{"max_attempts": 7}');
select enqueue_job('t', queue => 'q');
select is((select max_attempts from job_queue where queue = 'q'), 7, 'taken at enqueue');
select set_queue('q', '{"max_attempts": null}');
select is(set_queue('q') ->> 'max_attempts', null, 'null is the default again');
select throws_like($$ select set_queue('q', '{"max_attempts": 0}') $$, 'PQ_INVALID_ARGUMENT%', 'what is out of range is refused');
select throws_like($$ select set_queue('q', '{"colour": 1}') $$, 'PQ_INVALID_ARGUMENT%', 'and what is not known');

select * from finish();
rollback;
