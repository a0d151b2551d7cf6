begin;
select plan(3);

insert into job_queue (id, job_type, status, finished_at, error) values ('00000000-0000-0000-0000-000000000001', 't', 'failed', now(), 'no');
select enqueue_batch('[{"job_type": "t", "queue": "q"}, {"job_type": "t", "queue": "q", "options": {"depends_on": ["00000000-0000-0000-0000-000000000001"]}}]',
  '{"job_type": "c", "queue": "q"}', '00000000-0000-0000-0000-000000000002');
select is(get_batch('00000000-0000-0000-0000-000000000002') ->> 'total', '2', 'the batch has both jobs');
select is(get_batch('00000000-0000-0000-0000-000000000002') ->> 'cancelled', '1', 'one job is cancelled');
select is(get_batch('00000000-0000-0000-0000-000000000002') ->> 'finished_at', null, 'the batch has not finished');

select * from finish();
rollback;
