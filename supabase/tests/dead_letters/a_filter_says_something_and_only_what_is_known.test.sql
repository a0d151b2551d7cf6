begin;
select plan(3);

select throws_like($$ select change_jobs('discard', '{}') $$, 'PQ_INVALID_ARGUMENT%', 'every job is not meant');
select throws_like($$ select list_jobs('{"colour": 1}') $$, 'PQ_INVALID_ARGUMENT%', 'an unknown part');
select throws_like($$ select change_jobs('burn', '{"queue": "q"}') $$, 'PQ_INVALID_ARGUMENT%', 'an unknown action');

select * from finish();
rollback;
