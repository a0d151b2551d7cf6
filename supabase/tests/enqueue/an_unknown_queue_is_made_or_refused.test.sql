begin;
select plan(3);

select enqueue_job('t', queue => 'brand-new');
select ok(exists (select from picture_queue.queue where name = 'brand-new'), 'it is made');
select set_setting('{"unknown_queue": "refuse"}');
select throws_like($$ select enqueue_job('t', queue => 'brand-newer') $$, 'PQ_UNKNOWN_QUEUE%', 'it is refused where the setting says so');
select lives_ok($$ select enqueue_job('t', queue => 'brand-new') $$, 'a known one is taken');

select * from finish();
rollback;
