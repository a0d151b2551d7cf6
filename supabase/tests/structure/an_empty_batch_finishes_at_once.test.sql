begin;
select plan(2);

select enqueue_batch('[]', '{"job_type": "done", "queue": "q"}', '00000000-0000-0000-0000-000000000001');
select is(get_batch('00000000-0000-0000-0000-000000000001') ->> 'progress', '100', 'the progress is 100 at once');
select is((select count(*) from job_queue where job_type = 'done'), 1::bigint, 'the callback is enqueued');

select * from finish();
rollback;
