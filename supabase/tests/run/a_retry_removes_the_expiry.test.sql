begin;
select plan(2);

insert into job_queue (id, job_type, queue, expires_at) values ('00000000-0000-0000-0000-000000000001', 't', 'default', now() - interval '1 second');
select picture_queue.maintain();
select is((select status from job_queue where id = '00000000-0000-0000-0000-000000000001'), 'failed', 'the expired job has failed');
select retry_job('00000000-0000-0000-0000-000000000001');
select is(jsonb_array_length(claim_jobs('w', '{default}', '{t}', 1)), 1, 'the retried job is claimed');

select * from finish();
rollback;
