begin;
select plan(3);

select is(
  enqueue_job('t', '{"n": 1}', 0, 'q', idempotency_key => 'k'),
  enqueue_job('t', '{"n": 2}', 0, 'q', idempotency_key => 'k'), 'the same key returns the same id');
select is((select payload ->> 'n' from job_queue where queue = 'q'), '1', 'the first payload is kept');
select isnt(
  enqueue_job('t', '{}', 0, 'q', idempotency_key => 'k'),
  enqueue_job('other', '{}', 0, 'q', idempotency_key => 'k'), 'the same key of another job type creates another job');

select * from finish();
rollback;
