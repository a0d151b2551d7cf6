begin;
select plan(3);

insert into picture_queue.limit_key (key, running) values ('k', 1);
insert into picture_queue.depth_change values ('q', 'pending', null, 7, now());
select is((select f ->> 'remedy' from jsonb_array_elements(queue_doctor()) f where f ->> 'check' = 'orphans'), 'select picture_queue.repair();', 'an orphan');
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'check' = 'counts'), 'bad', 'and a count');
select picture_queue.repair();
select is((select count(*) from jsonb_array_elements(queue_doctor()) f where f ->> 'check' in ('orphans', 'counts') and f ->> 'verdict' <> 'ok'), 0::bigint, 'are put right');

select * from finish();
rollback;
