begin;
select plan(5);

select throws_like($$ select set_limit('k', 0) $$, 'PQ_INVALID_ARGUMENT%', 'zero');
select throws_like($$ select set_limit('k') $$, 'PQ_INVALID_ARGUMENT%', 'neither number nor rate');
select throws_like($$ select set_limit('k', rate => 5) $$, 'PQ_INVALID_ARGUMENT%', 'a rate without period');
select throws_like($$ select set_limit('', 1) $$, 'PQ_INVALID_ARGUMENT%', 'no key');
select throws_like($$ select delete_limit('nobody:set:this') $$, 'PQ_UNKNOWN_LIMIT%', 'and what is not there cannot be deleted');

select * from finish();
rollback;
