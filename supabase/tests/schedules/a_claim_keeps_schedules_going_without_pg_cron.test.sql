begin;
select plan(1);

select set_schedule('s', '{"every_seconds": 60, "job_type": "t", "queue": "q"}');
create or replace function picture_queue._now() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$ select clock_timestamp() + interval '61 seconds' $$;
select is(jsonb_array_length(claim_jobs('w', '{q}', '{t}')), 1, 'the worker that claims makes the job');

select * from finish();
rollback;
