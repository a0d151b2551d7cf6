begin;
select plan(5);

select throws_like($$ select set_schedule('s', '{"cron": "61 * * * *", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'minute 61 is refused');
select throws_like($$ select set_schedule('s', '{"cron": "* * *", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'too few fields are refused');
select throws_like($$ select set_schedule('s', '{"cron": "0 0 30 2 *", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'an expression that matches no time is refused');
select throws_like($$ select set_schedule('s', '{"cron": "@daily", "timezone": "CEST+2", "job_type": "t"}') $$, 'PQ_INVALID_CRON%', 'an unknown time zone is refused');
select throws_like($$ select run_schedule('nobody') $$, 'PQ_UNKNOWN_SCHEDULE%', 'an unknown schedule cannot run');

select * from finish();
rollback;
