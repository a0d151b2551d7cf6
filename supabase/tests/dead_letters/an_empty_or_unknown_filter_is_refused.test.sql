begin;
select plan(3);

select throws_like($$ select change_jobs('discard', '{}') $$, 'PQ_INVALID_ARGUMENT%', 'an empty filter is refused');
select throws_like($$ select list_jobs('{"colour": 1}') $$, 'PQ_INVALID_ARGUMENT%', 'an unknown field is refused');
select throws_like($$ select change_jobs('burn', '{"queue": "q"}') $$, 'PQ_INVALID_ARGUMENT%', 'an unknown action is refused');

select * from finish();
rollback;
