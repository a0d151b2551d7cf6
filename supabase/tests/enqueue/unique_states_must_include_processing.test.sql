begin;
select plan(1);

select throws_like($$ select enqueue_job('t', options => '{"unique": {"states": ["pending", "completed"]}}') $$, 'PQ_INVALID_ARGUMENT%', 'states without processing are refused');

select * from finish();
rollback;
