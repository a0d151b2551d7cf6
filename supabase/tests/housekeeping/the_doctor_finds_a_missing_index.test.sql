begin;
select plan(3);

select ok((select bool_and(f ? 'check' and f ? 'verdict' and f ? 'detail' and f ? 'remedy') from jsonb_array_elements(queue_doctor()) f), 'each finding has all fields');
drop index job_queue_parked;
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%job_queue_parked%'), 'bad', 'a missing index is bad');
select matches((select f ->> 'remedy' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%job_queue_parked%'), '^create index', 'the remedy creates the index');

select * from finish();
rollback;
