begin;
select plan(3);

select enqueue_job('t', queue => 'brand-new');
select ok(exists (select from picture_queue.queue where name = 'brand-new'), 'an enqueue creates the queue');
select set_setting('{"unknown_queue": "refuse"}');
select throws_like($$ select enqueue_job('t', queue => 'brand-newer') $$, 'PQ_UNKNOWN_QUEUE%', 'the setting refuses unknown queues');
select lives_ok($$ select enqueue_job('t', queue => 'brand-new') $$, 'an existing queue accepts jobs');

select * from finish();
rollback;
