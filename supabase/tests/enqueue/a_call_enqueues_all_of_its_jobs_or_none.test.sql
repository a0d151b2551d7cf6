begin;
select plan(3);

select throws_like(
  $$ select enqueue_jobs('[{"job_type": "t", "queue": "q"}, {"job_type": "t", "queue": "q", "payload": [1]}]') $$,
  'PQ_INVALID_ARGUMENT%', 'an invalid second job is refused');
select is((select count(*) from job_queue where queue = 'q'), 0::bigint, 'the valid first job is not enqueued');
select throws_matching($$ select enqueue_jobs('{}') $$, 'PQ_INVALID_ARGUMENT', 'an object instead of a list is refused');

select * from finish();
rollback;
