begin;
select plan(3);

select throws_like(
  $$ select enqueue_jobs('[{"job_type": "t", "queue": "q"}, {"job_type": "t", "queue": "q", "payload": [1]}]') $$,
  'PQ_INVALID_ARGUMENT%', 'the second is refused');
select is((select count(*) from job_queue where queue = 'q'), 0::bigint, 'so the first is not there');
select throws_matching($$ select enqueue_jobs('{}') $$, 'PQ_INVALID_ARGUMENT', 'what is no list is refused');

select * from finish();
rollback;
