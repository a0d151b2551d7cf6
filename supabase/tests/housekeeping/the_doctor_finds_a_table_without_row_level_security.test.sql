begin;
select plan(1);

alter table picture_queue.limit_key disable row level security;
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%limit_key has no row level security'), 'bad', 'a table without row level security is bad');

select * from finish();
rollback;
