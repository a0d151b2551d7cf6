begin;
select plan(2);

select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor(now() - interval '1 hour')) f where f ->> 'check' = 'clock'), 'bad', 'a clock that is an hour behind is bad');
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor(clock_timestamp())) f where f ->> 'check' = 'clock'), 'ok', 'a clock without a difference is ok');

select * from finish();
rollback;
