begin;
select plan(1);

savepoint s;
select enqueue_job('t', queue => 'q');
rollback to s;
select is((select count(*) from job_queue where queue = 'q'), 0::bigint, 'a rolled back enqueue leaves no job');

select * from finish();
rollback;
