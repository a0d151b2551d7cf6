begin;
select plan(3);

select enqueue_job('t', queue => 'q', options => '{"expires_in_seconds": 60}');
-- Set the clock of picture-queue 61 seconds ahead.
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'an expired job is not claimed');
select picture_queue.maintain();
select is((select status from job_queue where queue = 'q'), 'failed', 'an expired job fails');
select matches((select error from job_queue where queue = 'q'), 'expired', 'the error names the expiry');

select * from finish();
rollback;
