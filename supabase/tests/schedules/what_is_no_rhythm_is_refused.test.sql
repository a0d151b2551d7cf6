begin;
select plan(5);

select throws_like($$ select set_schedule('s', '{"cron": "61 * * * *", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'a minute that is none');
select throws_like($$ select set_schedule('s', '{"cron": "* * *", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'too few fields');
select throws_like($$ select set_schedule('s', '{"cron": "0 0 30 2 *", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'a day that never comes');
select throws_like($$ select set_schedule('s', '{"cron": "@daily", "timezone": "CEST+2", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'no such zone');
select throws_like($$ select run_schedule('nobody') $$, 'PQ_UNKNOWN_SCHEDULE%', 'an unknown schedule');

select * from finish();
rollback;
