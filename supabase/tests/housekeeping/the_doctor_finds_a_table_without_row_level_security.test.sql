begin;
select plan(1);

alter table picture_queue.slot disable row level security;
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%slot has no row level security'), 'bad', 'found');

select * from finish();
rollback;
