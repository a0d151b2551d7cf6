begin;
select plan(2);

select set_queue('q', '{"fair_share": true}');
select set_tenant('heavy', 3);
select enqueue_jobs((select jsonb_agg(jsonb_build_object('job_type', 't', 'queue', 'q', 'payload', jsonb_build_object('tenant', tenant), 'options', jsonb_build_object('tenant', tenant)))
  from generate_series(1, 100), (values ('heavy'), ('light')) as v (tenant)));
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 40))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed where payload ->> 'tenant' = 'heavy') between 29 and 31, true, 'the heavy tenant gets about 30 of 40 jobs');
select throws_like($$ select set_tenant('x', 0) $$, 'PQ_INVALID_ARGUMENT%', 'a weight of zero is refused');

select * from finish();
rollback;
