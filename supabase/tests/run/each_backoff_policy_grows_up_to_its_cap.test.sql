begin;
select plan(4);

select is(array(select picture_queue._backoff(n, 'constant', 5, 100, 0) from generate_series(1, 4) n), '{5,5,5,5}'::real[], 'constant delays are equal');
select is(array(select picture_queue._backoff(n, 'linear', 5, 100, 0) from generate_series(1, 4) n), '{5,10,15,20}'::real[], 'linear delays grow by the base');
select is(array(select picture_queue._backoff(n, 'exponential', 5, 30, 0) from generate_series(1, 4) n), '{5,10,20,30}'::real[], 'exponential delays double up to the cap');
select ok((select bool_and(picture_queue._backoff(1, 'constant', 10, 100, 0.2) between 8 and 12) from generate_series(1, 200)), 'jitter shortens or lengthens a delay');

select * from finish();
rollback;
