begin;
select plan(3);

select enqueue_job('no-handler', queue => 'q');
update job_queue set created_at = now() - interval '1 hour' where queue = 'q';
select matches((select f ->> 'detail' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like 'queue q:%'), 'no worker for job type no-handler', 'a job type without a worker is named');
select pause_queue('q');
select matches((select f ->> 'remedy' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like 'queue q:%'), 'resume_queue', 'the remedy for a paused queue is to resume it');
insert into job_queue (job_type, queue, status, lease_expires_at) values ('t', 'q', 'processing', now() - interval '1 hour');
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%lease that expired%'), 'bad', 'an expired lease that was not swept is bad');

select * from finish();
rollback;
