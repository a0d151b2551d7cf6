begin;
select plan(2);

select set_queue('q', '{"fair_share": true}');
select enqueue_jobs((select jsonb_agg('{"job_type": "t", "queue": "q", "options": {"tenant": "a"}}'::jsonb) from generate_series(1, 100)));
select enqueue_jobs((select jsonb_agg('{"job_type": "t", "queue": "q", "payload": {"b": 1}, "options": {"tenant": "b"}}'::jsonb) from generate_series(1, 5)));
create temp table claimed as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 11))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from claimed where payload ? 'b'), 5::bigint, 'the second tenant does not wait for 100 jobs of the first');
create temp table next_claim as
select * from jsonb_to_recordset(claim_jobs('w', '{q}', '{t}', 10))
  as j (id uuid, lease_id uuid, attempt integer, payload jsonb, event jsonb, cancel_requested_at timestamptz);
select is((select count(*) from next_claim), 10::bigint, 'the first tenant gets the next jobs');

select * from finish();
rollback;
