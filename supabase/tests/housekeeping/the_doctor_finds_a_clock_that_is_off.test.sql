begin;
select plan(2);

select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor(now() - interval '1 hour')) f where f ->> 'check' = 'clock'), 'bad', 'an hour');
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor(clock_timestamp())) f where f ->> 'check' = 'clock'), 'ok', 'none');

select * from finish();
rollback;
