begin;
select plan(3);

select enqueue_job('t', queue => 'q', job_id => '00000000-0000-0000-0000-000000000001');
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 1))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select log_job(id, lease_id, (select jsonb_agg(jsonb_build_object('level', 'info', 'message', n::text)) from generate_series(1, 300) n)) ->> 'kept' from claimed),
  '200', '200 lines are kept');
select is(get_job_history('00000000-0000-0000-0000-000000000001') #>> '{log,-1,message}', '300', 'the last lines are kept');
select throws_like(format('select log_job(%L, %L, ''[{"level": "loud", "message": "x"}]'')', id, lease_id), 'PQ_INVALID_ARGUMENT%', 'an unknown level is refused') from claimed;

select * from finish();
rollback;
