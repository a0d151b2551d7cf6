begin;
select plan(3);

select enqueue_job('t', queue => 'q', options => '{"expires_in_seconds": 60}');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is(claim_jobs('w', '{q}', '{t}', 10), '[]', 'nobody gets it');
select picture_queue.maintain();
select is((select status from job_queue where queue = 'q'), 'failed', 'it has failed');
select matches((select error from job_queue where queue = 'q'), 'expired', 'and says why');

select * from finish();
rollback;
