begin;
select plan(6);

set local role authenticated;
select set_config('request.jwt.claims', '{"role": "authenticated", "sub": "00000000-0000-0000-0000-0000000000a1"}', true);
select throws_ok($$ select enqueue_job('t') $$, '42501', null, 'a user cannot enqueue a job');
select throws_ok($$ select claim_jobs('w', '{q}', '{t}') $$, '42501', null, 'a user cannot claim jobs');
select throws_ok($$ select set_limit('k', 1) $$, '42501', null, 'a user cannot set a limit');
select throws_ok($$ select change_jobs('discard', '{"status": "failed"}') $$, '42501', null, 'a user cannot change jobs');
select throws_ok($$ select picture_queue._enqueue('[]') $$, '42501', null, 'a user cannot call a private function');
select throws_ok($$ delete from job_queue $$, '42501', null, 'a user cannot write the table');
reset role;

select * from finish();
rollback;
