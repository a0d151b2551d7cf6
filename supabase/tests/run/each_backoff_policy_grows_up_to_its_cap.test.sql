begin;
select plan(4);

-- Returns the delay after an attempt of a job with this backoff.
create function pg_temp.delay(p_attempt bigint, p_policy text, p_base integer, p_cap integer, p_jitter numeric default 0) returns real
language sql as $$
  select picture_queue._backoff_of(jsonb_populate_record(null::job_queue, jsonb_build_object('attempt', p_attempt, 'backoff',
    jsonb_build_object('policy', p_policy, 'base_seconds', p_base, 'cap_seconds', p_cap, 'jitter', p_jitter))))
$$;
select is(array(select pg_temp.delay(n, 'constant', 5, 100) from generate_series(1, 4) n), '{5,5,5,5}'::real[], 'constant delays are equal');
select is(array(select pg_temp.delay(n, 'linear', 5, 100) from generate_series(1, 4) n), '{5,10,15,20}'::real[], 'linear delays grow by the base');
select is(array(select pg_temp.delay(n, 'exponential', 5, 30) from generate_series(1, 4) n), '{5,10,20,30}'::real[], 'exponential delays double up to the cap');
select ok((select bool_and(pg_temp.delay(1, 'constant', 10, 100, 0.2) between 8 and 12) from generate_series(1, 200)), 'jitter shortens or lengthens a delay');

select * from finish();
rollback;
