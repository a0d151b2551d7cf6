begin;
select plan(1);

select throws_like($$ select enqueue_job('t', options => '{"depends_on": ["00000000-0000-0000-0000-000000000001"]}') $$, 'PQ_UNKNOWN_DEPENDENCY%', 'a missing parent is refused');

select * from finish();
rollback;
