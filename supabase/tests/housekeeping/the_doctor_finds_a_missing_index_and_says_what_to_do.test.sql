begin;
select plan(3);

select ok((select bool_and(f ? 'check' and f ? 'verdict' and f ? 'detail' and f ? 'remedy') from jsonb_array_elements(queue_doctor()) f), 'each finding is whole');
drop index job_queue_parked;
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%job_queue_parked%'), 'bad', 'found');
select matches((select f ->> 'remedy' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like '%job_queue_parked%'), '^create index', 'with the statement');

select * from finish();
rollback;
