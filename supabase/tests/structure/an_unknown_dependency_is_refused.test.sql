begin;
select plan(1);

select throws_like($$ select enqueue_job('t', options => '{"depends_on": ["00000000-0000-0000-0000-000000000001"]}') $$, 'PQ_UNKNOWN_DEPENDENCY%', 'no such job');

select * from finish();
rollback;
