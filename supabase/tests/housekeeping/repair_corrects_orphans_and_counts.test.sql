begin;
select plan(3);

-- A key that counts a running job, and a count of 7 pending jobs, without any job.
insert into picture_queue.limit_key (key, running) values ('k', 1);
insert into picture_queue.depth_change values ('q', 'pending', null, 7, now());
select is((select f ->> 'remedy' from jsonb_array_elements(queue_doctor()) f where f ->> 'check' = 'orphans'), 'select picture_queue.repair();', 'the doctor finds an orphan and names the remedy');
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'check' = 'counts'), 'bad', 'a wrong count is found');
select picture_queue.repair();
select is((select count(*) from jsonb_array_elements(queue_doctor()) f where f ->> 'check' in ('orphans', 'counts') and f ->> 'verdict' <> 'ok'), 0::bigint, 'the repair corrects the orphan and the count');

select * from finish();
rollback;
