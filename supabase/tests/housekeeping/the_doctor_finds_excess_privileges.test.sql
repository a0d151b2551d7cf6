begin;
select plan(2);

grant select on picture_queue.setting to anon;
select is((select f ->> 'remedy' from jsonb_array_elements(queue_doctor()) f where f ->> 'check' = 'privileges' and f ->> 'detail' like '%anon%setting'), 'revoke all on picture_queue.setting from anon;', 'the remedy revokes the privilege on the table');
grant execute on function enqueue_job to anon;
select is((select f ->> 'verdict' from jsonb_array_elements(queue_doctor()) f where f ->> 'detail' like 'anon may execute %enqueue_job(%'), 'bad', 'a function that anon may execute is bad');

select * from finish();
rollback;
