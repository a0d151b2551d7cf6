begin;
select plan(5);

select throws_like($$ select set_limit('k', 0) $$, 'PQ_INVALID_ARGUMENT%', 'a limit of zero is refused');
select throws_like($$ select set_limit('k') $$, 'PQ_INVALID_ARGUMENT%', 'a limit without a number or rate is refused');
select throws_like($$ select set_limit('k', rate => 5) $$, 'PQ_INVALID_ARGUMENT%', 'a rate without a period is refused');
select throws_like($$ select set_limit('', 1) $$, 'PQ_INVALID_ARGUMENT%', 'an empty key is refused');
select throws_like($$ select delete_limit('key:without:limit') $$, 'PQ_UNKNOWN_LIMIT%', 'a missing limit cannot be deleted');

select * from finish();
rollback;
